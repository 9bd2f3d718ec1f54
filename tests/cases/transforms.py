"""Maps, fixed and learned, with points of their domains."""

from functools import cache, partial
from typing import Any

import geoopt
import torch
from torch import Tensor
from torch.distributions import ComposeTransform, ReshapeTransform

from pyro_manifold import flows, nn
from pyro_manifold import transforms as mt
from pyro_manifold.geometry import Torus

from .base import TransformCase
from .geometries import BALL, BALL2, LORENTZ, S1_H2, SO3, SPD, SPHERE, SPHERE_R2, TORUS


def learned(module: Any, size: float = 0.5) -> Any:
    """As after some training: parameters moved at random, the same way at each call."""
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(
                size
                * torch.randn(p.shape, generator=draws)
                / max(1, p.shape[-1] if p.dim() > 1 else 1) ** 0.5
            )
    return module


def circle() -> mt.Chart:
    return mt.Chart(_wind, _unwind, 1, 2)


def _wind(u: Tensor, centre: float = 0.0) -> Tensor:
    return torch.cat([u.cos() + centre, u.sin()], -1)


def _unwind(x: Tensor, centre: float = 0.0) -> Tensor:
    return torch.atan2(x[..., 1:], x[..., :1] - centre)


def two_circles() -> list[mt.Chart]:
    """Of radius 1, their centres 4 apart."""
    return [mt.Chart(partial(_wind, centre=c), partial(_unwind, centre=c), 1, 2) for c in (-2.0, 2.0)]


def ring() -> mt.Chart:
    """The torus in space whose tube has radius 0.7 and runs at a distance of 2 from the axis."""
    return mt.Chart(_ring, _unring, 2, 3)


def _ring(u: Tensor) -> Tensor:
    a, b = u.unbind(-1)
    r = 2 + 0.7 * b.cos()
    return torch.stack([r * a.cos(), r * a.sin(), 0.7 * b.sin()], -1)


def _unring(x: Tensor) -> Tensor:
    r = torch.linalg.vector_norm(x[..., :2], dim=-1)
    return torch.stack([torch.atan2(x[..., 1], x[..., 0]), torch.atan2(x[..., 2], r - 2)], -1)


@cache
def injective_flow_of(dtype: torch.dtype, device: torch.device) -> flows.InjectiveFlow:
    return injective_flow().to(dtype=dtype, device=device)


def injective_flow() -> flows.InjectiveFlow:
    """The same one at each call: checks make a distribution twice and compare."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [flows.Coupling(3, [2]), flows.LULinear(3), flows.Coupling(3, [0, 1], kind="affine")]
    return learned(flows.InjectiveFlow(mt.Pad(2, 3), layers))


def in_chart(manifold: geoopt.Manifold, layer: Any, loc: Tensor | None = None) -> flows.InChart:
    """With a manifold of its own, since ``.to(dtype)`` converts its curvature too."""
    for part in getattr(layer, "parts", [layer]):
        if isinstance(part, torch.nn.Module):
            learned(part)
    return flows.InChart(manifold, layer, loc)


SMALL: dict[str, Any] = dict(bins=6, hidden=(8,), number=2)


def seeded(make: Any) -> Any:
    """The same one at each call, where the constructor draws."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


def sphere_layer(dim: int, levels: int | None = None) -> flows.CylindricalSpline:
    return seeded(lambda: learned(flows.CylindricalSpline(dim, levels, **SMALL), 0.2))


def continuous(manifold: geoopt.Manifold, shape: Any, size: float, **options: Any) -> flows.ContinuousFlow:
    """A gentle field, solved to almost all digits: its derivatives are compared with those of the solution."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        field = nn.TangentField(manifold, shape, (4,))
    learned(field.net, size)
    return flows.ContinuousFlow(field, **{"rtol": 1e-11, "atol": 1e-11, **options})


def _mix(points: int, dim: int) -> ComposeTransform:
    """A coupling of the tangent coordinates of several points."""
    one, flat = (points, dim), (points * dim,)
    layer = flows.Coupling(points * dim, range(dim))
    return ComposeTransform([ReshapeTransform(one, flat), layer, ReshapeTransform(flat, one)])


def field(number: int, *shape: int) -> Any:
    """Fields of coordinates, the same at each call."""
    return (0.7 * torch.randn(number, *shape, generator=torch.Generator().manual_seed(1))).tolist()


def points(manifold: geoopt.Manifold, number: int, *shape: int) -> Any:
    """Fields of points of a manifold, not all near its origin."""
    v = torch.tensor(field(number, *shape), dtype=torch.float64)
    return mt.ExpChart(manifold)(v).tolist()


def glow(manifold: geoopt.Manifold, shape: tuple[int, int, int], loc: Any, **options: Any) -> Any:
    def make() -> flows.MultiScaleField:
        point = torch.tensor(loc)
        layers = flows.glow_scales(manifold, shape, point, **{"depth": 2, "hidden": 4, **options})
        return learned(flows.MultiScaleField(manifold, shape, layers, point), 0.2)

    return seeded(make)


OFF = {
    "changed_values": "a base point that is moved off the manifold has no chart; its layers are cases of their own"
}
V2 = [[0.0, 0.0], [0.3, -0.4], [1.2, 0.5], [-0.7, 1.1]]
V3 = [[0.0, 0.0, 0.0], [0.5, -0.3, 0.2], [1.0, 1.2, -0.7]]
V1 = [[0.1], [-1.0], [2.0]]
S1 = [[1.0, 0.0], [0.6, 0.8], [-0.8, 0.6]]
S2 = [[1.0, 0.0, 0.0], [0.0, 0.6, 0.8], [0.48, -0.6, 0.64]]
X2 = [0.36, 0.48, 0.8]  # a point of S^2
B2 = [[0.0, 0.0], [0.3, -0.4], [-0.5, 0.6]]
P2 = [[[1.0, 0.0], [0.0, 1.0]], [[2.0, 0.5], [0.5, 0.8]], [[0.3, -0.1], [-0.1, 1.4]]]  # of SPD(2)
H = [[1.0, 0.0, 0.0], [3.0**0.5, 1.0, -1.0], [2.0**0.5, 0.0, 1.0]]
H2 = [1.25**0.5, 0.3, -0.4]  # a point of the hyperboloid
R3 = [[0.6, -0.8, 0.0], [0.8, 0.6, 0.0], [0.0, 0.0, 1.0]]  # a rotation
_CYCLE = [[0.0, 0.3, 1.3], [1.0, 0.0, 0.3], [0.0, 1.0, 0.0]]  # its permutation is not its own inverse
STIEFEL = geoopt.CanonicalStiefel()
S1_T2 = geoopt.ProductManifold((geoopt.Sphere(), 2), (Torus(), 2))
T3 = [[0.0, 3.0, 1.0], [-3.1, 0.4, 2.0], [1.0, -1.0, -2.5]]
Q = [[0.5, 0.5, -0.5, 0.5], [0.1, -0.7, 0.5, 0.5], [0.0, 0.6, 0.0, -0.8]]
CUBE = [[0.3, 0.9, 0.2], [0.9, 0.1, 0.6], [0.02, 0.5, 0.97]]
ROTATIONS = [
    R3,
    [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]],
    [[1.0, 0, 0], [0, -0.28, -0.96], [0, 0.96, -0.28]],
]
TRANSFORMS = [
    TransformCase(
        "ball-to-hyperboloid",
        lambda: mt.BallToHyperboloid(BALL, LORENTZ),
        {},
        [[0.0, 0.0], [0.3, -0.4], [-0.8, 0.5]],
    ),
    TransformCase(
        "sphere-to-stereographic",
        lambda: mt.SphereToStereographic(SPHERE, geoopt.SphereProjection(k=0.5)),
        {},
        [[1.0, 0.0, 0.0], [0.6, 0.0, -0.8], [-0.28, 0.96, 0.0]],
    ),
    TransformCase("stereographic-chart", lambda: mt.StereographicChart(2), {}, V2),
    TransformCase("exp-sphere", lambda loc: mt.ExpMap(SPHERE, loc), dict(loc=X2), V2),
    TransformCase("exp-chart-sphere", lambda loc: mt.ExpChart(SPHERE, loc), dict(loc=X2), V2),
    TransformCase("exp-chart-SO3", lambda loc: mt.ExpChart(SO3, loc), dict(loc=R3), V3),
    TransformCase(
        "exp-chart-product",
        lambda loc: mt.ExpChart(S1_H2, loc),
        dict(loc=[0.6, 0.8, 0.1, 0.2]),
        [[2.5, 1.0, -1.0], [1.0, 0.0, 0.3]],
    ),
    TransformCase("exp-circle", lambda loc: mt.ExpMap(SPHERE, loc), dict(loc=[0.6, 0.8]), V1),
    TransformCase("exp-ball", lambda loc: mt.ExpMap(BALL2, loc), dict(loc=[0.3, -0.2]), V2),
    TransformCase("exp-ball-origin", lambda: mt.ExpMap(BALL), {}, V2),
    TransformCase("exp-lorentz", lambda loc: mt.ExpMap(LORENTZ, loc), dict(loc=H2), V2),
    TransformCase("exp-SO3", lambda loc: mt.ExpMap(SO3, loc), dict(loc=R3), V3),
    TransformCase("exp-SPD2", lambda loc: mt.ExpMap(SPD, loc), dict(loc=[[1.5, 0.3], [0.3, 0.7]]), V3),
    TransformCase("exp-torus", lambda loc: mt.ExpMap(TORUS, loc), dict(loc=[3.0, -1.0]), V2),
    TransformCase("exp-scaled", lambda loc: mt.ExpMap(SPHERE_R2, loc), dict(loc=X2), V2),
    TransformCase(
        "exp-product",
        lambda loc: mt.ExpMap(S1_H2, loc),
        dict(loc=[0.6, 0.8, 0.1, 0.2]),
        [[0.5, 1.0, -1.0], [1.0, 0.0, 0.3]],
    ),
    TransformCase(
        "polar-sphere",
        lambda loc: mt.PolarExpMap(SPHERE, loc),
        dict(loc=X2),
        [[0.5, 0.6, 0.8], [2.0, 0.0, -1.0]],
    ),
    TransformCase(
        "polar-ball",
        lambda loc: mt.PolarExpMap(BALL, loc),
        dict(loc=[0.1, 0.2]),
        [[0.5, 0.6, 0.8], [2.0, 0.0, -1.0]],
    ),
    TransformCase("translation-ball", lambda loc: mt.Translation(BALL, loc), dict(loc=[0.3, -0.2]), B2),
    TransformCase("translation-sphere", lambda loc: mt.Translation(SPHERE, loc), dict(loc=X2), S2),
    TransformCase("left-multiplication", lambda m: mt.LeftMultiplication(m), dict(m=R3), ROTATIONS),
    TransformCase("cube-to-circle", lambda: mt.CubeToSphere(1), {}, [[0.3], [0.9], [0.02]]),
    TransformCase("cube-to-sphere", lambda: mt.CubeToSphere(2), {}, [[0.3, 0.9], [0.9, 0.1], [0.02, 0.5]]),
    TransformCase("cube-to-3-sphere", lambda: mt.CubeToSphere(3), {}, CUBE),
    TransformCase("cube-to-4-sphere", lambda: mt.CubeToSphere(4), {}, [[*t, 0.4] for t in CUBE]),
    TransformCase("cube-to-torus", lambda: mt.CubeToTorus(3), {}, CUBE),
    TransformCase("cube-to-rotations", lambda: mt.CubeToRotations(), {}, CUBE),
    TransformCase(
        "learned-embedding",
        lambda: seeded(lambda: flows.LearnedEmbedding(SPHERE, 2, (6,))),
        {},
        [[0.3, 0.9], [0.9, 0.1], [0.02, 0.5]],
        skip=dict.fromkeys(["inverse", "volume_change", "changed_values"], "the encoder is no exact inverse"),
    ),
    TransformCase("pad", lambda: mt.Pad(2, 4), {}, V2),
    TransformCase(
        "linear-embedding",
        lambda matrix: mt.LinearEmbedding(matrix, matrix[:, 0]),
        dict(matrix=[[1.0, 0.5], [0.3, -2.0], [0.7, 0.0]]),
        V2,
    ),
    TransformCase("conformal", lambda: learned(mt.ConformalEmbedding(2, 4, blocks=2)), {}, V2),
    TransformCase("chart-circle", circle, {}, V1),
    TransformCase("coupling-spline", lambda: learned(flows.Coupling(3, [0, 2])), {}, V3),
    TransformCase("coupling-affine", lambda: learned(flows.Coupling(3, [1], kind="affine")), {}, V3),
    TransformCase(
        "autoregressive", lambda: learned(flows.Autoregressive(3, reverse=True, hidden=(7, 6))), {}, V3
    ),
    TransformCase(
        "autoregressive-spline",
        lambda: learned(flows.Autoregressive(3, kind="spline", bins=4, hidden=(7,))),
        {},
        V3,
    ),
    TransformCase("spline", lambda: learned(flows.Spline(3)), {}, V3),
    TransformCase(
        "affine",
        lambda matrix, loc: flows.Affine(matrix, loc),
        dict(matrix=[[0.5, 1.0, 0.0], [0.0, -0.3, 0.2], [2.0, 0.0, 1.0]], loc=[1.0, 0.0, -2.0]),
        V3,
        skip={"gradients": "its matrix is fixed"},
    ),
    TransformCase("special-conformal", lambda: learned(flows.SpecialConformal(3)), {}, V3),
    TransformCase("lu-linear", lambda: learned(flows.LULinear(3)), {}, V3),
    TransformCase("lu-cycle", lambda: learned(flows.LULinear(3, torch.tensor(_CYCLE))), {}, V3),
    TransformCase("among", lambda: learned(flows.Partial(3, 2, [flows.Coupling(2, [0])])), {}, V3),
    TransformCase("symmetric-volume", mt.SymmetricVolume, {}, P2),
    TransformCase(
        "in-chart-SPD2",
        lambda loc: in_chart(geoopt.SymmetricPositiveDefinite(), flows.Coupling(3, [0, 2]), loc),
        dict(loc=[[1.5, 0.3], [0.3, 0.7]]),
        P2,
    ),
    TransformCase(
        "in-chart-ball", lambda: in_chart(geoopt.PoincareBall(c=1.0), flows.Coupling(2, [1])), {}, B2
    ),
    TransformCase(
        "in-chart-lorentz", lambda loc: in_chart(geoopt.Lorentz(), flows.Spline(2), loc), dict(loc=H2), H
    ),
    TransformCase(
        "in-chart-field",
        lambda: in_chart(geoopt.SymmetricPositiveDefinite(), _mix(2, 3)),
        {},
        [P2[:2], P2[1:]],
    ),
    TransformCase(
        "in-chart-sphere",
        lambda: in_chart(geoopt.Sphere(), flows.Coupling(2, [1])),
        {},
        S2,
    ),
    TransformCase("circular-spline", lambda: learned(flows.CircularSpline(3, [0, 2], **SMALL), 0.2), {}, T3),
    TransformCase("circular-one", lambda: learned(flows.CircularSpline(1, bins=6)), {}, V1),
    TransformCase(
        "circular-autoregressive", lambda: learned(flows.CircularAutoregressive(3, **SMALL), 0.2), {}, T3
    ),
    TransformCase("torus-flow", lambda: learned(flows.TorusFlow(3, 1, **SMALL), 0.2), {}, T3),
    TransformCase("cylindrical-spline-circle", lambda: sphere_layer(1), {}, S1),
    TransformCase("cylindrical-spline-S2", lambda: sphere_layer(2), {}, S2),
    TransformCase("cylindrical-spline-S3", lambda: sphere_layer(3), {}, Q),
    TransformCase("cylindrical-spline-one-height", lambda: sphere_layer(3, 1), {}, Q),
    TransformCase(
        "sphere-flow", lambda: seeded(lambda: learned(flows.SphereFlow(2, 1, **SMALL), 0.2)), {}, S2
    ),
    TransformCase("hopf-spline", lambda: seeded(lambda: learned(flows.HopfSpline(**SMALL), 0.2)), {}, Q),
    TransformCase(
        "rotation-flow",
        lambda: seeded(lambda: learned(flows.RotationFlow(1, **SMALL), 0.2)),
        {},
        ROTATIONS,
        skip={"changed_values": "those of its layer, a case of its own"},
    ),
    TransformCase(
        "direction-lift",
        lambda: seeded(lambda: flows.DirectionLift(STIEFEL, (3, 2), sphere_layer(2))),
        {},
        [[row[:2] for row in r] for r in ROTATIONS],
    ),
    TransformCase(
        "frame-flow",
        lambda: seeded(lambda: learned(flows.FrameFlow(SO3, (3, 3), 1, **SMALL), 0.2)),
        {},
        ROTATIONS,
        skip={"changed_values": "those of its layer, a case of its own"},
    ),
    TransformCase(
        "factor-coupling",
        lambda: learned(flows.FactorCoupling(S1_T2, 1, flows.CircularSpline(2, [0], **SMALL)), 0.2),
        {},
        [[*s, *t[:2]] for s, t in zip(S1, T3, strict=True)],
    ),
    TransformCase("continuous-sphere", lambda: continuous(geoopt.Sphere(), 3, 0.05), {}, S2[:2]),
    TransformCase(
        "continuous-torus", lambda: continuous(Torus(), 2, 0.02, solver="rk4", steps=2), {}, V2[:2]
    ),
    TransformCase(
        "continuous-lorentz",
        lambda: continuous(geoopt.Lorentz(), 3, 0.02, solver="rk4", steps=2),
        {},
        H[1:],
    ),
    TransformCase("squeeze", lambda: flows.Squeeze(), {}, field(2, 1, 2, 4, 2)),
    TransformCase("squeeze-SPD2", lambda: flows.Squeeze(SPD), {}, points(SPD, 2, 1, 2, 2, 3)),
    TransformCase("actnorm", lambda: learned(flows.ActNorm((2, 1, 2, 3))), {}, field(2, 2, 1, 2, 3)),
    TransformCase(
        "channel-mixing", lambda: learned(flows.ChannelMixing((3, 1, 2, 2))), {}, field(2, 3, 1, 2, 2)
    ),
    TransformCase(
        "channel-mixing-coordinates",
        lambda: learned(flows.ChannelMixing((2, 1, 2, 2), coordinates=True)),
        {},
        field(2, 2, 1, 2, 2),
    ),
    TransformCase(
        "group-action-sphere",
        lambda: learned(flows.GroupAction(geoopt.Sphere(), 2, (3,))),
        {},
        points(SPHERE, 2, 2, 1, 2, 2),
    ),
    TransformCase(
        "group-action-SPD2",
        lambda: learned(flows.GroupAction(geoopt.SymmetricPositiveDefinite(), 1, (2, 2))),
        {},
        points(SPD, 2, 1, 1, 2, 3),
    ),
    TransformCase(
        "field-coupling-affine",
        lambda: seeded(lambda: learned(flows.FieldCoupling((2, 2, 1, 2), [1, 2], hidden=4))),
        {},
        field(2, 2, 2, 1, 2),
    ),
    TransformCase(
        "field-coupling-spline",
        lambda: seeded(
            lambda: learned(flows.FieldCoupling((1, 2, 2, 2), [0], kind="spline", bins=4, hidden=4, unit=0.5))
        ),
        {},
        field(2, 1, 2, 2, 2),
    ),
    TransformCase(
        "field-flow",
        lambda: seeded(
            lambda: learned(
                flows.FieldFlow([flows.ActNorm((1, 2, 2, 2)), flows.FieldCoupling((1, 2, 2, 2), [0])])
            )
        ),
        {},
        field(2, 1, 2, 2, 2),
    ),
    TransformCase(
        "glow-sphere",
        lambda: glow(geoopt.Sphere(), (1, 2, 2), [0.0, 1.0, 0.0], scales=2),
        {},
        field(2, 8),
        skip=OFF,
    ),
    TransformCase(
        "glow-SPD2",
        lambda: glow(geoopt.SymmetricPositiveDefinite(), (1, 1, 2), P2[1]),
        {},
        field(2, 6),
        skip=OFF,
    ),
    TransformCase(
        "glow-three-scales",
        lambda: glow(geoopt.Sphere(), (1, 4, 4), [0.0, 1.0], scales=3, depth=1),
        {},
        field(2, 16),
        skip=OFF,
    ),
    TransformCase("haar", lambda: flows.Haar(2, 2), {}, [[0.0, 0.0, 0.0, 0.0], [0.5, -0.3, 0.2, 1.0]]),
    TransformCase("injective-flow", injective_flow, {}, V2),
    TransformCase("rotation", lambda matrix: mt.Rotation(matrix), dict(matrix=[[0.6, -0.8], [0.8, 0.6]]), S1),
]
