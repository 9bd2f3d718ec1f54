r"""The hyperboloid :math:`t^2 - |x|^2 = k` of curvature :math:`-1/k` (geoopt's ``Lorentz``, whose k is a squared radius).

Every point (t, x) is read through its spatial coordinates x alone; :math:`t = \sqrt{k + |x|^2}`. With k = 1 for short, the
boost that takes the origin to x acts on spatial coordinates w (of time :math:`t_w`) as

.. math:: B_x w = w + x\Big(t_w + \frac{x\cdot w}{1+t_x}\Big)

and everything follows from it in the frame transported from the origin:

.. math:: \exp_x(v) = B_x\big(\mathrm{sinhc}|v|\,v\big), \qquad \log_x(y) = \frac{\operatorname{arsinh}|w|}{|w|}w,\ w = B_{-x}y

.. math:: d(x,y) = 2\operatorname{arsinh}\tfrac L2, \qquad
    L^2 = 2\,\frac{|x-y|^2 + |x\wedge y|^2}{1 + t_xt_y + x\cdot y}

No Minkowski product of large terms is ever formed (geoopt's distance is negative from radius 8 in float32).
"""

import math
from collections.abc import Sequence
from typing import Any

import geoopt
import torch
from torch import Tensor

from ..ops.numerics import arcsinc_sqrt, asinh, cos_sqrt, log_sinc_sqrt, norm, sinc_sqrt
from .base import Geometry, register_geometry

__all__ = ["HyperboloidGeometry"]


def _dot(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum(-1, keepdim=True)


def _sq(x: Tensor) -> Tensor:
    return x.square().sum(-1, keepdim=True)


class _Boost(torch.autograd.Function):
    """B_x w, arranged by the sign of x.w so that nothing larger than the inputs' own rounding is lost."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, w: Tensor) -> Tensor:
        xx, ww, xw = _sq(x), _sq(w), _dot(x, w)
        tx, tw = (1 + xx).sqrt(), (1 + ww).sqrt()
        sigma = x + w  # small when w undoes x; B_x w = sigma + x gamma
        xs = _dot(x, sigma)
        # x.w >= 0: all terms positive
        gamma = ww / (1 + tw) + xw / (1 + tx)
        # x.w < 0, x short
        opposite = xw < 0
        ratio = xs / xx.clamp_min(torch.finfo(x.dtype).tiny)
        perp2 = _sq(sigma - ratio * x)
        ss = perp2 + ratio * xs
        near = (((ww - xx) / (tx + tw) - 2) * xs + (1 + tx) * ss) / ((1 + tx) * (tx + tw))
        # x.w < 0, x long: y_par = (w_par^2 - |x|^2 (1 + |w_perp|^2)) / (w_par t_x - |x| t_w)
        r = xx.sqrt().clamp_min(torch.finfo(x.dtype).tiny)
        w_par = xw / r
        y_par = (ratio * (r - w_par) + perp2 * r) / (tw - w_par * (tx / r))
        far = (y_par - ratio * r) / r
        gamma = torch.where(opposite, torch.where(xx > 1, far, near), gamma)
        return sigma + x * gamma

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        x, w = ctx.saved_tensors
        tx, tw = (1 + _sq(x)).sqrt(), (1 + _sq(w)).sqrt()
        c = _dot(x, w) / (1 + tx)
        gx = _dot(x, g)
        dx = g * (tw + c) + (w - x * (c / tx)) * (gx / (1 + tx))
        dw = g + w * (gx / tw) + x * (gx / (1 + tx))
        return dx.sum_to_size(x.shape), dw.sum_to_size(w.shape)


@register_geometry(geoopt.Lorentz)
class HyperboloidGeometry(Geometry):
    r"""Geometry of ``geoopt.Lorentz(k)``, curvature -1/k (k may be learned); points ``(d + 1,)``, time first.

    The coordinates of a point at geodesic radius r fix it to :math:`\epsilon\sinh r` across and :math:`\epsilon` along the
    radius (k = 1); maps are right to that limit, :meth:`dist` to :math:`\epsilon` for the coordinates given. Distances
    up to 44 (float32) or 350 (float64), in units of :math:`\sqrt k`, do not overflow. [1] Nickel and Kiela, *Learning
    continuous hierarchies in the Lorentz model*, 2018. [2] Nagano et al., *A wrapped normal distribution on
    hyperbolic space*, 2019, eqs. 4-8.

    >>> import geoopt
    >>> geo = HyperboloidGeometry(geoopt.Lorentz())
    >>> geo.dist(geo.origin(2), geo.exp_frame(geo.origin(2), torch.tensor([3.0, 4.0])))
    tensor(5.)
    """

    has_chart = True

    def __init__(self, manifold: geoopt.Lorentz) -> None:
        super().__init__(manifold)
        if manifold.k.numel() != 1 or not (torch.compiler.is_compiling() or bool(manifold.k > 0)):
            raise ValueError(
                f"manifold: Lorentz needs one positive k (the squared radius, curvature -1/k), got {manifold.k.tolist()}."
            )

    def curvature(self, dtype: torch.dtype | None = None) -> Tensor:
        """-1/k, differentiable in k."""
        return -1 / self._k(dtype)

    def _k(self, dtype: torch.dtype | None) -> Tensor:
        k = self.manifold.k.reshape(())
        return k if dtype is None else k.to(dtype)

    def _lift(self, x: Tensor, k: Tensor) -> Tensor:
        return torch.cat([(k + _sq(x)).sqrt(), x], -1)

    # --- shapes and membership ---------------------------------------------------------------------------------------
    def dim(self, event_shape: Sequence[int]) -> int:
        return event_shape[-1] - 1

    def point_shape(self, dim: int) -> torch.Size:
        return torch.Size([dim + 1])

    def contains(self, x: Tensor, atol: float | None = None) -> Tensor:
        """``atol`` is relative to the time coordinate, which grows as cosh of the radius."""
        atol = math.sqrt(torch.finfo(x.dtype).eps) if atol is None else atol
        t = x[..., 0]
        want = (self._k(x.dtype) + x[..., 1:].square().sum(-1)).sqrt()
        return ((t - want).abs() <= atol * want) & want.isfinite()

    def origin(self, dim: int, *, dtype: torch.dtype | None = None, device: Any = None) -> Tensor:
        dtype = torch.get_default_dtype() if dtype is None else dtype
        k = self._k(dtype).to(device) if device is not None else self._k(dtype)
        return torch.nn.functional.pad(k.sqrt().reshape(1), (0, dim))

    def project(self, x: Tensor) -> Tensor:
        return self._lift(x[..., 1:], self._k(x.dtype))

    def project_tangent(self, p: Tensor, u: Tensor) -> Tensor:
        k, x, w = self._k(p.dtype), p[..., 1:], u[..., 1:]
        t = (k + _sq(x)).sqrt()
        w = w + x * ((_dot(x, w) - t * u[..., :1]) / k)
        return torch.cat([_dot(x, w) / t, w], -1)

    # --- metric ------------------------------------------------------------------------------------------------------
    def to_tangent(self, p: Tensor, v: Tensor) -> Tensor:
        k, x = self._k(p.dtype), p[..., 1:]
        R, xv = k.sqrt(), _dot(x, v)
        return torch.cat([xv / R, v + x * (xv / (R * (R + (k + _sq(x)).sqrt())))], -1)

    def from_tangent(self, p: Tensor, u: Tensor) -> Tensor:
        k, x, w = self._k(p.dtype), p[..., 1:], u[..., 1:]
        t = (k + _sq(x)).sqrt()
        return w - x * (_dot(x, w) / (t * (k.sqrt() + t)))

    def exp_frame(self, p: Tensor, v: Tensor) -> Tensor:
        k = self._k(p.dtype)
        R = k.sqrt()
        w = v * (sinc_sqrt(_sq(v) / -k, -1) / R)
        return self._lift(R * _Boost.apply(p[..., 1:] / R, w), k)

    def log_frame(self, p: Tensor, q: Tensor) -> Tensor:
        R = self._k(p.dtype).sqrt()
        w = _Boost.apply(p[..., 1:] / -R, q[..., 1:] / R)
        return w * (R * arcsinc_sqrt(-_sq(w), -1))

    def exp(self, p: Tensor, u: Tensor) -> Tensor:
        return self.exp_frame(p, self.from_tangent(p, u))

    def log(self, p: Tensor, q: Tensor) -> Tensor:
        return self.to_tangent(p, self.log_frame(p, q))

    def dist(self, p: Tensor, q: Tensor) -> Tensor:
        R = self._k(p.dtype).sqrt()
        return 2 * R * asinh(_half_chord(p[..., 1:], q[..., 1:], R))

    def log_det_exp(self, p: Tensor, v: Tensor) -> Tensor:
        out = (v.shape[-1] - 1) * log_sinc_sqrt(v.square().sum(-1) / -self._k(v.dtype), -1)
        return out.expand(torch.broadcast_shapes(p.shape[:-1], v.shape[:-1]))

    def geodesic(self, p: Tensor, u: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        k, x = self._k(p.dtype), p[..., 1:]
        R = k.sqrt()
        v = self.from_tangent(p, u)
        t = torch.as_tensor(t, dtype=p.dtype, device=p.device).unsqueeze(-1)
        q = self.exp_frame(p, t * v)
        # velocity B_x (cosh v, sinh |v|): spatial part cosh v + x c, where for x.v < 0 the terms of c are multiplied out
        x, vv = x / R, _sq(v)
        s = vv * t.square() / -k
        cosh, sinh = cos_sqrt(s, -1), t * sinc_sqrt(s, -1) / R  # sinh is over |v|
        xx, xv = _sq(x), _dot(x, v)
        tx = (1 + xx).sqrt()
        c = sinh * vv + cosh * xv / (1 + tx)
        back = (xv * t < 0) & (xx > 1)
        par = xv / torch.where(back, xx, 1.0)
        par2 = par * xv
        num = sinh.square() * vv * _sq(v - par * x) + (2 * cosh.square() / (1 + tx) - 1) * par2
        den = sinh * vv - cosh * xv / (1 + tx)
        c = torch.where(back, num / torch.where(back, den, 1.0), c)
        w = cosh * v + x * c
        y = q[..., 1:]
        return q, torch.cat([_dot(y, w) / q[..., :1], w], -1)


def _half_chord(x: Tensor, y: Tensor, R: Tensor) -> Tensor:
    r"""L/2 = sinh(d/2R): gradient of the plain formula, value free of cancellation (float64 and error-free products)."""
    x, y = x / R, y / R
    delta = y - x
    xy, tt = _dot(x, y), ((1 + _sq(x)) * (1 + _sq(y))).sqrt()
    back = (2 * xy < -tt).squeeze(-1)
    xx = _sq(x)
    perp = delta - x * (_dot(x, delta) / torch.where(xx == 0, 1.0, xx))
    near = norm(torch.cat([delta, norm(x, keepdim=True) * perp], -1)) * (0.5 / (1 + tt + xy)).sqrt().squeeze(-1)
    far = torch.where(back, 0.5 * (tt - xy - 1).squeeze(-1), 1.0)  # the root of 0 has no gradient, even where unused
    return torch.where(back, far.sqrt(), near)
