r"""The one place that knows a manifold's formulas: :class:`Geometry`, one subclass per manifold, found by
:func:`~pyro_manifold.geometry.geometry`.

geoopt's manifolds carry no dimension, nor do we: a geometry reads it off the shape of the points it is given.
Notation: ``p, q, x`` points (manifold coordinates), ``u`` an ambient tangent vector, ``v`` its coordinates in
the orthonormal frame of :math:`T_pM` (one trailing axis of size ``dim``, so :math:`|v|` is geodesic length).
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..ops.checks import common_shape
from ..ops.numerics import norm, scalar
from ..ops.numpy_logarithm import Logarithm
from ..ops.orthogonal import hat
from ..ops.signed_trig import cos_sqrt, sinc_sqrt
from ..ops.tracing import is_concrete
from .contract import GeometryContract
from .noise import ChartNoise, NoiseMap
from .windings import nan_beyond_traced, normal_radius

__all__ = ["Geometry"]


class Geometry(GeometryContract):
    """Exponential map, frames and volumes of one manifold, vectorised over leading batch axes.

    Subclasses must give the abstract methods; the others have a default that is right when those are. Other
    layers ask for capabilities (``has_chart``, ``is_flat``, ``constant_curvature``, ...) and never which
    class it is.

    :param manifold: the geoopt manifold whose parameters (curvature, say) are read at each call, so they may
        be learned.
    """

    _exact = (
        "contains",
        "project",
        "project_tangent",
        "to_tangent",
        "from_tangent",
        "embed_tangent",
        "exp",
        "log",
        "dist",
        "exp_frame",
        "log_frame",
        "log_det_exp",
        "geodesic",
        "preimages",
        "log_wrapped",
        "chart",
        "chart_inv",
        "lift",
        "from_features",
        "to_features",
        "uniform_sample",
        "inner",
        "frame",
        "transport",
        "random_tangent",
        "chord",
        "killing_fields",
    )
    has_chart = False  # is ``chart`` (exp at the origin) a bijection R^dim -> M?
    in_linear_space = False  # are geodesics cos(sqrt(K) r) p + ..., so that ambient means make sense?
    is_flat = False  # is the curvature zero everywhere?
    constant_inner = False  # is ``inner`` the same function of two ambient vectors at every point?
    is_symmetric = True  # are the geodesic symmetries exp_m(-log_m x) isometries?
    has_log = True  # are ``log``, ``dist``, ``log_det_exp`` and ``injectivity_radius`` known?
    has_global_log = True  # do ``log`` and ``dist`` have a closed form, for any two points?
    has_finite_volume = False  # are ``log_volume`` and ``uniform_sample`` known?
    acting_group: str | None = (
        None  # matrices that :meth:`act` takes: "orthogonal", "linear" (invertible) or none
    )

    @property
    def has_ball_chart(self) -> bool:
        """Is exp, at any point, a bijection from the open ball of the injectivity radius onto the manifold but
        for a set of measure 0? Of products this is asked of every factor."""
        return self.has_chart

    def act(self, g: Tensor, x: Tensor) -> Tensor:
        """The isometry that the matrix ``g``, shape ``batch + (n, n)``, is of the points ``x``, where
        :attr:`acting_group` names one; that of the inverse matrix undoes it.

        :raises NotImplementedError: elsewhere.
        """
        raise NotImplementedError(
            f"{self.manifold.name}: no group of matrices acts on it by isometries that are known here."
        )

    def reach(self, event_shape: Sequence[int], like: Tensor) -> float:
        """Distance from the origin up to which points are held by coordinates in the dtype of ``like``;
        infinite by default.

        Distributions check draws that lie farther out one by one, and raise where the dtype cannot hold one.
        """
        return math.inf

    def farthest(self, x: Tensor) -> float:
        """Distance from the origin to the farthest of the points ``x``."""
        origin = self.base_point(self.event_shape(x), dtype=x.dtype, device=x.device)
        return float(self.dist(origin.expand_as(x), x).max())

    # --- factors, and what the manifold is a multiple of ----------------------------------------------------
    @property
    def factors(self) -> "tuple[Geometry, ...]":
        """Geometries of the factors of a product, in order, none of them a product itself; else
        ``(self,)``."""
        return (self,)

    def factor_shapes(self, event_shape: Sequence[int]) -> list[torch.Size]:
        """Event shapes of the factors."""
        return [torch.Size(event_shape)]

    def split(self, x: Tensor) -> list[Tensor]:
        """The factors' points (or ambient vectors), each in its own shape."""
        return [x]

    def pack(self, parts: Sequence[Tensor]) -> Tensor:
        """Inverse of :meth:`split`."""
        return parts[0]

    def split_coordinates(self, v: Tensor) -> list[Tensor]:
        """The factors' frame coordinates."""
        return [v]

    @property
    def unscaled(self) -> "Geometry":
        """The geometry of which this one multiplies all lengths by :meth:`unit`."""
        return self

    def unit(self, like: Tensor) -> Tensor:
        """The factor by which lengths exceed those of :attr:`unscaled`, a scalar in the dtype of ``like``."""
        return scalar(1.0, like)

    def same_manifold(self, other: "Geometry", like: Tensor) -> bool:
        """Is ``other`` known to describe the same points with the same metric, hence the same measure?

        True for one manifold object, or one class and equal constant curvature (in the dtype of ``like``)."""
        if type(self) is not type(other):
            return False
        if self.manifold is other.manifold:
            return True
        a = self.constant_curvature(like)
        b = other.constant_curvature(like)
        return a is not None and b is not None and torch.equal(a, b)

    # --- metric ---------------------------------------------------------------------------------------------
    def embed_tangent(self, p: Tensor, v: Tensor) -> Tensor:
        """The tangent vector with frame coordinates ``v`` as an element of one inner product space for all p,
        isometrically.

        Samplers add and compare velocities at different points there, and end a path where it turns back.
        Default: the frame coordinates themselves, which never turn along a closed geodesic: where geodesics
        close, give a vector that does, such as the ambient one of an embedding in Euclidean space.
        """
        return v

    def ambient_coordinates(self, x: Tensor) -> Tensor | None:
        """The points as vectors of a Euclidean space in which the manifold lies isometrically, ``batch +
        (m,)``; ``None`` where none is known. Their derivative is :meth:`embed_tangent`."""
        return None

    def chord(self, p: Tensor, q: Tensor) -> Tensor:
        """Length of the straight line between p and q in :meth:`ambient_coordinates`, or :meth:`dist` without
        such. It agrees with the distance of near points to second order, and exists without a logarithm."""
        a = self.ambient_coordinates(p)
        b = self.ambient_coordinates(q)
        return self.dist(p, q) if a is None or b is None else norm(a - b)

    def inner(self, p: Tensor, u: Tensor, w: Tensor) -> Tensor:
        """Inner product of ambient tangent vectors at p, batch shape."""
        return (self.from_tangent(p, u) * self.from_tangent(p, w)).sum(-1)

    def frame(self, p: Tensor) -> Tensor:
        """The orthonormal frame at p: ``dim`` ambient vectors on a new axis, ``batch + (dim,) + event``."""
        event = self.event_shape(p)
        batch = p.shape[: p.dim() - self.event_dim]
        dim = self.dim(event)
        eye = torch.eye(dim, dtype=p.dtype, device=p.device).expand(batch + (dim, dim))
        return self.to_tangent(p.unsqueeze(-1 - self.event_dim).expand(batch + (dim,) + event), eye)

    def transport(self, p: Tensor, q: Tensor, u: Tensor) -> Tensor:
        r"""Parallel transport of the ambient tangent vector u along the shortest geodesic from p to q.

        By default from the geodesic symmetry :math:`s_m(x) = \exp_m(-\log_m x)` about the midpoint m, an
        isometry of symmetric spaces with :math:`(ds_m)_p = -\text{transport}` [1].

        :raises NotImplementedError: on other manifolds.

        [1] Pennec, *Parallel transport with pole ladder*, 2018, sec. 3.
        """
        if not self.is_symmetric:
            raise NotImplementedError(
                f"{self.manifold.name}: parallel transport has no closed form; use to_tangent(q, "
                "from_tangent(p, u)), an isometry of tangent spaces that is not parallel."
            )
        shape = common_shape(p.shape, q.shape, u.shape)
        p, q, u = (x.expand(shape).contiguous() for x in (p, q, u))  # torch's jvp takes no expanded tensors
        m = self.exp_frame(p, 0.5 * self.log_frame(p, q))
        moved = torch.func.jvp(lambda x: self.exp_frame(m, -self.log_frame(m, x)), (p,), (u,))[1]
        return self.project_tangent(q, -moved)

    def random_tangent(self, p: Tensor, sample_shape: Sequence[int] = ()) -> Tensor:
        """Standard normal ambient tangent vectors at p, shape ``sample_shape + p.shape``."""
        p = p.expand(torch.Size(sample_shape) + p.shape)
        batch = p.shape[: p.dim() - self.event_dim]
        v = torch.randn(batch + (self.dim(self.event_shape(p)),), dtype=p.dtype, device=p.device)
        return self.to_tangent(p, v)

    def killing_fields(self, p: Tensor) -> Tensor | None:
        """Generators of isometries, vector fields without divergence, that span every tangent space: their
        ambient vectors at p on a new axis, ``batch + (m,) + event``; ``None`` where there are none such, or
        none are known."""
        return None

    def preimages(self, p: Tensor, v: Tensor, radius: float) -> Tensor:
        """All frame vectors with the same :meth:`exp` as ``v``: ``v`` itself first, then at least those no
        longer than ``radius``, each once; shape ``(k,) + v.shape``. The default, ``v`` alone, is right where
        exp is injective.

        The new axis is in front of the whole batch, so callers expand ``v`` to every batch axis that takes
        part.
        """
        return v.unsqueeze(0)

    def log_isotropic(self, p: Tensor, q: Tensor, scale: Tensor) -> Tensor | None:
        r"""Log density at q, w.r.t. volume, of :math:`\mathcal N(0, \sigma^2 I)` at p wrapped by exp, where it
        can be computed from the distance alone faster than by :meth:`log_wrapped`; otherwise ``None``.

        :param scale: :math:`\sigma`, whose shape broadcasts with the batch shapes of p and q.
        """
        return None

    def in_double(self, x: Tensor) -> Tensor:
        """The points in float64; those that float32 holds to rounding, on the manifold again where that is cheap."""
        return x.double()

    def log_normal_by_numpy(self, p: Tensor, q: Tensor, spread: Tensor, full: bool) -> Tensor | None:
        r"""Log density at q, w.r.t. volume, of :math:`\mathcal N(0, \Sigma)` at p wrapped by exp, as one
        operator for tensors on the CPU (:mod:`pyro_manifold.ops.numpy_operator`); ``None`` where there is none.

        :param spread: standard deviations, ``batch + (dim,)``, or Cholesky factors if ``full``.
        """
        return None

    def numpy_logarithm(self, event_shape: Sequence[int], p: Tensor, q: Tensor) -> Logarithm | None:
        """How NumPy computes logarithms, for densities on products; ``None`` where there is no way.

        :param p: points, or points of a product of which this is a factor; q likewise.
        """
        return None

    def log_wrapped(self, p: Tensor, v: Tensor, base: Any) -> Tensor:
        r"""Log density at :math:`\exp_p(v)`, w.r.t. volume, of the centred normal ``base`` of frame
        coordinates wrapped by exp.

        A sum over :meth:`preimages`, as far as the normal reaches; overridden where the sum has a closed
        form, factorises or has a shorter dual. The batch shapes of p, v and ``base`` broadcast. A compiled or
        traced program has a fixed number of terms and gives NaN for a normal wider than 2.5 along some
        direction.

        :param base: ``Independent(Normal)`` or ``MultivariateNormal`` with mean 0 and event shape ``(dim,)``.
        """
        event = self.event_shape(p)
        batch = common_shape(p.shape[: p.dim() - self.event_dim], v.shape[:-1], base.batch_shape)
        p, v = p.expand(batch + event), v.expand(batch + v.shape[-1:])
        if v.numel() == 0:
            return v.sum(-1)
        longest = v.detach().abs().amax() * math.sqrt(v.shape[-1])
        reach = self.injectivity_radius(event)
        unbounded = not isinstance(reach, Tensor) and math.isinf(reach)
        if not unbounded and (
            not is_concrete(longest) or bool(longest > reach)
        ):  # the tangent vector of a draw may wind around many times
            v = self.log_frame(p, self.exp_frame(p, v))
        vs = self.preimages(p, v, normal_radius(base))
        return nan_beyond_traced(torch.logsumexp(base.log_prob(vs) - self.log_det_exp(p, vs), 0), base)

    def wrapped_limit(self, event_shape: Sequence[int]) -> float:
        """Largest standard deviation along any direction for which :meth:`log_wrapped` is known."""
        return math.inf

    def constant_curvature(self, like: Tensor) -> Tensor | None:
        """Sectional curvature K of flat and hyperbolic space and of spheres, as a scalar in the dtype and on
        the device of ``like``; ``None`` on other manifolds (where it varies, or distance is not radial as on
        a flat torus)."""
        return None

    def curvature(self, like: Tensor) -> Tensor:
        """:meth:`constant_curvature`.

        :raises NotImplementedError: where there is none.
        """
        k = self.constant_curvature(like)
        if k is None:
            raise NotImplementedError(
                f"{self.manifold.name} has no constant curvature; distributions that depend on distance alone "
                "(RiemannianNormal) need it. Use WrappedNormal, or one site per factor of a product."
            )
        return k

    # --- globals --------------------------------------------------------------------------------------------
    def injectivity_radius(self, event_shape: Sequence[int]) -> float | Tensor:
        """Radius within which :meth:`exp` is a diffeomorphism (infinite by default)."""
        return math.inf

    def log_volume(self, event_shape: Sequence[int]) -> Tensor | float:
        """Log of the total Riemannian volume, where :attr:`has_finite_volume`."""
        raise NotImplementedError(self.unknown("volume"))

    def unknown(self, what: str) -> str:
        """Message for a quantity that the manifold does not have or whose formula is not known."""
        return (
            f"{self.manifold.name} has no finite volume; use WrappedNormal or RiemannianNormal instead of a "
            "uniform distribution."
        )

    def uniform_sample(
        self,
        shape: Sequence[int],
        event_shape: Sequence[int],
        *,
        dtype: torch.dtype | None = None,
        device: Any = None,
    ) -> Tensor:
        """Draws from the normalised Riemannian volume, of shape ``shape + event_shape``, where
        :attr:`has_finite_volume`."""
        raise NotImplementedError(self.unknown("uniform distribution"))

    def scatter(
        self,
        shape: Sequence[int],
        event_shape: Sequence[int],
        *,
        dtype: torch.dtype | None = None,
        device: Any = None,
    ) -> Tensor:
        """Scattered points to start from, ``shape + event_shape``: uniform where possible, else those that
        :meth:`wander` reaches from the base point."""
        if self.has_finite_volume:
            return self.uniform_sample(shape, event_shape, dtype=dtype, device=device)
        p = self.base_point(event_shape, dtype=dtype, device=device)
        return self.wander(p.expand(torch.Size(shape) + p.shape))

    def wander(self, p: Tensor) -> Tensor:
        """For each point ``p`` a point scattered about it: exp of a standard normal tangent vector."""
        return self.exp(p, self.random_tangent(p))

    def uniform_moments(
        self, event_shape: Sequence[int], *, dtype: torch.dtype | None = None, device: Any = None
    ) -> tuple[Tensor, Tensor]:
        """Mean and variance of each coordinate of :meth:`uniform_sample`, both of shape ``event_shape``,
        where they are known."""
        raise NotImplementedError(
            f"{self.manifold.name}: mean and variance of the coordinates of a uniform draw are not known or "
            "do not exist; take them from draws."
        )

    def exact_mean(self, x: Tensor, w: Tensor) -> Tensor | None:
        """Frechet mean of the points x, ``(n,) + batch + event``, with weights w, ``(n,) + batch``, that sum
        to 1; ``None`` where it has no closed form."""
        return None

    def angles(self, x: Tensor) -> tuple[Tensor, list[str]] | None:
        """Angles (radians) that describe the points, ``batch + (m,)``, and their names (azimuth for those on
        a circle); ``None`` where there are none."""
        return None

    def coordinate_names(self, event_shape: Sequence[int]) -> list[str]:
        """Names of the coordinates of a point along its last axis."""
        return [str(i) for i in range(event_shape[-1])] if event_shape else []

    # --- from flat space ------------------------------------------------------------------------------------
    def noise_map(self, event_shape: Sequence[int]) -> NoiseMap | None:
        """The map from standard normal numbers to points, for reparametrisation; ``None`` where none is
        known."""
        return ChartNoise(self, event_shape) if self.has_chart else None

    def chart(self, v: Tensor) -> Tensor:
        """The global chart R^dim -> M: exp at the origin. Only where :attr:`has_chart`."""
        origin = self.origin(v.shape[-1], dtype=v.dtype, device=v.device)
        return self.exp_frame(origin.expand(v.shape[:-1] + origin.shape), v)

    def chart_inv(self, x: Tensor) -> Tensor:
        """Inverse of :meth:`chart`."""
        origin = self.base_point(self.event_shape(x), dtype=x.dtype, device=x.device)
        return self.log_frame(origin.expand_as(x), x)

    def lift(self, x: Tensor) -> tuple[Tensor, Tensor]:
        r"""Of the normal coordinates v at the origin, in constant curvature K:
        :math:`\frac{\sin\sqrt K|v|}{\sqrt K|v|}v` and :math:`\cos\sqrt K|v|` (with an axis of size 1), the
        coordinates of x on a sphere or hyperboloid. Only where :attr:`has_chart`."""
        v = self.chart_inv(x)
        s = self.curvature(x) * v.square().sum(-1, keepdim=True)
        return sinc_sqrt(s) * v, cos_sqrt(s)

    # --- from and to vectors of features, for networks ------------------------------------------------------
    def feature_size(self, event_shape: Sequence[int]) -> int:
        """How many numbers :meth:`to_features` gives and :meth:`from_features` takes."""
        return self.dim(event_shape) if self.has_chart else math.prod(event_shape)

    def from_features(self, h: Tensor, event_shape: Sequence[int]) -> Tensor:
        """The point that any real numbers h, ``batch + (feature_size,)``, describe: a map onto the manifold, which
        has :meth:`to_features` as a right inverse. It is differentiable but for a set of measure 0 (zero vectors,
        dependent columns), where a point is chosen and the gradient is finite.

        The chart, where there is one, so features are normal coordinates at the origin; else :meth:`project` of
        the coordinates.
        """
        return self.chart(h) if self.has_chart else self.project(h.reshape(h.shape[:-1] + tuple(event_shape)))

    def to_features(self, x: Tensor) -> Tensor:
        """Numbers that describe the points x, ``batch + (feature_size,)``, continuous on the whole manifold."""
        return self.chart_inv(x) if self.has_chart else x.flatten(x.dim() - self.event_dim)


def turned(p: Tensor, event_dim: int) -> Tensor:
    """The points p, vectors or matrices of n rows, times each skew matrix of a basis: the derivative of their
    rotations."""
    n = p.shape[-event_dim]
    eye = torch.eye(n * (n - 1) // 2, dtype=p.dtype, device=p.device)
    columns = p.unsqueeze(-1) if event_dim == 1 else p
    moved = hat(eye) @ columns.unsqueeze(-3)
    return moved.squeeze(-1) if event_dim == 1 else moved


def moments_of_unit_columns(
    event_shape: Sequence[int], dtype: torch.dtype | None, device: Any
) -> tuple[Tensor, Tensor]:
    """Mean 0 and variance 1/n of uniform unit vectors of R^n, or of the entries of a matrix that has them as
    columns."""
    mean = torch.zeros(torch.Size(event_shape), dtype=dtype, device=device)
    return mean, torch.full_like(mean, 1 / event_shape[0])
