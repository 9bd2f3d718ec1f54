r"""The flat torus :math:`T^d = (\mathbb R/2\pi)^d`, points given by their angles.

.. math::
    \exp_p(u) = \mathrm{wrap}(p + u), \qquad \log_p(q) = \mathrm{wrap}(q - p), \qquad \log\det d\exp = 0,
    \qquad \mathrm{vol}(T^d) = (2\pi)^d

``wrap`` takes every angle to :math:`[-\pi,\pi)`: angles outside are accepted everywhere and mean the same
point.
"""

import itertools
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import geoopt
import numpy as np
import torch
from torch import Tensor

from ..ops.checks import common_shape, held
from ..ops.circular import log_wrapped_normal, wrap
from ..ops.lattice import log_dual_sum, log_torus_normal
from ..ops.numerics import norm
from ..ops.numpy_joint import is_short_joint
from ..ops.numpy_logarithm import Logarithm
from ..ops.numpy_normal import density
from ..ops.numpy_operator import numpy_operator
from ..ops.numpy_rotations import torus_logarithm
from ..ops.numpy_windings import is_short
from ..ops.tracing import is_concrete
from ..ops.windings import normal_reach
from .euclidean import FlatGeometry
from .noise import NoiseMap, TurnNoise
from .registry import register_geometry
from .windings import marginal_sd

__all__ = ["Torus", "TorusGeometry"]

_WIDE = 1.25  # a normal wider than this along all directions has a short dual sum
_MAX_TERMS = 200_000
_FEW = 2048  # numbers up to which NumPy sums over the joint lattice faster than torch (measured)


class Torus(geoopt.Manifold):
    r"""Flat torus of any dimension as a geoopt manifold: points are d angles in radians, metric
    :math:`\sum d\theta_i^2`.

    Works with ``geoopt.ManifoldParameter`` and the Riemannian optimisers. Angles outside :math:`[-\pi,\pi)`
    are points too.

    >>> Torus().dist(torch.tensor([3.0]), torch.tensor([-3.0]))  # across the seam
    tensor(0.2832)
    """

    name = "Torus"
    ndim = 1
    reversible = True

    def _check_point_on_manifold(
        self, x: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5
    ) -> tuple[bool, str | None]:
        ok = bool(x.isfinite().all())
        return ok, None if ok else "angles must be finite"

    def _check_vector_on_tangent(
        self, x: Tensor, u: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5
    ) -> tuple[bool, str | None]:
        return True, None

    def projx(self, x: Tensor) -> Tensor:
        return wrap(x)

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        return u.expand(common_shape(x.shape, u.shape))

    egrad2rgrad = proju

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        return wrap(x + u)

    retr = expmap

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        return wrap(y - x)

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return v.expand(common_shape(x.shape, y.shape, v.shape))

    def inner(self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False) -> Tensor:
        return (u * (u if v is None else v)).sum(-1, keepdim=keepdim)

    def component_inner(self, x: Tensor, u: Tensor, v: Tensor | None = None) -> Tensor:
        return u * (u if v is None else v)

    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        return norm(wrap(y - x), keepdim=keepdim)

    def random(self, *size: Any, dtype: torch.dtype | None = None, device: Any = None) -> Tensor:
        """Uniform angles, wrapped as a ``ManifoldTensor``."""
        shape = size[0] if len(size) == 1 and not isinstance(size[0], int) else size
        angles = (2 * torch.rand(*shape, dtype=dtype, device=device) - 1) * math.pi
        return geoopt.ManifoldTensor(angles, manifold=self)

    def origin(
        self, *size: Any, dtype: torch.dtype | None = None, device: Any = None, seed: int | None = 42
    ) -> Tensor:
        shape = size[0] if len(size) == 1 and not isinstance(size[0], int) else size
        return geoopt.ManifoldTensor(torch.zeros(*shape, dtype=dtype, device=device), manifold=self)


def _traced(v: Tensor, tril: Tensor, direct: Tensor) -> Tensor:
    r"""Of a compiled or traced program: the ``direct`` sum where that is known, else the dual one, of the
    terms :math:`e^{-|L^\top n|^2/2}\cos(n\cdot v)` that count where the normal is wide."""
    d = v.shape[-1]
    count = math.ceil(normal_reach(v.dtype) / _WIDE)
    if (2 * count + 1) ** d > _MAX_TERMS:
        return direct
    narrowest = torch.linalg.svdvals(tril.detach())[..., -1]
    dual = direct.detach().isnan() & (narrowest > _WIDE)
    eye = torch.eye(d, dtype=v.dtype, device=v.device)
    tril = torch.where(dual[..., None, None], tril, 2 * _WIDE * eye)
    n = _lattice([count] * d, v)
    decay = torch.exp(-0.5 * (n @ tril).square().sum(-1))
    total = ((v.unsqueeze(-2) @ n.mT).squeeze(-2).cos() * decay).sum(-1)
    return torch.where(dual, total.log() - d * math.log(2 * math.pi), direct)


def _largest(x: Tensor) -> float:
    return float(np.abs(x.detach().numpy()).max())


def _composed_normal(full: bool, p: Tensor, q: Tensor, spread: Tensor) -> Tensor:
    v = wrap(wrap(q) - wrap(p))
    if not full:
        return log_wrapped_normal(v, spread).sum(-1)
    return log_torus_normal(v.expand(common_shape(v.shape[:-1], spread.shape[:-2]) + v.shape[-1:]), spread)


_NORMAL = [
    numpy_operator(density(torus_logarithm), partial(_composed_normal, full), (1, 1, 1 + full))
    for full in (False, True)
]


@register_geometry(Torus)
class TorusGeometry(FlatGeometry):
    r"""Geometry of the flat torus :math:`T^d`, points of shape ``(d,)``, origin 0, injectivity radius π.

    The preimages of a point are a lattice, :math:`v + 2\pi\mathbb Z^d`. A wrapped normal with a diagonal
    covariance is a product over the axes, each by its short sum; a full one sums what counts of the joint
    lattice or, if that is shorter, its dual
    :math:`(2\pi)^{-d}\sum_{n\in\mathbb Z^d} e^{-n^\top\Sigma n/2}\cos(n\cdot v)`.

    >>> geo = TorusGeometry(Torus())
    >>> geo.exp(torch.tensor([3.0, 0.0]), torch.tensor([1.0, 1.0]))
    tensor([-2.2832,  1.0000])
    """

    has_finite_volume = True

    def reduce(self, x: Tensor) -> Tensor:
        return wrap(x)

    def embed_tangent(self, p: Tensor, v: Tensor) -> Tensor:
        return torch.cat([-p.sin() * v, p.cos() * v], -1)

    def ambient_coordinates(self, x: Tensor) -> Tensor:
        return torch.cat([x.cos(), x.sin()], -1)

    def feature_size(self, event_shape: Sequence[int]) -> int:
        return 2 * event_shape[-1]

    def from_features(self, h: Tensor, event_shape: Sequence[int]) -> Tensor:
        """The polar angles of the vectors (h_i, h_{d+i})."""
        c, s = h.chunk(2, -1)
        zero = (c == 0) & (s == 0)
        return self.reduce(torch.atan2(torch.where(zero, 0.0, s), torch.where(zero, 1.0, c)))

    def to_features(self, x: Tensor) -> Tensor:
        return self.ambient_coordinates(x)

    def exact_mean(self, x: Tensor, w: Tensor) -> Tensor:
        """Axis by axis: unwrap the sorted angles at every gap; the cut with the smallest variance wins [1].

        [1] Hotz & Huckemann, *Intrinsic means on the circle*, Ann. Inst. Stat. Math. 67 (2015), thm 1."""
        a, order = wrap(x).sort(0)
        w = w.unsqueeze(-1).expand_as(a).gather(0, order)
        lifted = w.cumsum(0) - w  # weight of the angles that go up by 2 pi, for each cut
        mean = (w * a).sum(0) + 2 * math.pi * lifted
        extra = (w * a * 4 * math.pi).cumsum(0) - w * a * 4 * math.pi + 4 * math.pi**2 * lifted
        best = ((w * a.square()).sum(0) + extra - mean.square()).argmin(0, keepdim=True)
        return wrap(mean.gather(0, best)[0])

    def angles(self, x: Tensor) -> tuple[Tensor, list[str]]:
        one = x.shape[-1] == 1
        return wrap(x), ["azimuth"] if one else [f"azimuth_{i + 1}" for i in range(x.shape[-1])]

    def noise_map(self, event_shape: Sequence[int]) -> NoiseMap:
        return TurnNoise(self, event_shape, event_shape[-1])

    def preimages(self, p: Tensor, v: Tensor, radius: float) -> Tensor:
        k = max(1, math.ceil((radius + math.pi) / (2 * math.pi)))
        return v + 2 * math.pi * _lattice([k] * v.shape[-1], v).reshape(
            (-1,) + (1,) * (v.dim() - 1) + v.shape[-1:]
        )

    def log_normal_by_numpy(self, p: Tensor, q: Tensor, spread: Tensor, full: bool) -> Tensor | None:
        if not is_short(spread, 0) or max(map(_largest, (p, q))) > 2 * math.pi:
            return None
        if not full:
            return _NORMAL[False](p, q, spread)
        if max(x.numel() for x in (p, q, spread)) > _FEW or not is_short_joint(spread, spread.shape[-1], 0):
            return None
        return _NORMAL[True](p, q, spread)

    def numpy_logarithm(self, event_shape: Sequence[int], p: Tensor, q: Tensor) -> Logarithm | None:
        near = max(map(_largest, (p, q))) <= 2 * math.pi
        return Logarithm(torus_logarithm, axes=event_shape[-1]) if near else None

    def log_wrapped(self, p: Tensor, v: Tensor, base: Any) -> Tensor:
        """Axis by axis for independent coordinates, else by the shorter of the lattice sum and its dual.

        A compiled or traced program, whose number of terms may not depend on values, takes fixed numbers of
        terms of both. They hold a normal whose standard deviations along all directions are below 2.5, or all
        above 1.25; the result is NaN for one that is wider than that along one direction and narrower along
        another, and for any wider than 2.5 in five dimensions or more."""
        if isinstance(base, torch.distributions.Independent):
            return log_wrapped_normal(v, marginal_sd(base)).sum(-1)
        v = wrap(v).expand(common_shape(p.shape[:-1], v.shape[:-1], base.batch_shape) + v.shape[-1:])
        if v.numel() == 0:
            return base.log_prob(v)
        tril = base._unbroadcasted_scale_tril
        if not is_concrete(held(tril)):
            return _traced(v, tril, super().log_wrapped(p, v, base))
        if is_concrete(v) and is_concrete(tril):
            return log_torus_normal(v, tril)
        if is_concrete(tril) and float(torch.linalg.svdvals(tril.detach())[..., -1].min()) > 1.5:
            return log_dual_sum(v, tril)
        sd = [float(held(s).max()) for s in marginal_sd(base).detach().unbind(-1)]
        reach = math.sqrt(v.shape[-1]) + normal_reach(v.dtype)
        counts = [max(1, math.ceil((reach * s + math.pi) / (2 * math.pi))) for s in sd]
        vs = v + 2 * math.pi * _lattice(counts, v).reshape((-1,) + (1,) * (v.dim() - 1) + v.shape[-1:])
        return torch.logsumexp(base.log_prob(vs), 0)

    def injectivity_radius(self, event_shape: Sequence[int]) -> float:
        return math.pi

    def log_volume(self, event_shape: Sequence[int]) -> float:
        return event_shape[-1] * math.log(2 * math.pi)

    def uniform_moments(
        self, event_shape: Sequence[int], *, dtype: torch.dtype | None = None, device: Any = None
    ) -> tuple[Tensor, Tensor]:
        mean = torch.zeros(torch.Size(event_shape), dtype=dtype, device=device)
        return mean, torch.full_like(mean, math.pi**2 / 3)

    def uniform_sample(
        self,
        shape: Sequence[int],
        event_shape: Sequence[int],
        *,
        dtype: torch.dtype | None = None,
        device: Any = None,
    ) -> Tensor:
        u = torch.rand(torch.Size(shape) + torch.Size(event_shape), dtype=dtype, device=device)
        return (2 * u - 1) * math.pi


def _lattice(counts: Sequence[int], like: Tensor) -> Tensor:
    """All integer vectors with ``|n_i| <= counts[i]``, zero first."""
    terms = math.prod([2 * k + 1 for k in counts])
    if terms > _MAX_TERMS:
        raise ValueError(
            f"covariance: a full covariance in {len(counts)} dimensions as wide as this needs {terms:.1e} "
            f"windings, at most {_MAX_TERMS} are summed; give a diagonal scale (the cost is then linear in "
            "the dimension) or a narrower one."
        )
    axes = [sorted(range(-k, k + 1), key=abs) for k in counts]
    return torch.tensor(list(itertools.product(*axes)), dtype=like.dtype, device=like.device).reshape(
        -1, len(counts)
    )
