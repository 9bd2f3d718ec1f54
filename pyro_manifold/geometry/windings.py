r"""Tangent vectors that wind around closed geodesics, and the density of a normal of tangent vectors summed
over them.

Where all geodesics close with length :math:`2\pi/\sqrt K`, the vectors that reach one point lie on one line,
the axis :math:`e`, and a normal :math:`\mathcal N(0, \Sigma)` restricted to that line is a normal of standard
deviation :math:`s = (e^\top\Sigma^{-1}e)^{-1/2}`. The sum is then that of
:func:`pyro_manifold.ops.windings.log_windings`.
"""

import math
from typing import Any

import torch
from torch import Tensor

from ..ops.checks import held
from ..ops.numerics import norm
from ..ops.tracing import is_concrete, maybe_any
from ..ops.windings import log_windings, normal_reach

__all__ = [
    "centred_normal",
    "check_unwrapped",
    "largest_sd",
    "log_wound_normal",
    "marginal_sd",
    "normal_radius",
    "windings",
]

_MAX_TURNS = 1000
TRACED_SD = 2.5  # a compiled or traced program has a fixed number of windings: those of this width


def axis_of(v: Tensor) -> tuple[Tensor, Tensor]:
    """Length, shape ``batch``, and unit vector of ``v``; of the zero vector the first axis."""
    r = norm(v, keepdim=True)
    zero = r == 0
    if not maybe_any(zero):
        return r.squeeze(-1), v / r
    e = torch.nn.functional.pad(torch.ones_like(r), (0, v.shape[-1] - 1))
    return r.squeeze(-1), torch.where(zero, e, v / torch.where(zero, 1.0, r))


def windings(v: Tensor, radius: float, half_turn: Tensor | float) -> Tensor:
    r"""The vectors :math:`(|v| + 2hk)\,v/|v|` of length up to about ``radius``, k = 0 first, where h is
    ``half_turn``.

    :raises ValueError: for more than 1000 turns.

    >>> windings(torch.tensor([1.0, 0.0]), 4.0, math.pi)[:, 0]
    tensor([  1.0000, -11.5664,  -5.2832,   7.2832,  13.5664])
    """
    half = half_turn.item() if isinstance(half_turn, Tensor) else half_turn
    n = max(1, math.ceil((radius + half) / (2 * half)))
    if n > _MAX_TURNS:
        raise ValueError(
            f"radius: a normal that reaches {radius:.3g} winds around {n} times, at most {_MAX_TURNS} turns "
            "are listed; give a diagonal scale, whose windings have a closed form, a narrower one, or "
            "truncated=True."
        )
    _, axis = axis_of(v)
    turns = [2 * k for k in range(-n, n + 1) if k != 0]
    shift = torch.as_tensor(turns, dtype=v.dtype, device=v.device).reshape((-1,) + (1,) * v.dim()) * half_turn
    return torch.cat([v.unsqueeze(0), v + shift * axis])


def centred_normal(spread: Tensor, full: bool) -> Any:
    """The normal with mean 0 and these standard deviations, ``batch + (d,)``, or Cholesky factors, ``batch +
    (d, d)``, if ``full``."""
    if full:
        zero = spread.new_zeros(()).expand(spread.shape[:-1])
        return torch.distributions.MultivariateNormal(zero, scale_tril=spread, validate_args=False)
    normal = torch.distributions.Normal(spread.new_zeros(()), spread, validate_args=False)
    return torch.distributions.Independent(normal, 1, validate_args=False)


def marginal_sd(base: Any) -> Tensor:
    """Standard deviations of the coordinates of a normal, ``batch + (d,)``; no square of them overflows, as
    in ``stddev``.

    :param base: ``Independent(Normal)`` or ``MultivariateNormal``.

    >>> marginal_sd(torch.distributions.Independent(torch.distributions.Normal(torch.zeros(2), 1e30), 1))
    tensor([1.0000e+30, 1.0000e+30])
    """
    return (
        norm(base.scale_tril)
        if isinstance(base, torch.distributions.MultivariateNormal)
        else base.base_dist.scale
    )


def largest_sd(base: Any) -> float:
    """Largest standard deviation along any direction and in any batch element; when traced, where it has no
    value, that for which a traced program has terms, 2.5.

    :param base: ``Independent(Normal)`` or ``MultivariateNormal``.

    >>> largest_sd(torch.distributions.MultivariateNormal(torch.zeros(2), torch.tensor([[2.5, 1.5], [1.5, 2.5]])))
    2.0
    """
    full = isinstance(base, torch.distributions.MultivariateNormal)
    spread = (base.scale_tril if full else marginal_sd(base)).detach()
    if not is_concrete(held(spread)):
        return TRACED_SD
    sd = held(torch.linalg.matrix_norm(spread, 2) if full else spread)
    return float(sd.max()) if sd.numel() else 0.0


def nan_beyond_traced(out: Tensor, base: Any) -> Tensor:
    """``out``, a sum over the windings of ``base``; in a compiled or traced program, whose number of terms is
    fixed, NaN where the normal is too wide for them."""
    full = isinstance(base, torch.distributions.MultivariateNormal)
    spread = (base.scale_tril if full else marginal_sd(base)).detach()
    if is_concrete(held(spread)):
        return out
    widest = torch.linalg.matrix_norm(spread, 2) if full else spread.amax(-1)
    return torch.where(widest <= TRACED_SD, out, math.nan)


def normal_radius(base: Any) -> float:
    r"""Length beyond which a centred normal of d coordinates has nothing left: :math:`(\sqrt d + c)` times
    its largest sd.

    The length is chi-distributed with mean :math:`\sqrt d` sd and tails of a normal; :math:`e^{-c^2/2}` is
    below rounding.

    >>> base = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(4), 1.0), 1)
    >>> round(normal_radius(base), 1)
    8.0
    """
    return (math.sqrt(int(base.event_shape[0])) + normal_reach(base.mean.dtype)) * largest_sd(base)


def check_unwrapped(geo: Any, base: Any, limit: float) -> None:
    """
    :raises NotImplementedError: for a normal ``base`` with a standard deviation above ``limit``.
    """
    widest = largest_sd(base)
    if widest > limit:
        raise NotImplementedError(
            f"{geo.manifold.name}: a normal this wide (sd {widest:.3g}) wraps around, and its windings are not "
            f"known; use a scale below {limit:.2g}, truncated=True with an isotropic scale, or another family "
            "(ManifoldUniform)."
        )


def _on_axis(base: Any, e: Tensor) -> tuple[Tensor, Tensor]:
    r"""s, the standard deviation along the unit vector e, and the log density of the normal at 0."""
    d = e.shape[-1]
    constant = -0.5 * d * math.log(2 * math.pi)
    if isinstance(base, torch.distributions.MultivariateNormal):
        tril = base.scale_tril
        if tril.numel() == 0 or e.numel() == 0:  # torch divides by the number of elements
            none = tril.sum((-1, -2)) + e.sum(-1)
            return none, none
        unit = tril.detach().abs().amax((-1, -2))
        scaled = torch.distributions.MultivariateNormal(
            e.new_zeros(d), scale_tril=tril / unit[..., None, None], validate_args=False
        )
        log_det = tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        log_det_scaled = scaled.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        square = -2 * (scaled.log_prob(e) + log_det_scaled - constant)
        return unit * square.rsqrt(), constant - log_det
    sd = marginal_sd(base)
    return norm(e / sd).reciprocal(), constant - sd.log().sum(-1)


def log_wound_normal(v: Tensor, base: Any, power: int, half: int = 1, root: Tensor | float = 1.0) -> Tensor:
    r"""Log density at :math:`\exp_p(v)`, with respect to volume, of the centred normal ``base`` of frame
    coordinates.

    :param Tensor v: any of the vectors that reach the point, ``batch + (d,)``.
    :param base: as for :func:`largest_sd`; its batch broadcasts with that of v.
    :param int power: of the volume change, see :func:`~pyro_manifold.ops.windings.log_windings`; likewise
        ``half``.
    :param root: :math:`\sqrt K`.

    >>> base = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(1), 0.1), 1)
    >>> log_wound_normal(torch.tensor([2 * torch.pi]), base, 0) - base.log_prob(torch.zeros(1))
    tensor(0.)
    """
    r, e = (
        axis_of(v) if v.shape[-1] > 1 else (v.squeeze(-1), torch.ones_like(v))
    )  # even, and on a line smooth at 0
    s, log_peak = _on_axis(base, e)
    return log_peak + log_windings(r * root, s * root, power, half)
