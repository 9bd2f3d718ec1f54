r"""Does a geometry keep its contract? Each check compares one method with another or with automatic
differentiation."""

import math
import warnings
from collections.abc import Callable, Collection

import geoopt
import torch
from torch import Tensor

from ..geometry import Geometry, geometry
from ..ops.matrix_exp import matrix_exp
from ._batch_axes import batch_axes
from ._tools import batch_jacobian, close, finite, random_points, random_tangent, tolerance
from .not_applicable import NotApplicable, run_checks
from .quadrature import MAX_DIM, manifold_rule

__all__ = ["GEOMETRY_CHECKS", "check_geometry"]

_N = 16


def _shapes_and_membership(geo: Geometry, dim: int, like: Tensor) -> None:
    """Dimensions, dtypes, ``contains`` for each element of a batch, projections."""
    shape = geo.point_shape(dim)
    assert geo.dim(shape) == dim and len(shape) == geo.event_dim
    origin = geo.origin(dim, dtype=like.dtype, device=like.device)
    assert origin.shape == shape and origin.dtype == like.dtype and origin.device == like.device
    p = random_points(geo, dim, _N, like)
    assert p.dtype == like.dtype and type(p) is Tensor
    assert bool(geo.contains(p).all()), "exp_frame left the manifold"
    p2 = p.clone()
    p2[1] = math.nan
    assert geo.contains(p2).tolist() == [i != 1 for i in range(_N)], (
        "contains must answer for each element, and reject NaN"
    )
    assert bool(geo.contains(geo.project(p + 0.1 * torch.randn_like(p))).all()), "project left the manifold"
    close(geo.project(p), p, "project moves points of the manifold", 10)
    u = geo.project_tangent(p, torch.randn_like(p))
    close(geo.project_tangent(p, u), u, "project_tangent is not idempotent", 10)
    close(geo.to_tangent(p, geo.from_tangent(p, u)), u, "to_tangent does not invert from_tangent", 100)
    for name in ("to_tangent", "exp_frame", "log_det_exp"):
        for size in {dim - 1, dim + 1, 1} - {dim}:
            try:
                getattr(geo, name)(p, like.new_zeros(_N, size))
            except ValueError as e:
                assert f"({_N}, {size})" in str(e), f"{name}: the message does not name the shape: {e}"
            else:
                raise AssertionError(f"{name} takes {size} coordinates on a manifold of dimension {dim}")


def _exp_and_log(geo: Geometry, dim: int, like: Tensor) -> None:
    """exp and log are inverse, |log| is the distance, the distance is a metric."""
    p, v = random_points(geo, dim, _N, like), random_tangent(geo, dim, _N, like)
    q = geo.exp_frame(p, v)
    close(geo.exp(p, geo.to_tangent(p, v)), q, "exp and exp_frame differ", 10)
    close(geo.log_frame(p, q), v, "log does not invert exp", 100)
    close(geo.to_tangent(p, geo.log_frame(p, q)), geo.log(p, q), "log and log_frame differ", 100)
    close(geo.dist(p, q), v.norm(dim=-1), "dist(p, exp_p v) is not |v|", 100)
    close(geo.dist(q, p), geo.dist(p, q), "dist is not symmetric")
    x = p.roll(1, 0)
    slack = geo.dist(p, x) + geo.dist(x, q) - geo.dist(p, q)
    assert bool((slack >= -tolerance(p, 10)).all()), "dist breaks the triangle inequality"
    assert bool((geo.dist(p, p) <= tolerance(p)).all()), "dist(p, p) is not 0"


def _frames(geo: Geometry, dim: int, like: Tensor) -> None:
    """The frame is orthonormal (lengths and angles are geodesic ones) and is transported from the origin."""
    p = random_points(geo, dim, _N, like)
    v, w = (random_tangent(geo, dim, _N, like) for _ in range(2))
    close(geo.from_tangent(p, geo.to_tangent(p, v)), v, "from_tangent does not invert to_tangent", 100)
    # first variation: d/dt dist(exp_p(v), exp_p(t w)) at t = 0 is -<v, w>/|v|, so the frame's inner product
    # is the metric's
    t = torch.zeros(_N, 1, dtype=like.dtype, device=like.device, requires_grad=True)
    v = v * (0.5 / v.norm(dim=-1, keepdim=True).clamp_min(0.5))
    q = geo.exp(p, geo.to_tangent(p, v))  # through the ambient vector, so that its length counts too
    (slope,) = torch.autograd.grad(geo.dist(q, geo.exp_frame(p, t * w)).sum(), t)
    close(q, geo.exp_frame(p, v), "exp of the ambient vector and exp_frame differ", 100)
    close(slope.squeeze(-1), -(v * w).sum(-1) / v.norm(dim=-1), "the frame is not orthonormal", 1000)
    origin = geo.origin(dim, dtype=like.dtype, device=like.device).expand_as(p)
    q, velocity = geo.geodesic(origin, geo.to_tangent(origin, v), 1.0)
    close(
        geo.to_tangent(q, v), velocity, "the frame is not the origin's, transported along the geodesic", 100
    )


def _tangent_spaces(geo: Geometry, dim: int, like: Tensor) -> None:
    """``frame`` is orthonormal in ``inner``; ``transport`` is an isometry that carries geodesics' velocities
    along; ``random_tangent`` is tangent; chords are distances to second order."""
    p = random_points(geo, dim, _N, like)
    frame = geo.frame(p)
    each = p.unsqueeze(1).expand_as(frame)
    eye = torch.eye(dim, dtype=like.dtype, device=like.device).expand(_N, dim, dim)
    gram = geo.inner(each.unsqueeze(2), frame.unsqueeze(2), frame.unsqueeze(1))
    close(gram, eye, "frame is not orthonormal in inner", 100)
    u = geo.random_tangent(p, (2,))
    assert u.shape == (2, *p.shape)
    close(geo.project_tangent(p, u), u, "random_tangent is not tangent", 100)
    close(geo.pack(geo.split(p)), p, "pack does not invert split")
    if not geo.is_symmetric:
        return
    v = random_tangent(geo, dim, _N, like)
    near = geo.exp_frame(p, 1e-2 * v)
    short = geo.dist(p, near)
    gap = (geo.chord(p, near) - short).abs()
    assert bool((gap <= 1e-3 * short + tolerance(p)).all()), "a short chord is not the distance"
    q, velocity = geo.geodesic(p, geo.to_tangent(p, v), 1.0)
    close(
        geo.transport(p, q, geo.to_tangent(p, v)), velocity, "transport does not carry velocities along", 1000
    )
    a, b = (geo.transport(p, q, x) for x in u)
    close(geo.inner(q, a, b), geo.inner(p, *u), "transport is not an isometry", 1000)


def _geodesics(geo: Geometry, dim: int, like: Tensor) -> None:
    """Geodesics agree with exp, keep their speed, can be continued and reversed."""
    p, v = random_points(geo, dim, _N, like), random_tangent(geo, dim, _N, like)
    u = geo.to_tangent(p, v)
    q, w = geo.geodesic(p, u, 0.5)
    close(q, geo.exp_frame(p, 0.5 * v), "geodesic and exp differ", 10)
    close(geo.from_tangent(q, w).norm(dim=-1), v.norm(dim=-1), "a geodesic changes its speed", 100)
    close(geo.project_tangent(q, w), w, "the velocity is not tangent", 100)
    end, last = geo.geodesic(q, w, torch.full((_N,), 0.5, dtype=like.dtype, device=like.device))
    close(end, geo.exp_frame(p, v), "two half steps are not one step", 100)
    back, opposite = geo.geodesic(end, -last, 1.0)
    close(back, p, "a reversed geodesic does not return", 1000)
    close(opposite, -u, "a reversed geodesic does not return its velocity", 1000)


def _volume_change(geo: Geometry, dim: int, like: Tensor) -> None:
    """``log_det_exp`` is the log-determinant of the autodiff Jacobian of exp in orthonormal frames."""
    p, v = random_points(geo, dim, _N, like), random_tangent(geo, dim, _N, like)
    v[0] = 0.0
    q = geo.exp_frame(p, v)
    jacobian = batch_jacobian(lambda x: geo.exp_frame(p, x), v)
    columns = torch.stack([geo.from_tangent(q, c.reshape(q.shape)) for c in jacobian.unbind(-1)], -1)
    factor = 0.1 if like.dtype == torch.float64 else 30
    close(geo.log_det_exp(p, v), torch.linalg.slogdet(columns).logabsdet, "log_det_exp", factor)


def _coincidence(geo: Geometry, dim: int, like: Tensor) -> None:
    """Values and gradients are finite at p = q and v = 0, and right there: exp'(0) = 1 and log' = -1."""
    p = random_points(geo, dim, _N, like)
    zero = torch.zeros(_N, dim, dtype=like.dtype, device=like.device)
    eye = torch.eye(dim, dtype=like.dtype, device=like.device).expand(_N, dim, dim)
    close(geo.exp_frame(p, zero), p, "exp_p(0) is not p", 10)
    close(geo.log_frame(p, p), zero, "log_p(p) is not 0", 10)
    to_and_fro = batch_jacobian(lambda x: geo.log_frame(p, geo.exp_frame(p, x)), zero)
    close(to_and_fro, eye, "d(log_p exp_p) at 0 is not the identity", 1000)
    for f in (geo.dist, lambda a, b: geo.log(a, b).flatten(1).sum(-1)):
        a, b = p.clone().requires_grad_(), p.clone().requires_grad_()
        for g in torch.autograd.grad(f(a, b).sum(), (a, b)):
            finite(g, "gradient at coinciding points")


def _global_chart(geo: Geometry, dim: int, like: Tensor) -> None:
    """A chart is a bijection; without one the injectivity radius is finite."""
    if not geo.has_chart:
        assert not math.isinf(float(geo.injectivity_radius(geo.point_shape(dim)))), (
            "infinite injectivity radius but no chart"
        )
        return
    v = random_tangent(geo, dim, _N, like, spread=2.0)
    close(geo.chart_inv(geo.chart(v)), v, "chart_inv does not invert chart", 1000)


def _volume(geo: Geometry, dim: int, like: Tensor) -> None:
    """A finite volume is what quadrature says, and uniform draws have its moments (each wrong alarm <
    1e-6)."""
    shape = geo.point_shape(dim)
    if not geo.has_finite_volume:
        known = "infinite" if geo.has_chart else "infinite, or its formula is not known"
        raise NotApplicable(f"the volume is {known}")
    if dim > MAX_DIM:
        raise NotApplicable(f"quadrature is for at most {MAX_DIM} dimensions, this manifold has {dim}")
    origin = geo.origin(dim, dtype=like.dtype, device=like.device)
    rule = manifold_rule(geo.manifold, origin, 10.0, 48, 32)
    log_volume = torch.as_tensor(geo.log_volume(shape), dtype=like.dtype, device=like.device)
    close(rule.weights.sum().log(), log_volume, "log_volume", 10)
    x = geo.uniform_sample((20_000,), shape, dtype=like.dtype, device=like.device)
    assert x.shape == (20_000,) + shape and x.dtype == like.dtype and bool(geo.contains(x).all())
    for p in (origin, random_points(geo, dim, 2, like)[1]):
        mean = rule.integrate(geo.dist(p.expand_as(rule.points), rule.points)) / rule.weights.sum()
        draws = geo.dist(p.expand_as(x), x)
        error = float((draws.mean() - mean) / (draws.std() / math.sqrt(len(draws)) + tolerance(mean)))
        assert abs(error) < 5, (
            f"uniform_sample: the mean distance to {p.tolist()} is {error:.1f} standard errors off"
        )


def _reach(geo: Geometry, dim: int) -> float:
    """Injectivity radius, infinite where it is not known."""
    return float(geo.injectivity_radius(geo.point_shape(dim))) if geo.has_log else math.inf


def _embedding(geo: Geometry, dim: int, like: Tensor) -> None:
    """``embed_tangent`` is linear and isometric; where geodesics close, it should turn along them (a warning,
    not an error)."""
    p = random_points(geo, dim, _N, like)
    v, w = (torch.randn(_N, dim, dtype=like.dtype, device=like.device) for _ in range(2))

    def embed(q: Tensor, x: Tensor) -> Tensor:
        return geo.embed_tangent(q, x).flatten(x.dim() - 1)

    close((embed(p, v) * embed(p, w)).sum(-1), (v * w).sum(-1), "embed_tangent is not isometric", 10)
    close(embed(p, 2 * v - w), 2 * embed(p, v) - embed(p, w), "embed_tangent is not linear", 10)
    reach = _reach(geo, dim)
    if math.isinf(reach):
        return
    p = geo.origin(dim, dtype=like.dtype, device=like.device).expand_as(
        p
    )  # its frame is carried along: v stays the same
    v = v / v.norm(dim=-1, keepdim=True)
    start, turned = embed(p, v), torch.zeros(_N, dtype=torch.bool, device=like.device)
    for t in torch.linspace(0, 2, 17).tolist():
        q, u = geo.geodesic(p, geo.to_tangent(p, v), t * reach)
        turned |= (embed(q, geo.from_tangent(q, u)) * start).sum(-1) < 0.5
    if not bool(turned.any()):
        warnings.warn(
            f"embed_tangent: geodesics of {geo.manifold.name} close (injectivity radius {reach:.3g}), but "
            "the embedded velocity never turns along them, so NUTS sees no U-turn and doubles every path to "
            "its limit; give embed_tangent the velocity of an embedding in Euclidean space.",
            stacklevel=3,
        )


def _preimages(geo: Geometry, dim: int, like: Tensor) -> None:
    """All preimages map to one point, start with the vector given, are distinct, and none is missing: a
    wrapped normal that is summed over them has mass 1."""
    if not math.isinf(geo.wrapped_limit(geo.point_shape(dim))):
        raise NotApplicable("windings are not known here: a wide wrapped normal is refused when it is made")
    p, v = random_points(geo, dim, _N, like), random_tangent(geo, dim, _N, like)
    vs = geo.preimages(p, v, 8.0)
    close(vs[0], v, "the first preimage is not the vector itself")
    q = geo.exp_frame(p.expand(vs.shape[:2] + p.shape[1:]), vs)
    close(q, geo.exp_frame(p, v).expand_as(q), "a preimage maps elsewhere", 1000)
    gaps = torch.cdist(vs.transpose(0, 1), vs.transpose(0, 1))
    eye = torch.eye(len(vs), dtype=torch.bool, device=like.device)
    assert bool((gaps[:, ~eye] > 1e-3).all()), "a preimage is listed twice"
    reach = _reach(geo, dim)
    if math.isinf(reach) or dim > MAX_DIM:
        return
    p, sd = p[1], 0.5 * reach
    radius = sd * (dim**0.5 + 3)
    x, weights = manifold_rule(geo.manifold, p, radius, 24, 16)
    p = p.expand_as(x)
    vs = geo.preimages(p, geo.log_frame(p, x), radius)
    normal = -0.5 * (vs / sd).square().sum(-1) - dim * math.log(sd * math.sqrt(2 * math.pi))
    mass = (
        weights * (normal - geo.log_det_exp(p.expand(vs.shape[:1] + p.shape), vs)).logsumexp(0).exp()
    ).sum()
    assert abs(float(mass) - 1) < 0.01, (
        f"preimages are missing: a normal summed over them has mass {float(mass):.4f}, not 1"
    )


def _group_action(geo: Geometry, dim: int, like: Tensor) -> None:
    """The matrices that act keep distances, and their inverses undo them."""
    if geo.acting_group is None:
        raise NotApplicable("no group of matrices acts on it")
    p, q = random_points(geo, dim, _N, like), random_points(geo, dim, _N, like)
    n = p.shape[-1]
    a = torch.randn(n, n, dtype=like.dtype, device=like.device)
    g = matrix_exp(0.3 * (a - a.mT if geo.acting_group == "orthogonal" else a))
    moved = geo.act(g, p)
    assert bool(geo.contains(moved).all()), "the group takes points off the manifold"
    close(geo.dist(moved, geo.act(g, q)), geo.dist(p, q), "the group does not keep distances", 100)
    close(geo.act(torch.linalg.inv(g), moved), p, "the inverse matrix does not undo the action", 100)


def _features(geo: Geometry, dim: int, like: Tensor) -> None:
    """``from_features`` inverts ``to_features`` and takes any numbers, zeros and equal ones too, to points with a
    finite gradient."""
    shape = geo.point_shape(dim)
    p = random_points(geo, dim, _N, like)
    size = geo.feature_size(shape)
    h = geo.to_features(p)
    assert h.shape == (_N, size) and h.dtype == like.dtype
    close(geo.from_features(h, shape), p, "from_features does not invert to_features", 1000)
    noise = torch.randn(2, _N, size, dtype=like.dtype, device=like.device)
    noise[0, 0], noise[0, 1] = 0.0, 1.0
    noise.requires_grad_()
    x = geo.from_features(noise, shape)
    assert x.shape == (2, _N) + shape and bool(geo.contains(x).all()), "from_features leaves the manifold"
    (slope,) = torch.autograd.grad((x * torch.randn_like(x)).sum(), noise)
    finite(slope, "gradient of from_features")
    assert geo.from_features(noise[:, :0], shape).shape == (2, 0) + shape, "from_features refuses no rows"


GEOMETRY_CHECKS: dict[str, Callable[[Geometry, int, Tensor], None]] = {
    f.__name__.strip("_"): f
    for f in (
        _shapes_and_membership,
        batch_axes,
        _exp_and_log,
        _frames,
        _tangent_spaces,
        _embedding,
        _geodesics,
        _volume_change,
        _coincidence,
        _global_chart,
        _volume,
        _preimages,
        _group_action,
        _features,
    )
}


def check_geometry(
    manifold: geoopt.Manifold,
    dim: int,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
    skip: Collection[str] = (),
) -> dict[str, str]:
    """Run every check of :data:`GEOMETRY_CHECKS` on one member of a family of manifolds.

    :param geoopt.Manifold manifold: with a registered geometry.
    :param int dim: dimension of the member.
    :param skip: names of checks to leave out.
    :returns: the checks that do not apply, each with its reason.
    :warns UserWarning: where geodesics close but ``embed_tangent`` does not turn along them.
    :raises AssertionError: naming what does not hold and by how much.

    >>> check_geometry(geoopt.Sphere(), dim=2)
    {}
    """
    return run_checks(
        GEOMETRY_CHECKS, skip, geometry(manifold), dim, torch.empty((), dtype=dtype, device=device)
    )
