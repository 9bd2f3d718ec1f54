r"""Flows on rotations of space, by splines of Hopf coordinates of the quaternion.

.. math::
    q = (w, x, y, z), \qquad a = w + iz = |a|\,e^{i(u+v)/2}, \quad b = x + iy = |b|\,e^{i(u-v)/2}, \qquad
    |a|^2 = \tfrac{1 + t}{2},\ |b|^2 = \tfrac{1 - t}{2}

The angles u, v and the height t do not depend on the sign of q, and the invariant measure of :math:`SO(3)` is
:math:`dt\,du\,dv` (u, v are sum and difference of Euler's first and last angle, t the cosine of the middle one). A
layer is

.. math::
    u' = s_1(u;\, v, t), \quad v' = s_2(v;\, u', t), \quad t' = s_3(t;\, u', v'), \qquad
    \log|\det J| = \log s_1' + \log s_2' + \log s_3'

with circular splines of u and v, and a spline of [-1, 1] of t. Where :math:`t = \pm1` only one combination of u
and v means anything: there both turn by fixed angles, and the slope of :math:`s_3` does not depend on them, so that
map and density are continuous. References: [1] Rezende et al., *Normalizing flows on tori and spheres*, ICML 2020
(splines). [2] Liu et al., *Delving into discrete normalizing flows on SO(3) manifold*, CVPR 2023 (layers between
fixed rotations).
"""

import geoopt
import torch
from torch import Tensor, nn

from ..constraints import on
from ..geometry.rotations import SpecialOrthogonal
from ..nn.conditioner import Conditioner
from ..ops.arguments import checked
from ..ops.bounded_splines import (
    IntervalPoint,
    circular_move,
    circular_size,
    interval_size,
    interval_spline,
)
from ..ops.circular import harmonics, plane_angle, wrap
from ..ops.orthogonal import quaternion, reflected
from ..ops.quaternion import rotation
from ..transforms.layers import HoldsLayers
from ..transforms.module import ModuleTransform
from .spline_layer import SplineLayer, faded, height_features

__all__ = ["HopfSpline", "RotationFlow"]


class HopfSpline(SplineLayer):
    r"""One layer of a :class:`RotationFlow`: a bijection f of unit quaternions with f(-q) = -f(q). The identity at
    first.

    :param int bins: bins of each spline.
    :param tuple hidden: units of the hidden layers of each network.
    :param int number: harmonics of angles and heights that the networks are given.
    :raises ValueError: for sizes that are not positive.

    Domain and codomain are the unit sphere of :math:`\mathbb R^4`; volumes are those of its area.

    >>> layer = HopfSpline()
    >>> layer(torch.tensor([0.5, 0.5, -0.5, 0.5]))
    tensor([ 0.5000,  0.5000, -0.5000,  0.5000], grad_fn=...)
    """

    mirrors: Tensor

    @checked(bins=2, number=1)
    def __init__(
        self, *, bins: int = 16, hidden: tuple[int, ...] = (64, 64), number: int = 4, cache_size: int = 0
    ) -> None:
        super().__init__(4, geoopt.Sphere(), number, cache_size)
        self.register_buffer("mirrors", torch.randn(4, 4))
        given = 2 * number + 1 + 2 * number  # the other angle and the height
        self.networks = nn.ModuleList(
            [
                Conditioner(given, circular_size(bins), hidden),
                Conditioner(given, circular_size(bins), hidden),
                Conditioner(6 * number, interval_size(bins), hidden),  # harmonics of u, v and u + v
                Conditioner(0, 4, hidden),  # turns and slopes where the networks have no influence
            ]
        )

    def _turn(
        self, i: int, angle: Tensor, other: Tensor, t: IntervalPoint, turns: Tensor, inverse: bool
    ) -> tuple[Tensor, Tensor]:
        """How far angle ``i`` is moved, and the log slope."""
        given = torch.cat([harmonics(other, self.number), height_features(t.height, self.number)], -1)
        raw = self.raw(i, given) * faded(t.lower * t.upper).unsqueeze(-1)
        raw = torch.cat([raw[..., :-1], raw[..., -1:] + turns[..., i : i + 1]], -1)
        return circular_move(angle, raw, inverse=inverse)

    def _move(
        self, t: IntervalPoint, u: Tensor, v: Tensor, ends: Tensor, inverse: bool
    ) -> tuple[IntervalPoint, Tensor, IntervalPoint]:
        given = torch.cat([harmonics(angle, self.number) for angle in (u, v, u + v)], -1)
        return interval_spline(t, self.raw(2, given), ends, inverse=inverse)

    def _run(self, q: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        q = reflected(self.with_batch_of_context(q, 1), self.mirrors)
        q = q / torch.linalg.vector_norm(q, dim=-1, keepdim=True)
        turns, ends = self.raw(3, q[..., :0]).split(2, -1)
        t, u, v = _hopf(q)
        if inverse:
            t, third, factors = self._move(t, u, v, ends, True)
            dv, second = self._turn(1, v, u, t, turns, True)
            du, first = self._turn(0, u, wrap(v + dv), t, turns, True)
        else:
            du, first = self._turn(0, u, v, t, turns, False)
            u = wrap(u + du)
            dv, second = self._turn(1, v, u, t, turns, False)
            _, third, factors = self._move(t, u, wrap(v + dv), ends, False)
        return reflected(_moved(q, factors, du, dv), self.mirrors, back=True), first + second + third

    def forward_and_log_volume(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._run(x, False)

    def inverse_and_log_volume(self, y: Tensor) -> tuple[Tensor, Tensor]:
        x, log_volume = self._run(y, True)
        return x, -log_volume


def _hopf(q: Tensor) -> tuple[IntervalPoint, Tensor, Tensor]:
    """t by its distances from both ends, u and v."""
    w, x, y, z = q.unbind(-1)
    t = IntervalPoint(2 * (w * w + z * z), 2 * (x * x + y * y))
    first, second = plane_angle(w, z), plane_angle(x, y)
    return t, wrap(first + second), wrap(first - second)


def _moved(q: Tensor, factors: IntervalPoint, du: Tensor, dv: Tensor) -> Tensor:
    """The quaternion after |a|^2 and |b|^2 were multiplied by factors, and the angles moved."""
    w, x, y, z = q.unbind(-1)
    w, z = _turned(w, z, factors.lower.sqrt(), (du + dv) / 2)
    x, y = _turned(x, y, factors.upper.sqrt(), (du - dv) / 2)
    return torch.stack([w, x, y, z], -1)


def _turned(c: Tensor, s: Tensor, factor: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    cos, sin = factor * angle.cos(), factor * angle.sin()
    return c * cos - s * sin, c * sin + s * cos


class RotationFlow(HoldsLayers):
    r"""A flow on :math:`SO(3)`: :class:`HopfSpline` layers between fixed random isometries.

    :param int depth: number of layers.
    :param options: those of :class:`HopfSpline`.
    :raises ValueError: for sizes that are not positive.

    Volumes are those of the package's metric, in which SO(3) has the volume :math:`8\pi^2`. A new flow is the
    identity.

    >>> import pyro.distributions as dist, pyro_manifold.distributions as mdist
    >>> flow = RotationFlow(depth=2)
    >>> d = dist.TransformedDistribution(mdist.ManifoldUniform(SpecialOrthogonal(3), (3, 3)), [flow])
    >>> d.log_prob(torch.eye(3))  # -log(8 pi^2)
    tensor(-4.3689, grad_fn=...)
    """

    @checked(depth=1)
    def __init__(self, depth: int = 8, *, cache_size: int = 0, **options: object) -> None:
        super().__init__(cache_size=cache_size)
        self.domain = self.codomain = on(SpecialOrthogonal(3))
        self.hold([HopfSpline(**options) for _ in range(depth)])  # type: ignore[arg-type]

    def forward_and_log_volume(self, x: Tensor) -> tuple[Tensor, Tensor]:
        q, log_volume = self.chain.forward_and_log_volume(quaternion(x))
        return _matrix(q), log_volume

    def inverse_and_log_volume(self, y: Tensor) -> tuple[Tensor, Tensor]:
        q, log_volume = self.chain.inverse_and_log_volume(quaternion(y))
        return _matrix(q), log_volume

    def jvp(self, x: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
        return ModuleTransform.jvp(self, x, tangents)

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        if tuple(shape[-2:]) != (3, 3):
            raise ValueError(
                f"value: got shape {tuple(shape)}; expected rotation matrices, (3, 3) on the last axes."
            )
        return torch.Size(shape)

    inverse_shape = forward_shape

    def __repr__(self) -> str:
        return f"RotationFlow(depth={len(self.layers)})"


def _matrix(q: Tensor) -> Tensor:
    q = q / torch.linalg.vector_norm(q, dim=-1, keepdim=True)
    return rotation(q.unsqueeze(-1) * q.unsqueeze(-2))
