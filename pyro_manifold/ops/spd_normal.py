r"""Draws of the Riemannian normal distribution on positive definite n x n matrices, exact up to n = 12.

Where at least one proposal in 2000 is accepted, draws are exact, by rejection from the better of two
envelopes for each sigma. Both touch the density at a point that maximises their acceptance, which is known
from the normaliser Z (:mod:`pyro_manifold.ops.spd_normalizer`):

* :math:`\log\mathrm{sinhc}\,x` is concave in :math:`x^2`, so its tangent gives as envelope a *Gaussian
  matrix* (whose eigenvectors need not be drawn) with a larger variance of the traceless part. Its acceptance
  is near 1 for small sigma.
* :math:`\log\sinh` is concave, so its tangent plane at the mode gives independent normal eigenvalues, which
  are accepted only in descending order, and a Haar rotation. Its acceptance is near 1 for large sigma.

The smallest acceptance over sigma is 0.89 (n = 2), 0.69 (3), 0.46 (4), 0.28 (5), 0.032 (8), 0.0056 (10),
0.0007 (12). Where it would be below 0.0005 (n > 12 and sigma near 1), eigenvalues are drawn by
:mod:`~pyro_manifold.ops.spd_eigenvalue_hmc` instead."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .batched import unexpand
from .linalg import sym_eigenvalues, sym_to_vec, vec_to_sym
from .orthogonal import haar
from .rejection import redraw
from .signed_trig import log_sinhc
from .spd_eigenvalue_hmc import gap_coordinates, sample
from .spd_normalizer import log_normalizer, log_orbit_constant, normalizer_table
from .tracing import operator

__all__ = ["acceptance", "sample_tangent"]

_CHUNK = 1 << 18  # elements of a temporary
_LEAST = 5e-4  # below this acceptance draws come from Markov chains


class _Envelopes(NamedTuple):
    """For each sigma, the parameters of both envelopes and the acceptance of the better one."""

    sigma: Tensor
    x: Tensor  # half the difference of two eigenvalues at which the tangent in x^2 touches log sinhc x
    slope: Tensor  # the slope of that tangent
    precision: Tensor  # precision of the traceless part of the Gaussian matrix
    mode: Tensor  # the mode of the eigenvalues, descending, where the tangent plane touches; (..., n)
    drift: Tensor  # gradient of the sum of log sinh at the mode
    rate: Tensor  # acceptance of the better envelope
    matrix: Tensor  # whether the Gaussian matrix is the better one


def _pairs(n: int, device: Any) -> tuple[Tensor, Tensor]:
    i, j = torch.triu_indices(n, n, 1, device=device)
    return i, j


def _log_sinh(x: Tensor) -> Tensor:
    """The sum of log sinh of half the differences of descending x; -inf if x is not descending."""
    i, j = _pairs(x.shape[-1], x.device)
    half = (x[..., i] - x[..., j]) / 2
    ok = half > 0
    half = torch.where(ok, half, 1.0)
    return torch.where(ok, half + torch.log(-torch.expm1(-2 * half) / 2), -math.inf).sum(-1)


def _repulsion(x: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of :func:`_log_sinh` and minus its Hessian."""
    half = (x[..., :, None] - x[..., None, :]) / 2
    half.diagonal(dim1=-2, dim2=-1).fill_(math.inf)
    coth = 1 / half.tanh()
    coth.diagonal(dim1=-2, dim2=-1).zero_()
    curvature = half.sinh().square().reciprocal() / 4
    return coth.sum(-1) / 2, torch.diag_embed(curvature.sum(-1)) - curvature


def _mode(s: Tensor, n: int) -> Tensor:
    """The mode of the eigenvalues, by Newton steps that are damped as for self-concordant functions, so that
    the eigenvalues stay in descending order."""
    # the mode for small sigma, divided by sigma
    zeros = torch.from_numpy(np.polynomial.hermite.hermgauss(n)[0][::-1].copy()).to(s)
    ramp = torch.arange(n - 1, -n, -2, dtype=s.dtype, device=s.device)
    x = s[..., None] * zeros + s[..., None] ** 2 * ramp / 2
    eye = torch.eye(n, dtype=s.dtype, device=s.device)
    for _ in range(20):
        gradient, hessian = _repulsion(x)
        gradient = gradient - x / s[..., None] ** 2
        step = torch.linalg.solve(hessian + eye / s[..., None, None] ** 2, gradient)
        x = x + step / (1 + (gradient * step).sum(-1, keepdim=True).clamp_min(0).sqrt())
    return x


def _envelopes(s: Tensor, n: int) -> _Envelopes:
    log_z = log_normalizer(s, normalizer_table(n, s.device), n)
    dim, pairs, tau = n * (n + 1) / 2, n * (n - 1) / 2, s.square().reciprocal()
    # the best x satisfies x^2 = E x^2 under its own envelope; the iteration starts above it, so that the
    # precision, which is at least (n+2)/4x^2, stays positive
    x = (n / 4 + (n * n / 16 + (n + 2) * tau).sqrt()) / (2 * tau)
    for _ in range(60):
        x = s * ((n + 2) / 4 + n / 4 * (x / x.tanh() - 1)).sqrt()
    slope = torch.where(x < 0.01, 1 / 6 - x.square() / 90, (x / x.tanh() - 1) / (2 * x.square()))
    precision = tau - n * slope / 2
    log_matrix = dim / 2 * math.log(2 * math.pi) + s.log() - (dim - 1) / 2 * precision.log()
    log_matrix = log_matrix + pairs * (log_sinhc(x) - slope * x.square())
    mode = _mode(s, n)
    drift = _repulsion(mode)[0]
    shift = s.square()[..., None] * drift - mode
    log_chamber = (
        _log_sinh(mode)
        + pairs * math.log(2)
        + log_orbit_constant(n)
        + math.lgamma(n + 1)
        + n / 2 * (2 * math.pi / tau).log()
    )
    log_chamber = log_chamber + ((mode + shift).square().sum(-1) * tau / 2 - (drift * mode).sum(-1))
    matrix = log_matrix <= log_chamber
    rate = (log_z - torch.minimum(log_matrix, log_chamber)).exp()
    return _Envelopes(s, x, slope, precision, mode, drift, rate, matrix)


def acceptance(scale: Tensor, n: int) -> Tensor:
    """The exact acceptance probability of the proposals of :func:`sample_tangent`.

    >>> acceptance(torch.tensor([0.3, 1.0, 3.0]), 3)
    tensor([0.9998, 0.9695, 0.9325])
    """
    s = scale.detach().double()
    return torch.ones_like(scale) if n == 1 else _envelopes(s, n).rate.to(scale.dtype)


def _propose_matrix(e: _Envelopes, n: int) -> tuple[Tensor, Tensor]:
    """Tangent coordinates from the Gaussian matrix, and whether each is accepted."""
    g = torch.randn(e.sigma.shape + (n * (n + 1) // 2,), dtype=e.sigma.dtype, device=e.sigma.device)
    wide = e.precision.rsqrt()[..., None]
    trace = g[..., :n].mean(-1, keepdim=True) * (e.sigma[..., None] - wide)
    v = wide * g + torch.nn.functional.pad(trace.expand(g.shape[:-1] + (n,)), (0, g.shape[-1] - n))
    y = sym_eigenvalues(vec_to_sym(v, n)) if n < 4 else torch.linalg.eigvalsh(vec_to_sym(v, n))
    i, j = _pairs(n, v.device)
    half = (y[..., j] - y[..., i]) / 2
    x, slope = e.x[..., None], e.slope[..., None]
    log_ratio = (log_sinhc(half) - log_sinhc(x) - slope * (half.square() - x.square())).sum(-1)
    return v, torch.rand_like(log_ratio).log() < log_ratio


def _propose_eigenvalues(e: _Envelopes, n: int) -> tuple[Tensor, Tensor]:
    """Independent normal eigenvalues, and whether each set is accepted."""
    y = e.sigma[..., None] ** 2 * e.drift + e.sigma[..., None] * torch.randn_like(e.mode)
    log_ratio = _log_sinh(y) - _log_sinh(e.mode) - (e.drift * (y - e.mode)).sum(-1)
    return y, torch.rand_like(log_ratio).log() < log_ratio


def _reject(propose: Callable[[_Envelopes, int], tuple[Tensor, Tensor]], e: _Envelopes, n: int) -> Tensor:
    """One accepted proposal for each row of ``e``, in a bounded number of rounds; the last rows get many
    tries at once."""
    least = float(e.rate.min())

    def tries(lanes: Tensor) -> tuple[Tensor, Tensor]:
        copies = max(1, min(int(0.5 / least), _CHUNK // (len(lanes) * n * n)))
        return propose(_Envelopes(*(t[lanes].expand((copies,) + t[lanes].shape) for t in e)), n)

    event = (n * (n + 1) // 2,) if propose is _propose_matrix else (n,)
    out = e.sigma.new_empty((len(e.sigma), *event))
    hint = f"check the scales of this normal on SPD({n}) for NaN."
    return redraw(out, torch.arange(len(out), device=out.device), tries, 100 + int(40 / least), hint)


def _chain(e: _Envelopes, index: Tensor, n: int) -> Tensor:
    """Eigenvalues by :mod:`~pyro_manifold.ops.spd_eigenvalue_hmc` for the sigmas ``index``; draws with the
    same sigma share its matrices."""
    which, lane = index.unique(return_inverse=True)
    mode, precision = e.mode[which], e.sigma[which].square().reciprocal()
    eye = torch.eye(n, dtype=mode.dtype, device=mode.device)
    g = gap_coordinates(e.sigma[which], mode, _repulsion(mode)[1] + precision[:, None, None] * eye)
    return sample(g.take(lane), len(index))


@torch.no_grad()
def sample_tangent(scale: Tensor, n: int, shape: Sequence[int]) -> Tensor:
    r"""Draws of the tangent coordinates, ``shape + (n(n+1)/2,)``; not differentiable.

    :param scale: :math:`\sigma`, broadcastable to ``shape``.

    >>> sample_tangent(torch.tensor(0.5), 3, (4,)).shape
    torch.Size([4, 6])
    """
    shape = torch.Size(shape)
    if n == 1:
        return scale[..., None] * torch.randn(shape + (1,), dtype=scale.dtype, device=scale.device)
    return _draw(unexpand(scale), n, shape)


@operator(
    "spd_tangent_draw(Tensor scale, int n, int[] shape) -> Tensor",
    lambda scale, n, shape: scale.new_empty((*shape, n * (n + 1) // 2)),
    draws=True,
)
def _draw(scale: Tensor, n: int, shape: Sequence[int]) -> Tensor:
    shape = torch.Size(shape)
    e = _envelopes(scale.double(), n)
    batch = e.sigma.shape
    # for each draw, the index of its sigma
    index = torch.arange(e.sigma.numel(), device=e.sigma.device).reshape(batch).expand(shape).reshape(-1)
    e = _Envelopes(*(t.reshape((-1,) + t.shape[len(batch) :]) for t in e))
    v = e.sigma.new_empty(len(index), n * (n + 1) // 2)
    step = max(1, _CHUNK // (n * n))
    for kind, chosen in enumerate(
        (e.matrix & (e.rate > _LEAST), ~e.matrix & (e.rate > _LEAST), e.rate <= _LEAST)
    ):
        lanes = chosen[index].nonzero().squeeze(-1)
        for some in lanes.split(step) if len(lanes) else ():
            rows = _Envelopes(*(t[index[some]] for t in e))
            if kind == 0:
                v[some] = _reject(_propose_matrix, rows, n)
                continue
            y = _reject(_propose_eigenvalues, rows, n) if kind == 1 else _chain(e, index[some], n)
            q = haar(torch.Size([len(y), n, n]), dtype=y.dtype, device=y.device)
            v[some] = sym_to_vec((q * y.unsqueeze(-2)) @ q.mT)
    return v.reshape(shape + v.shape[-1:]).to(scale.dtype)
