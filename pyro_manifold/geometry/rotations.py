r"""Rotations :math:`SO(n)`, with the bi-invariant metric in which a rotation by an angle r in one plane has
length r.

.. math::
    \langle u, w\rangle = \tfrac12\,\mathrm{tr}(u^\top w), \qquad \exp_R(R\hat v) = R\,e^{\hat v}, \qquad
    \log\det d\exp(v) = \sum_{i<j} \log\Big|\mathrm{sinc}\,\frac{\lambda_i+\lambda_j}{2}\Big|
    \;\overset{n=3}{=}\; 2\log\Big|\frac{\sin(r/2)}{r/2}\Big|

with :math:`\pm i\lambda` the eigenvalues of :math:`\hat v`. On SO(3) the coordinates v are the rotation
vector: axis times angle in radians, :math:`|v| = r`.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..ops.arguments import checked
from ..ops.checks import common_shape
from ..ops.gram_schmidt import rotation_of_columns
from ..ops.numerics import fewer_turns, norm
from ..ops.numpy_logarithm import Logarithm
from ..ops.numpy_normal import density
from ..ops.numpy_operator import numpy_operator
from ..ops.numpy_rotations import rotation_logarithm
from ..ops.numpy_windings import is_short
from ..ops.orthogonal import haar, hat, polar, rotation_exp3, rotation_log3, size_of, vee
from ..ops.rotation_exp_log import log_det_dexp, rotation_exp, rotation_log
from ..ops.signed_trig import log_sinc_length
from ..ops.spherical import log_sphere_area
from .base import Geometry, moments_of_unit_columns
from .manifold import GeometricManifold
from .noise import NoiseMap, ProjectionNoise
from .registry import register_geometry
from .windings import centred_normal, check_unwrapped, log_wound_normal, windings

__all__ = ["SpecialOrthogonal", "SpecialOrthogonalGeometry"]


def _expm(v: Tensor) -> Tensor:
    if v.shape[-1] == 1:
        c, s = v.cos(), v.sin()
        return torch.cat([c, -s, s, c], -1).reshape(v.shape[:-1] + (2, 2))
    return rotation_exp3(fewer_turns(v)) if v.shape[-1] == 3 else rotation_exp(v)


def _logm(r: Tensor) -> Tensor:
    return rotation_log3(r) if r.shape[-1] == 3 else vee(rotation_log(r))


def _composed_normal3(full: bool, p: Tensor, q: Tensor, spread: Tensor) -> Tensor:
    v = _logm(p.double().mT @ q.double())
    return log_wound_normal(v, centred_normal(spread.double(), full), 2, half=2).to(p.dtype)


_NORMAL3 = [
    numpy_operator(density(rotation_logarithm), partial(_composed_normal3, full), (2, 2, 1 + full))
    for full in (False, True)
]


class SpecialOrthogonal(GeometricManifold):
    r"""Rotations of :math:`\mathbb R^n` as a geoopt manifold: orthogonal (n, n) matrices of determinant 1.

    Metric :math:`\tfrac12\mathrm{tr}(u^\top w)`: distance is the angle (radians) of the relative rotation on
    SO(3), the root sum of squares of its plane angles in general. Works with ``geoopt.ManifoldParameter`` and
    the Riemannian optimisers.

    :param int n: size of the matrices, at least 2.
    :raises ValueError: for another ``n``.

    >>> SpecialOrthogonal(3).dist(torch.eye(3), torch.diag(torch.tensor([-1.0, -1.0, 1.0])))  # half a turn
    tensor(3.1416)
    """

    @checked(n=2)
    def __init__(self, n: int) -> None:
        if not isinstance(n, int) or n < 2:
            raise ValueError(
                f"n: got {n!r}, expected an integer of at least 2, the size of the rotation matrices."
            )
        super().__init__((n, n), f"SO({n})")
        self.n = n

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        return 2 * self.proju(x, u)

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """Left translation: an isometry of tangent spaces."""
        return y @ (x.mT @ v)


@register_geometry(SpecialOrthogonal)
class SpecialOrthogonalGeometry(Geometry):
    r"""Geometry of :math:`SO(n)`, points of shape ``(n, n)``, origin I, left-invariant frame
    :math:`R\,\hat e_i`.

    Injectivity radius π, volume :math:`\prod_{k=1}^{n-1}|S^k|` (:math:`8\pi^2` for n = 3). At an angle of π,
    :meth:`log` returns one of the shortest vectors. Wrapped normals on SO(3) sum the windings
    :math:`(r + 2\pi k)v/|v|` about the axis.

    >>> geo = SpecialOrthogonalGeometry(SpecialOrthogonal(3))
    >>> geo.log_frame(torch.eye(3), geo.exp_frame(torch.eye(3), torch.tensor([0.0, 0.0, 1.5])))
    tensor([0.0000, 0.0000, 1.5000])
    """

    event_dim = 2
    membership = "orthogonal matrices of determinant +1"
    constant_inner = True
    has_finite_volume = True
    acting_group = "orthogonal"

    @property
    def has_ball_chart(self) -> bool:  # type: ignore[override]
        """For n <= 3, where every rotation but half turns is about one axis by one angle below π."""
        return self.manifold.n <= 3

    def act(self, g: Tensor, x: Tensor) -> Tensor:
        """:math:`gX`, for g of determinant 1."""
        return g @ x

    def dim(self, event_shape: Sequence[int]) -> int:
        n = self.manifold.n
        if tuple(event_shape) != (n, n):
            raise ValueError(f"points: got event shape {tuple(event_shape)}, expected ({n}, {n}).")
        return n * (n - 1) // 2

    def point_shape(self, dim: int) -> torch.Size:
        n = size_of(dim)
        self.dim((n, n))
        return torch.Size([n, n])

    def contains(self, x: Tensor, atol: float | None = None) -> Tensor:
        atol = math.sqrt(torch.finfo(x.dtype).eps) if atol is None else atol
        gram = x.mT @ x - torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
        return (gram.abs().amax((-1, -2)) <= atol) & (torch.linalg.det(x) > 0)  # a NaN compares false

    def base_point(
        self, event_shape: Sequence[int], *, dtype: torch.dtype | None = None, device: Any = None
    ) -> Tensor:
        self.dim(event_shape)
        return torch.eye(event_shape[0], dtype=dtype, device=device)

    def project(self, x: Tensor) -> Tensor:
        return polar(x, proper=True)

    def project_tangent(self, p: Tensor, u: Tensor) -> Tensor:
        a = p.mT @ u
        return p @ (a - a.mT) / 2

    def to_tangent(self, p: Tensor, v: Tensor) -> Tensor:
        return p @ hat(v)

    def from_tangent(self, p: Tensor, u: Tensor) -> Tensor:
        return vee(p.mT @ u)

    def embed_tangent(self, p: Tensor, v: Tensor) -> Tensor:
        return p @ hat(v) / math.sqrt(2)

    def ambient_coordinates(self, x: Tensor) -> Tensor:
        return x.flatten(-2) / math.sqrt(2)

    def feature_size(self, event_shape: Sequence[int]) -> int:
        return event_shape[-1] * (event_shape[-1] - 1)

    def from_features(self, h: Tensor, event_shape: Sequence[int]) -> Tensor:
        """The rotation whose first n - 1 columns are those of h, made orthonormal one after the other: for SO(3)
        the 6-D representation [1].

        [1] Zhou et al., *On the continuity of rotation representations in neural networks*, CVPR 2019, eq. 15."""
        n = self.manifold.n
        return rotation_of_columns(h.reshape(h.shape[:-1] + (n, n - 1)))

    def to_features(self, x: Tensor) -> Tensor:
        return x[..., :-1].flatten(-2)

    def inner(self, p: Tensor, u: Tensor, w: Tensor) -> Tensor:
        return (u * w).sum((-1, -2)) / 2

    def killing_fields(self, p: Tensor) -> Tensor:
        """The frame itself: right translations are isometries."""
        return self.frame(p)

    def transport(self, p: Tensor, q: Tensor, u: Tensor) -> Tensor:
        r"""With :math:`q = p\,e^X`: :math:`p\,a \mapsto q\,e^{-X/2} a\,e^{X/2}`."""
        half = _expm(0.5 * self.log_frame(p, q))
        return q @ (half.mT @ (p.mT @ u) @ half)

    def angles(self, x: Tensor) -> tuple[Tensor, list[str]]:
        """The rotation vector, axis times angle; on SO(2) the angle."""
        v = self.chart_inv(x)
        if v.shape[-1] == 1:
            return v, ["azimuth"]
        axes = "xyz" if v.shape[-1] == 3 else [str(i + 1) for i in range(v.shape[-1])]
        return v, [f"rotation_{c}" for c in axes]

    def noise_map(self, event_shape: Sequence[int]) -> NoiseMap:
        return ProjectionNoise(self, event_shape, event_shape[1], signed=True)

    def exp(self, p: Tensor, u: Tensor) -> Tensor:
        return p @ _expm(vee(p.mT @ u))

    def log(self, p: Tensor, q: Tensor) -> Tensor:
        return p @ hat(_logm(p.mT @ q))

    def exp_frame(self, p: Tensor, v: Tensor) -> Tensor:
        return p @ _expm(v)

    def log_frame(self, p: Tensor, q: Tensor) -> Tensor:
        return _logm(p.mT @ q)

    def dist(self, p: Tensor, q: Tensor) -> Tensor:
        return norm(_logm(p.mT @ q))

    def log_det_exp(self, p: Tensor, v: Tensor) -> Tensor:
        if v.shape[-1] <= 3:
            out = 2 * log_sinc_length(v, 0.25, 1) if v.shape[-1] == 3 else v.new_zeros(v.shape[:-1])
        else:
            out = log_det_dexp(v)
        return out.expand(common_shape(p.shape[:-2], v.shape[:-1]))

    def geodesic(self, p: Tensor, u: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        v = self.from_tangent(p, u)
        t = torch.as_tensor(t, dtype=p.dtype, device=p.device).unsqueeze(-1)
        q = self.exp_frame(p, t * v)
        return q, q @ hat(v)

    def preimages(self, p: Tensor, v: Tensor, radius: float) -> Tensor:
        """Windings about the axis for n <= 3; beyond, ``v`` alone, which is all there is within the
        injectivity radius.

        :raises NotImplementedError: for n > 3 and a ``radius`` beyond it.
        """
        if self.manifold.n <= 3:
            return windings(v, radius, math.pi)
        if radius > math.pi:
            raise NotImplementedError(
                f"{self.manifold.name}: preimages beyond pi are known for n <= 3 only, got {radius:.3g}."
            )
        return v.unsqueeze(0)

    def wrapped_limit(self, event_shape: Sequence[int]) -> float:
        """For n > 3 the largest angle of a skew normal matrix, about 2 sd :math:`\\sqrt n` and 6 sd on top,
        must stay below π."""
        n = self.manifold.n
        return math.inf if n <= 3 else math.pi / (6 + 2 * math.sqrt(n))

    def log_wrapped(self, p: Tensor, v: Tensor, base: Any) -> Tensor:
        """The sum over windings for n <= 3; beyond, the only term of a normal that stays within the
        injectivity radius.

        :raises NotImplementedError: for n > 3 and a wider normal.
        """
        n = self.manifold.n
        if n <= 3:
            return log_wound_normal(v, base, 2 * (n - 2), half=2)
        check_unwrapped(self, base, self.wrapped_limit((n, n)))
        return base.log_prob(v) - self.log_det_exp(p, v)

    def log_normal_by_numpy(self, p: Tensor, q: Tensor, spread: Tensor, full: bool) -> Tensor | None:
        return _NORMAL3[full](p, q, spread) if self.manifold.n == 3 and is_short(spread, 2) else None

    def numpy_logarithm(self, event_shape: Sequence[int], p: Tensor, q: Tensor) -> Logarithm | None:
        return Logarithm(rotation_logarithm, axes=1, power=2) if self.manifold.n == 3 else None

    def injectivity_radius(self, event_shape: Sequence[int]) -> float:
        return math.pi

    def log_volume(self, event_shape: Sequence[int]) -> float:
        self.dim(event_shape)
        return sum(log_sphere_area(k) for k in range(1, self.manifold.n))

    def uniform_moments(
        self, event_shape: Sequence[int], *, dtype: torch.dtype | None = None, device: Any = None
    ) -> tuple[Tensor, Tensor]:
        return moments_of_unit_columns(event_shape, dtype, device)

    def uniform_sample(
        self,
        shape: Sequence[int],
        event_shape: Sequence[int],
        *,
        dtype: torch.dtype | None = None,
        device: Any = None,
    ) -> Tensor:
        self.dim(event_shape)
        q = haar(torch.Size(shape) + torch.Size(event_shape), dtype=dtype, device=device)
        return torch.cat([q[..., :-1], q[..., -1:] * torch.linalg.det(q)[..., None, None].sign()], -1)
