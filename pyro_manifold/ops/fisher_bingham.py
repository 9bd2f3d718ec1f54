r"""The normaliser of all quadratic-exponential distributions on the sphere
:math:`S^{d-1}\subset\mathbb R^d`, d >= 2, with moments and derivatives.

In its principal axes such a density is, relative to its value at the mode and with rates :math:`c_1 \ge 0`,

.. math::
    e^{-q(x)}, \qquad q(x) = c_1 (1-x_1)^2 + \sum_{j\ge2} c_jx_j^2, \qquad e^{S(c)} = \int_{S^{d-1}} e^{-q}\,dS

The Kent density :math:`e^{\kappa x_1+\sum\beta_jx_j^2}` has :math:`c_1=\kappa/2`,
:math:`c_j=\kappa/2-\beta_j`; the von Mises-Fisher density has equal rates :math:`\kappa/2`; the Bingham density
has :math:`c_1 = 0` and as other rates the differences between its largest eigenvalue and the others. Through
quaternions the matrix Fisher distribution of SO(3) is a Bingham distribution. No term is of the order of
:math:`\kappa`, since q is of order 1 wherever there is mass: log densities, entropies and divergences are
accurate at every concentration.

S is a contour integral (:mod:`pyro_manifold.ops.fisher_bingham_contour`). Moments are averages over its nodes
s: given s, the coordinates :math:`x_j`, j >= 2, are independent normals with variance
:math:`\tfrac12(c_j+s)^{-1}`. Derivatives are as accurate as values: :math:`S` may be differentiated twice,
moments and entropies once."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .autograd import BatchFunction, OnceDifferentiable, Undifferentiable, differentiated, save_tensors
from .chunks import by_chunks
from .fisher_bingham_contour import NODES, contour
from .numpy_contour import NARROW, contour_moments
from .numpy_operator import by_numpy
from .quadrature import legendre
from .spherical import log_sphere_area
from .tracing import maybe_any

__all__ = [
    "FEW",
    "log_normalizer",
    "relative_moments",
    "relative_normalizer",
    "square_products",
    "uniform_divergence",
]

_CHUNK = 2**17  # rows * nodes * d at a time: smaller chunks pay for the calls, larger ones for page faults
FEW = 64  # rows up to which NumPy is faster (measured)


def _mean(weights: Tensor, f: Tensor) -> Tensor:
    """Averages over the nodes, ``(rows, d)``, of ``f`` of shape ``(d, rows, n)``."""
    return (weights * f).sum(-1).real.mT


def _chunked(f: Callable[..., tuple[Tensor, ...]], *rows: Tensor) -> tuple[Tensor, ...]:
    return by_chunks(f, NODES * rows[0].shape[-1], _CHUNK, *rows)


def _by_rows(f: Callable[..., tuple[Tensor, ...]], c: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """:func:`_chunked` for arguments ``batch + (d,)`` with the same batch shape."""
    batch, d = c.shape[:-1], c.shape[-1]
    rows = (x.reshape(-1, d) for x in others)
    return tuple(y.reshape(batch + y.shape[1:]) for y in _chunked(f, c.reshape(-1, d), *rows))


def _by_numpy(c: Tensor, also_moments: bool) -> tuple[Tensor, ...]:
    with np.errstate(all="ignore"):
        log, moments = contour_moments(np.ascontiguousarray(c.detach().numpy().T))
        found = (log, moments().T) if also_moments else (log,)
    return tuple(torch.from_numpy(np.ascontiguousarray(x)) for x in found)


def _is_few(c: Tensor) -> bool:
    return len(c) <= FEW and by_numpy(c)


def _values(c: Tensor) -> tuple[Tensor, ...]:
    if _is_few(c):
        return _by_numpy(c, False)
    return (contour(c).log,)


def _values_and_moments(c: Tensor) -> tuple[Tensor, ...]:
    if _is_few(c):
        return _by_numpy(c, True)
    k = contour(c)
    half = 0.5 * k.u
    moments = _mean(k.weights, half)
    first = moments[:, 0] + _mean(k.weights, k.w.square().unsqueeze(0))[:, 0]
    narrow = (moments[:, 1:].sum(-1) < NARROW) & (c[:, 0] > 25)
    if not maybe_any(narrow):
        return k.log, torch.cat([first.unsqueeze(-1), moments[:, 1:]], -1)
    # where all mass is near the mode, ``first`` loses digits by cancellation; there use
    # (1 - x_1)^2 = q^2/4 + q^3/8 + ..., where q is the sum of the squares of the other coordinates
    others = half[1:]
    square, cube = (2 * others.square()).sum(0), (8 * others.pow(3)).sum(0)
    mean = others.sum(0)
    q2 = _mean(k.weights, (mean.square() + square).unsqueeze(0))[:, 0]
    q3 = _mean(k.weights, (mean * mean.square() + 3 * mean * square + cube).unsqueeze(0))[:, 0]
    first = torch.where(narrow, q2 / 4 + q3 / 8, first)
    return k.log, torch.cat([first.unsqueeze(-1), moments[:, 1:]], -1)


def _slopes(c: Tensor, g: Tensor) -> tuple[Tensor, ...]:
    """Gradient in c of ``g.E[((1 - x_1)^2, x_2^2, ...)]``, from the derivatives of the moments given each
    node and of the weights of the nodes."""
    k = contour(c)
    g = g.mT.unsqueeze(-1)
    statistics = 0.5 * k.u
    squared = k.w.square()
    statistics = torch.cat([statistics[:1] + squared, statistics[1:]])
    q = (g * statistics).sum(0)
    q = q - (k.weights * q).sum(-1, keepdim=True).real
    change = -0.5 * (g * k.u) * k.u  # in this order, since squares of 1e-300 underflow
    change = torch.cat([change[:1] - 2 * g[:1] * squared * k.u[:1], change[1:]])
    return (_mean(k.weights, change - q * statistics),)


class _Moments(BatchFunction):
    """c -> (S, E((1 - x_1)^2, x_2^2, ...)). The gradient of S is minus the moments; the Jacobian of the
    moments is symmetric."""

    ranks = (1,)

    @staticmethod
    def forward(c: Tensor) -> tuple[Tensor, ...]:
        return _by_rows(_values_and_moments, c)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, ...]) -> None:
        save_tensors(ctx, *inputs, output[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        c, moments = ctx.saved_tensors
        return -(tangent * moments).sum(-1), _Slopes.apply(c, tangent)

    @staticmethod
    def backward(ctx: Any, g0: Tensor | None, g: Tensor | None) -> Tensor | None:  # type: ignore[override]
        c, moments = ctx.saved_tensors
        out = None if g is None else _Slopes.apply(c, g)
        if g0 is None:
            return out
        value = -g0.unsqueeze(-1) * moments
        return value if out is None else out + value


class _Slopes(Undifferentiable):
    ranks = (1, 1)
    limit = "log C of a Fisher-Bingham distribution has derivatives up to the second order here, no third."

    @staticmethod
    def forward(c: Tensor, g: Tensor) -> Tensor:
        return _by_rows(_slopes, c, g)[0]


class _UniformDivergence(OnceDifferentiable):
    r"""The divergence :math:`\log|S^{d-1}| - S - c\cdot m` from the uniform distribution, where m are the
    moments, and its gradient, minus that of :math:`c\cdot m(c')` in c' at c' = c.

    For small rates it is computed as the integral :math:`\int_0^1 t\,\mathrm{Var}_{tc}(q)\,dt` along the ray
    from 0 to c."""

    ranks = (1,)

    @staticmethod
    def forward(c: Tensor) -> tuple[Tensor, Tensor]:
        batch, d = c.shape[:-1], c.shape[-1]
        c = c.reshape(-1, d)
        log, moments = _chunked(_values_and_moments, c)
        value = log_sphere_area(d - 1) - log - (c * moments).sum(-1)
        i = (c.abs().amax(-1) < 1).nonzero(as_tuple=True)
        near = c[i]
        x, weight = legendre(8, c.device)
        nodes = (x.unsqueeze(-1) * near).reshape(-1, d)
        slopes = _chunked(_slopes, nodes, near.repeat(len(x), 1))[0].reshape((len(x),) + near.shape)
        variance = -(slopes * near).sum(-1)
        value[i] = (weight * x * variance).sum(0)
        return value.reshape(batch), -_chunked(_slopes, c, c)[0].reshape(batch + (d,))


def _checked(c: Tensor) -> Tensor:
    if c.dim() < 1 or c.shape[-1] < 2:
        raise ValueError(
            f"rates: got shape {tuple(c.shape)}, expected (..., d) with d >= 2, the ambient dimension."
        )
    return c.double()


def relative_moments(c: Tensor) -> tuple[Tensor, Tensor]:
    r""":math:`S(c)` and the means of :math:`(1-x_1)^2, x_2^2, \dots, x_d^2`, in float64.

    :param Tensor c: rates, shape ``batch + (d,)``; the first must not be negative.

    >>> log, moments = relative_moments(torch.zeros(3))
    >>> log, moments  # log 4 pi; 1 + 1/3
    (tensor(2.5310, dtype=torch.float64), tensor([1.3333, 0.3333, 0.3333], dtype=torch.float64))
    """
    return _Moments.apply(_checked(c))


def relative_normalizer(c: Tensor) -> Tensor:
    r""":math:`S(c)`, twice differentiable. If no gradient is needed it takes half as long as
    :func:`relative_moments`.

    >>> relative_normalizer(torch.full((3,), 0.5e300, dtype=torch.float64))  # log 2 pi - log 1e300
    tensor(-688.9377, dtype=torch.float64)
    """
    c = _checked(c)
    return _Moments.apply(c)[0] if differentiated(c) else _by_rows(_values, c)[0]


def log_normalizer(lam: Tensor, kappa: Tensor | None = None) -> Tensor:
    r""":math:`\log\int e^{\kappa x_1-\sum_i l_i x_i^2}dS`, shape ``batch``.

    :param Tensor lam: l, of either sign, shape ``batch + (d,)``.
    :param Tensor kappa: nonnegative, shape ``batch``; 0 if omitted.

    >>> log_normalizer(torch.zeros(4))  # log 2 pi^2
    tensor(2.9826)
    """
    k = lam.new_zeros(()).double() if kappa is None else kappa.double()
    l1 = lam[..., :1].double()
    out = k - l1.squeeze(-1) + relative_normalizer(lam.double() - l1 + (k / 2).unsqueeze(-1))
    return out.to(lam.dtype)


def uniform_divergence(c: Tensor) -> Tensor:
    r"""The Kullback-Leibler divergence from the uniform distribution, in float64; its relative accuracy does
    not degrade near rates of 0.

    >>> uniform_divergence(torch.tensor([0.0, 1e-8, 1e-8]))  # 2 / 45 of the square of the rate
    tensor(4.4444e-18, dtype=torch.float64)
    """
    return _UniformDivergence.apply(_checked(c))[0]


def square_products(c: Tensor) -> Tensor:
    r""":math:`E[x_i^2x_j^2]`, divided by 3 where i = j, under the density :math:`e^{-\sum c_ix_i^2}` with
    :math:`c_1 = 0`; ``batch + (d, d)``."""

    def products(rows: Tensor) -> tuple[Tensor, ...]:
        k = contour(rows)
        u = k.u.movedim(0, 1)
        return ((0.25 * (k.weights.unsqueeze(-2) * u) @ u.mT).real,)

    with torch.no_grad():
        return _by_rows(products, _checked(c))[0]
