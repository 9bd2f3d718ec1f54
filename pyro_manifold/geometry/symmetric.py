"""Geometries of which a user writes exp and log; frames, geodesics and volumes follow by automatic differentiation."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..ops.checks import common_shape
from ..ops.numerics import norm
from ..ops.signed_trig import log_sinc_sqrt
from ..ops.tracing import is_transformed
from .base import Geometry

__all__ = ["SymmetricGeometry"]


def _derivative(f: Callable[[Tensor], Tensor], x: Tensor, u: Tensor, *others: Tensor) -> Tensor:
    """The derivative of f at x along u, where f depends on ``others`` too, as the derivative of its transpose.

    Reverse mode alone works inside any other derivative; custom operators have no forward mode inside forward mode.
    """
    if is_transformed():  # elsewhere plain autograd takes less than half the time
        y, transpose = torch.func.vjp(f, x)[:2]
        return torch.func.vjp(lambda w: transpose(w)[0], torch.zeros_like(y))[1](u)[0]
    needed = torch.is_grad_enabled() and any(t.requires_grad for t in (x, u, *others))
    with torch.enable_grad():
        x = x if x.requires_grad else x.detach().requires_grad_()
        y = f(x)
        w = torch.zeros_like(y, requires_grad=True)
        (transposed,) = torch.autograd.grad(y, x, w, create_graph=True)
        (out,) = torch.autograd.grad(transposed, w, u, create_graph=needed)
    return out


class SymmetricGeometry(Geometry):
    r"""A symmetric space whose points are vectors of n coordinates, given by its exponential map and its logarithm.

    .. math::
        d(p, q) = |\log_p q|_p, \qquad \dot\gamma(t) = \tfrac{d}{dt} \exp_p(tu), \qquad
        \mathrm{transport}_{p\to q} = -(ds_m)_p, \quad s_m(x) = \exp_m(-\log_m x)

    with the midpoint m of p and q [1]. The frame at p is the coordinate frame of the base point, transported to p. A
    subclass gives five methods: :meth:`base_point`, where the metric must be that of the coordinates (:math:`g = I`),
    :meth:`contains`, :meth:`project`, :meth:`exp` and :meth:`log`, smooth at p = q; and it says what holds of
    ``has_chart``, :meth:`constant_curvature` and :meth:`injectivity_radius`. The others are derivatives of exp and
    log; a closed form in the subclass is faster.

    [1] Pennec, *Parallel transport with pole ladder*, 2018, sec. 3.

    Positive numbers with the metric :math:`dx^2/x^2`:

    >>> from pyro_manifold.geometry import GeometricManifold, SymmetricGeometry, register_geometry
    >>> class Ratios(GeometricManifold):
    ...     event_shape = (1,)
    >>> @register_geometry(Ratios)
    ... class RatiosGeometry(SymmetricGeometry):
    ...     membership, has_chart = "a positive number", True
    ...     def contains(self, x, atol=None):
    ...         return (x > 0).all(-1) & x.isfinite().all(-1)
    ...     def base_point(self, event_shape, *, dtype=None, device=None):
    ...         return torch.ones(1, dtype=dtype, device=device)
    ...     def project(self, x):
    ...         return x.clamp_min(torch.finfo(x.dtype).tiny)
    ...     def exp(self, p, u):
    ...         return p * (u / p).exp()
    ...     def log(self, p, q):
    ...         return p * (q / p).log()
    >>> Ratios().dist(torch.tensor([1.0]), torch.tensor([10.0]))  # log 10
    tensor(2.3026)
    """

    def dim(self, event_shape: Sequence[int]) -> int:
        return math.prod(event_shape)

    def point_shape(self, dim: int) -> torch.Size:
        shape = torch.Size(getattr(self.manifold, "event_shape", (dim,)))
        if math.prod(shape) != dim:
            raise ValueError(f"dim: got {dim}; {self.manifold.name} has dimension {math.prod(shape)} alone.")
        return shape

    def project_tangent(self, p: Tensor, u: Tensor) -> Tensor:
        return u.expand(common_shape(p.shape, u.shape))

    def transport(self, p: Tensor, q: Tensor, u: Tensor) -> Tensor:
        shape = common_shape(p.shape, q.shape, u.shape)
        p, q, u = (x.expand(shape) for x in (p, q, u))
        m = self.exp(p, 0.5 * self.log(p, q))
        return -_derivative(lambda x: self.exp(m, -self.log(m, x)), p, u, m)

    def _base_like(self, p: Tensor) -> Tensor:
        return self.base_point(self.event_shape(p), dtype=p.dtype, device=p.device)

    def to_tangent(self, p: Tensor, v: Tensor) -> Tensor:
        return self.transport(self._base_like(p), p, v)

    def from_tangent(self, p: Tensor, u: Tensor) -> Tensor:
        return self.transport(p, self._base_like(p), u)

    def dist(self, p: Tensor, q: Tensor) -> Tensor:
        return norm(self.log_frame(p, q))

    def geodesic(self, p: Tensor, u: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        time = torch.as_tensor(t, dtype=p.dtype, device=p.device)
        batch = common_shape(p.shape[:-1], u.shape[:-1], time.shape)
        p, u, time = p.expand(batch + p.shape[-1:]), u.expand(batch + u.shape[-1:]), time.expand(batch)
        return self.exp(p, time.unsqueeze(-1) * u), _derivative(
            lambda t: self.exp(p, t.unsqueeze(-1) * u), time, torch.ones_like(time), p, u
        )

    def log_det_exp(self, p: Tensor, v: Tensor) -> Tensor:
        r"""In constant curvature K, :math:`(n - 1)\log\frac{\sin\sqrt K|v|}{\sqrt K|v|}`; else the determinant of the
        derivative of exp."""
        shape = common_shape(p.shape, v.shape)
        k = self.constant_curvature(v)
        if k is not None:
            return ((shape[-1] - 1) * log_sinc_sqrt(k * v.square().sum(-1))).expand(shape[:-1])
        p, v = p.expand(shape), v.expand(shape)
        u, columns = self.to_tangent(p, v), []
        q = self.exp(p, u)
        for e in torch.eye(shape[-1], dtype=v.dtype, device=v.device):
            along = self.to_tangent(p, e.expand(shape))
            dq = _derivative(lambda x: self.exp(p, x), u, along, p)
            columns.append(self.from_tangent(q, dq))
        return torch.linalg.slogdet(torch.stack(columns, -1)).logabsdet
