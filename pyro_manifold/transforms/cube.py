r"""Maps from the cube onto compact manifolds that carry the uniform distribution to the uniform distribution.

.. math::
    \phi: [0, 1]^d \to M, \qquad |\det J_\phi(t)| = \mathrm{vol}(M) \text{ for every } t, \qquad
    \phi_\#\,\mathrm{Uniform}[0, 1]^d = \mathrm{Uniform}(M)

Each is one to one but for faces of the cube: those where an angle makes a full turn are glued to each other (the
seams), and a face where a circle shrinks to a point is all sent to that point (the poles).
"""

import math
from collections.abc import Callable
from typing import Any

import geoopt
import torch
from torch import Tensor
from torch.distributions import constraints

from ..constraints import on
from ..geometry import SpecialOrthogonal, Torus
from ..ops.arguments import checked
from ..ops.checks import check_all
from ..ops.circular import plane_angle, wrap
from ..ops.numerics import norm, safe_sqrt, within
from ..ops.orthogonal import quaternion
from ..ops.quaternion import rotation
from ..ops.tracing import is_concrete
from .base import SeparateVolume

__all__ = ["CubeToRotations", "CubeToSphere", "CubeToTorus", "CubeTransform"]

_TURN = 2 * math.pi


def _turns(c: Tensor, s: Tensor) -> Tensor:
    """The angle of the vectors (c, s) in turns, in [0, 1)."""
    turns = plane_angle(c, s) / _TURN
    turns = torch.where(turns < 0, turns + 1, turns)
    return torch.where(turns >= 1, turns - 1, turns)  # a rounding error below 0 became 1


class CubeTransform(SeparateVolume):
    """The base of measure-preserving maps from the cube: a subclass gives ``_call`` and ``_inverse``.

    :param geoopt.Manifold manifold: M, of finite volume.
    :param int dim: its dimension.
    """

    domain = constraints.independent(constraints.unit_interval, 1)

    def __init__(self, manifold: geoopt.Manifold, dim: int, cache_size: int = 0) -> None:
        super().__init__(cache_size=cache_size)
        self.manifold, self.dim = manifold, dim
        self.codomain = on(manifold)
        self.point_shape = self.codomain.geometry.point_shape(dim)
        self.constant = float(self.codomain.geometry.log_volume(self.point_shape))

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.dim == other.dim  # type: ignore[attr-defined]

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.dim})"

    def depends(self) -> list[Any] | None:
        return []

    def log_volume(self, x: Tensor) -> Tensor:
        return x.new_full(x.shape[:-1], self.constant)

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        if len(shape) < 1 or shape[-1] != self.dim:
            raise ValueError(
                f"value: got shape {tuple(shape)}; expected points of the cube, {self.dim} numbers on the last axis."
            )
        return torch.Size(shape[:-1]) + self.point_shape

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        cut = len(shape) - len(self.point_shape)
        if cut < 0 or shape[cut:] != self.point_shape:
            raise ValueError(
                f"value: got shape {tuple(shape)}; expected points of {self.manifold.name}, the last axes of "
                f"which are {tuple(self.point_shape)}."
            )
        return torch.Size(shape[:cut]) + torch.Size([self.dim])

    def check_input(self, x: Tensor, shape: Callable[[torch.Size], torch.Size]) -> None:
        """:raises ValueError: for other shapes, and where a point of the cube is to be given and is outside."""
        shape(x.shape)
        if shape == self.forward_shape and is_concrete(x):
            inside = (x >= 0) & (x <= 1)
            check_all(
                inside, "value", x, "numbers in [0, 1]", "Clamp them, or use the sigmoid of real numbers."
            )


class CubeToSphere(CubeTransform):
    r"""The cube onto the unit sphere :math:`S^d`, by Archimedes' theorem and its generalisation.

    .. math::
        S^1: \ (\cos 2\pi t, \sin 2\pi t), \qquad
        S^2: \ (r\cos 2\pi t_2,\ r\sin 2\pi t_2,\ 2t_1 - 1), \quad r = 2\sqrt{t_1(1 - t_1)}, \\
        S^d: \ \big(r\cos 2\pi t_2,\ r\sin 2\pi t_2,\ s\,\phi_{d-2}(t_3, \dots, t_d)\big), \quad
        s = t_1^{1/(d-1)},\ r = \sqrt{1 - s^2}

    The squared length of two coordinates of a uniform point of :math:`S^d` has the distribution
    Beta(1, (d - 1)/2), whose quantiles are these :math:`r^2`, and the rest is uniform on :math:`S^{d-2}`. The log
    volume is the log area of the sphere everywhere. Seams: :math:`t_2 \in \{0, 1\}`, and those of
    :math:`\phi_{d-2}`; where r or s is 0 the inverse gives one of the points that are sent there.

    :param int dim: d.
    :raises ValueError: unless it is positive; for points outside the cube.

    Reference: Archimedes, *On the sphere and cylinder*, I; Fang, Kotz and Ng, *Symmetric multivariate and related
    distributions* (1990), theorem 2.6 and section 1.4.

    >>> CubeToSphere(2)(torch.tensor([0.5, 0.25])).round(decimals=4)
    tensor([-0., 1., 0.])
    """

    @checked(dim=1)
    def __init__(self, dim: int, *, cache_size: int = 0) -> None:
        super().__init__(geoopt.Sphere(), dim, cache_size)

    def _call(self, x: Tensor) -> Tensor:
        return _to_sphere(x)

    def _inverse(self, y: Tensor) -> Tensor:
        return _from_sphere(y)


def _to_sphere(t: Tensor) -> Tensor:
    d = t.shape[-1]
    angle = _TURN * t[..., min(d, 2) - 1].unsqueeze(-1)
    circle = torch.cat([angle.cos(), angle.sin()], -1)
    if d == 1:
        return circle
    first = t[..., :1]
    if d == 2:
        return torch.cat([2 * safe_sqrt(first * (1 - first)) * circle, 2 * first - 1], -1)
    power = 1 / (d - 1)
    zero = first == 0
    log = torch.where(zero, 1.0, first).log()
    s = torch.where(zero, 0.0, (power * log).exp())
    r = torch.where(zero, 1.0, safe_sqrt(-torch.expm1(2 * power * log)))
    return torch.cat([r * circle, s * _to_sphere(t[..., 2:])], -1)


def _from_sphere(y: Tensor) -> Tensor:
    d = y.shape[-1] - 1
    angle = _turns(y[..., :1], y[..., 1:2])
    if d == 1:
        return angle
    if d == 2:
        z, square = y[..., 2:], y[..., :2].square().sum(-1, keepdim=True)
        # near the lower pole 1 + z has lost its digits, the distance from the axis has not
        first = torch.where(z < 0, 0.5 * square / (1 - torch.where(z < 0, z, 0.0)), 0.5 * (1 + z))
        return torch.cat([within(first, 0.0, 1.0), angle], -1)
    rest = y[..., 2:]
    s = norm(rest, keepdim=True)
    zero = s == 0
    pole = torch.nn.functional.pad(torch.ones_like(rest[..., :1]), (0, d - 2))
    rest = torch.where(zero, pole, rest / torch.where(zero, 1.0, s))
    square = y[..., :2].square().sum(-1, keepdim=True)
    short = square < 0.5  # there s is near 1 and has lost the digits of r
    from_r = torch.exp(0.5 * (d - 1) * torch.log1p(-torch.where(short, square, 0.0)))
    return torch.cat(
        [within(torch.where(short, from_r, s.pow(d - 1)), 0.0, 1.0), angle, _from_sphere(rest)], -1
    )


class CubeToTorus(CubeTransform):
    r"""The cube onto the flat torus, :math:`t \mapsto 2\pi t - \pi`, angles in :math:`[-\pi, \pi)`.

    The log volume is :math:`d\log 2\pi` everywhere; all faces are seams.

    :param int dim: d.
    :raises ValueError: unless it is positive; for points outside the cube.

    >>> CubeToTorus(2)(torch.tensor([0.5, 0.75]))
    tensor([0.0000, 1.5708])
    """

    @checked(dim=1)
    def __init__(self, dim: int, *, cache_size: int = 0) -> None:
        super().__init__(Torus(), dim, cache_size)

    def _call(self, x: Tensor) -> Tensor:
        return _TURN * (x - 0.5)

    def _inverse(self, y: Tensor) -> Tensor:
        return within(wrap(y) / _TURN + 0.5, 0.0, 1.0)


class CubeToRotations(CubeTransform):
    r"""The cube onto the rotations of space, SO(3), by Hopf coordinates of the quaternion.

    .. math::
        q = (w, x, y, z), \qquad w + iz = \sqrt{t_1}\,e^{i\pi(t_2 + t_3)}, \quad
        x + iy = \sqrt{1 - t_1}\,e^{i\pi(t_2 - t_3)}, \qquad \phi(t) = R(q)

    The uniform distribution becomes the invariant (Haar) one, as in Shoemake's algorithm, here with each rotation
    once: a turn of :math:`t_2` or :math:`t_3` changes the sign of q, which R does not see. The log volume is
    :math:`\log 8\pi^2` everywhere. Seams: :math:`t_2, t_3 \in \{0, 1\}`; at :math:`t_1 = 0` (1) only the
    difference (sum) of the angles matters.

    :raises ValueError: for points outside the cube.

    Reference: Shoemake, "Uniform random rotations", *Graphics Gems III* (1992).

    >>> CubeToRotations()(torch.tensor([1.0, 0.0, 0.0]))
    tensor([[1., 0., 0.],
            [0., 1., 0.],
            [0., 0., 1.]])
    """

    def __init__(self, *, cache_size: int = 0) -> None:
        super().__init__(SpecialOrthogonal(3), 3, cache_size)

    def __repr__(self) -> str:
        return "CubeToRotations()"

    def _call(self, x: Tensor) -> Tensor:
        t, u, v = x.unbind(-1)
        a, b = math.pi * (u + v), math.pi * (u - v)
        p, r = safe_sqrt(t), safe_sqrt(1 - t)
        q = torch.stack([p * a.cos(), r * b.cos(), r * b.sin(), p * a.sin()], -1)
        return rotation(q.unsqueeze(-1) * q.unsqueeze(-2))

    def _inverse(self, y: Tensor) -> Tensor:
        w, x, j, z = quaternion(y).unbind(-1)
        a, b = plane_angle(w, z), plane_angle(x, j)
        turns = torch.stack([a + b, a - b], -1) / _TURN
        turns = turns - turns.floor()
        turns = torch.where(turns >= 1, 0.0, turns)
        return torch.cat([within(w.square() + z.square(), 0.0, 1.0).unsqueeze(-1), turns], -1)
