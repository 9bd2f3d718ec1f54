r"""The hyperboloid :math:`t^2 - |x|^2 = k` of curvature :math:`-1/k` (geoopt's ``Lorentz``, whose k is a
squared radius).

Every point (t, x) is read through its spatial coordinates x alone; :math:`t = \sqrt{k + |x|^2}`. With k = 1
for short, the boost that takes the origin to x acts on spatial coordinates w (of time :math:`t_w`) as
:math:`B_x w = w + x(t_w + x\cdot w/(1+t_x))`, and everything follows from it in the frame transported from
the origin (:mod:`pyro_manifold.ops.hyperboloid` has the arrangement that keeps all digits, and the
gradients):

.. math:: \exp_x(v) = B_x\big(\mathrm{sinhc}|v|\,v\big), \qquad \log_x(y) =
    \frac{\operatorname{arsinh}|w|}{|w|}w,\ w = B_{-x}y

.. math:: d(x,y) = 2\operatorname{arsinh}\tfrac L2, \qquad
    L^2 = 2\,\frac{|x-y|^2 + |x\wedge y|^2}{1 + t_xt_y + x\cdot y}

No Minkowski product of large terms is ever formed (geoopt's distance is negative from radius 8 in float32).
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import geoopt
import torch
from torch import Tensor

from ..ops.checks import common_shape
from ..ops.components import by_components, squared_norm
from ..ops.hyperboloid import hyperboloid_exp, hyperboloid_log
from ..ops.numerics import safe_sqrt
from ..ops.numpy_hyperbolic import hyperboloid_logarithm, hyperboloid_normal
from ..ops.numpy_logarithm import Logarithm
from ..ops.signed_trig import cos_sinc_sqrt, log_sinc_length
from ..ops.tracing import is_traced
from .base import Geometry
from .registry import register_geometry

__all__ = ["HyperboloidGeometry"]


@register_geometry(geoopt.Lorentz)
class HyperboloidGeometry(Geometry):
    r"""Geometry of ``geoopt.Lorentz(k)``, curvature -1/k (k may be learned); points ``(d + 1,)``, time first.

    The coordinates of a point at geodesic radius r fix it to :math:`\epsilon\sinh r` across and
    :math:`\epsilon` along the radius (k = 1); maps are right to that limit, :meth:`dist` to :math:`\epsilon`
    for the coordinates given. Distances up to 44 (float32) or 350 (float64), in units of :math:`\sqrt k`, do
    not overflow. [1] Nickel and Kiela, *Learning continuous hierarchies in the Lorentz model*, 2018. [2]
    Nagano et al., *A wrapped normal distribution on hyperbolic space*, 2019, eqs. 4-8.

    >>> import geoopt
    >>> geo = HyperboloidGeometry(geoopt.Lorentz())
    >>> geo.dist(geo.origin(2), geo.exp_frame(geo.origin(2), torch.tensor([3.0, 4.0])))
    tensor(5.)
    """

    has_chart = True
    in_linear_space = True

    def __init__(self, manifold: geoopt.Lorentz) -> None:
        super().__init__(manifold)
        if manifold.k.numel() != 1 or not (is_traced() or bool(manifold.k > 0)):
            raise ValueError(
                f"manifold: Lorentz needs one positive k (the squared radius, curvature -1/k), got "
                f"{manifold.k.tolist()}."
            )

    def _k(self, like: Tensor) -> Tensor:
        return self.manifold.k.reshape(()).to(dtype=like.dtype, device=like.device)

    def constant_curvature(self, like: Tensor) -> Tensor:
        """-1/k, differentiable in k, in the dtype of ``like``."""
        return -1 / self._k(like)

    # --- shapes and membership ------------------------------------------------------------------------------
    def dim(self, event_shape: Sequence[int]) -> int:
        return event_shape[-1] - 1

    def point_shape(self, dim: int) -> torch.Size:
        return torch.Size([dim + 1])

    def contains(self, x: Tensor, atol: float | None = None) -> Tensor:
        """``atol`` is relative to the time coordinate, which grows as cosh of the radius."""
        atol = math.sqrt(torch.finfo(x.dtype).eps) if atol is None else atol
        t = x[..., 0]
        want = (self._k(x) + x[..., 1:].square().sum(-1)).sqrt()
        return ((t - want).abs() <= atol * want) & want.isfinite()

    def base_point(
        self, event_shape: Sequence[int], *, dtype: torch.dtype | None = None, device: Any = None
    ) -> Tensor:
        first = self._k(torch.empty(0, dtype=dtype, device=device)).sqrt().reshape(1)
        return torch.nn.functional.pad(first, (0, event_shape[-1] - 1))

    def reach(self, event_shape: Sequence[int], like: Tensor) -> float:
        """Where squares of coordinates are within a factor of 50 of overflow."""
        return float(self._k(like.detach()).detach().sqrt()) * (math.log(torch.finfo(like.dtype).max) / 2 - 2)

    def farthest(self, x: Tensor) -> float:
        root = math.sqrt(float(self._k(x.detach()).detach()))
        return root * math.acosh(max(float(x.detach()[..., 0].max()) / root, 1.0))

    def project(self, x: Tensor) -> Tensor:
        y = x[..., 1:]
        return torch.cat([(self._k(x) + y.square().sum(-1, keepdim=True)).sqrt(), y], -1)

    def project_tangent(self, p: Tensor, u: Tensor) -> Tensor:
        return by_components(partial(self._project_tangent, self._k(p)), p, u)

    # --- metric ---------------------------------------------------------------------------------------------
    def to_tangent(self, p: Tensor, v: Tensor) -> Tensor:
        return by_components(partial(self._to_tangent, self._k(p)), p, v)

    def from_tangent(self, p: Tensor, u: Tensor) -> Tensor:
        return by_components(partial(self._from_tangent, self._k(p)), p, u)

    def killing_fields(self, p: Tensor) -> Tensor:
        r"""The boosts along the axes, :math:`(x_i, t\,e_i)`."""
        t, x = p[..., :1], p[..., 1:]
        return torch.cat([x.unsqueeze(-1), torch.diag_embed(t.expand_as(x))], -1)

    def lift(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The coordinates themselves, the time in units of the radius."""
        y = x[..., 1:]
        return y, (1 + y.square().sum(-1, keepdim=True) / self._k(x)).sqrt()

    def exp_frame(self, p: Tensor, v: Tensor) -> Tensor:
        return hyperboloid_exp(self._k(p), p, v, True)

    def log_frame(self, p: Tensor, q: Tensor) -> Tensor:
        return hyperboloid_log(self._k(p), p, q, True)

    def exp(self, p: Tensor, u: Tensor) -> Tensor:
        return hyperboloid_exp(self._k(p), p, u, False)

    def log(self, p: Tensor, q: Tensor) -> Tensor:
        return hyperboloid_log(self._k(p), p, q, False)

    def dist(self, p: Tensor, q: Tensor) -> Tensor:
        return by_components(partial(_dist, self._k(p)), p, q)

    def log_det_exp(self, p: Tensor, v: Tensor) -> Tensor:
        out = (v.shape[-1] - 1) * log_sinc_length(v, -1 / self._k(v), -1)
        return out.expand(common_shape(p.shape[:-1], v.shape[:-1]))

    def log_normal_by_numpy(self, p: Tensor, q: Tensor, spread: Tensor, full: bool) -> Tensor:
        return hyperboloid_normal(p, q, spread, self._k(p), full)

    def numpy_logarithm(self, event_shape: Sequence[int], p: Tensor, q: Tensor) -> Logarithm:
        return Logarithm(hyperboloid_logarithm, (self._k(p),))

    def geodesic(self, p: Tensor, u: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        t = torch.as_tensor(t, dtype=p.dtype, device=p.device).unsqueeze(-1)
        return by_components(partial(self._geodesic, self._k(p)), p, u, t)

    # The same, with the component axis first (see ops.components.by_components); x, y are spatial parts.
    @staticmethod
    def _project_tangent(k: Tensor, p: Tensor, u: Tensor) -> Tensor:
        x, w = p[1:], u[1:]
        t = (k + squared_norm(x)).sqrt()
        w = w + (((x * w).sum(0) - t * u[0]) / k) * x
        return torch.cat([((x * w).sum(0) / t).unsqueeze(0), w])

    @staticmethod
    def _to_tangent(k: Tensor, p: Tensor, v: Tensor) -> Tensor:
        x, R = p[1:], k.sqrt()
        c = (x * v).sum(0) / R
        return torch.cat([c.unsqueeze(0), v + (c / (R + (k + squared_norm(x)).sqrt())) * x])

    @staticmethod
    def _from_tangent(k: Tensor, p: Tensor, u: Tensor) -> Tensor:
        x, w = p[1:], u[1:]
        t = (k + squared_norm(x)).sqrt()
        return w - ((x * w).sum(0) / (t * (k.sqrt() + t))) * x

    def _geodesic(self, k: Tensor, p: Tensor, u: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        R, v = k.sqrt(), self._from_tangent(k, p, u)
        q = hyperboloid_exp(k, p.t(), (t * v).t(), True).t()
        # velocity B_x (cosh v, sinh |v|): spatial part cosh v + c x, where for x.v < 0 the terms of c are
        # multiplied out
        x, vv, t = p[1:] / R, squared_norm(v), t[0]
        cosh, sinh = cos_sinc_sqrt(vv * t * t / -k, -1)
        sinh = sinh * (t / R)  # over |v|
        xx, xv = squared_norm(x), (x * v).sum(0)
        tx = (1 + xx).sqrt()
        push, pull = sinh * vv, cosh * xv / (1 + tx)
        back = (xv * t < 0) & (xx > 1)
        par = xv / torch.where(back, xx, 1.0)
        num = sinh * push * squared_norm(v - par * x) + (2 * cosh * cosh / (1 + tx) - 1) * (par * xv)
        w = cosh * v + torch.where(back, num / torch.where(back, push - pull, 1.0), push + pull) * x
        return q, torch.cat([((q[1:] * w).sum(0) / q[0]).unsqueeze(0), w])


def _dist(k: Tensor, p: Tensor, q: Tensor) -> Tensor:
    """Gradient of the plain formula; value in float64 with error-free products, so right to rounding at every
    radius."""
    x, y = p[1:], q[1:]
    s = _half_chord2(k, x, y, (squared_norm(y - x), _across2(x, y - x)))
    with torch.no_grad():
        exact = _half_chord2(k.double(), x.double(), y.double(), _error_free(x.double(), y.double()))
    return 2 * k.sqrt() * torch.asinh(safe_sqrt(exact.to(s).detach() + (s - s.detach())))


def _half_chord2(k: Tensor, x: Tensor, y: Tensor, parts: tuple[Tensor, Tensor]) -> Tensor:
    """(L/2)^2 = sinh^2(d / 2 sqrt k)."""
    dd, across2 = parts
    xy, tt = (x * y).sum(0), (k + squared_norm(x)).sqrt() * (k + squared_norm(y)).sqrt()
    back = 2 * xy < -tt
    near = (k * dd + across2) / (2 * k * (k + tt + torch.where(back, 0.0, xy)))
    return torch.where(back, (tt - xy - k) / (2 * k), near)


def _across2(x: Tensor, r: Tensor) -> Tensor:
    """|x ^ r|^2."""
    xx = squared_norm(x)
    return xx * squared_norm(r - ((x * r).sum(0) / torch.where(xx == 0, 1.0, xx)) * x)


def _split(a: Tensor) -> tuple[Tensor, Tensor]:
    c = 134217729.0 * a  # 2^27 + 1
    high = c - (c - a)
    return high, a - high


def _error_free(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    r"""|y - x|^2 and |x ^ (y - x)|^2 with the errors of the difference and of the first projection carried
    along.

    Two points at radius r may differ by e^r more along x than across it, both counting alike in the distance.
    [1] Dekker, *A floating-point technique for extending the available precision*, 1971.
    """
    d = y - x
    z = d + x
    low = (y - z) + ((z - d) - x)  # d + low = y - x exactly
    xx = squared_norm(x)
    a = ((x * d).sum(0) / torch.where(xx == 0, 1.0, xx)).expand_as(x)
    ax = a * x
    (ah, al), (xh, xl) = _split(a), _split(x)
    error = ((ah * xh - ax) + ah * xl + al * xh) + al * xl  # ax + error = a x exactly
    return squared_norm(d), _across2(x, ((d - ax) - error) + low)
