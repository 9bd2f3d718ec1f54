"""The one registry that every generic test walks. To test a new class on everything, add one line here.

A case that a check cannot hold for names the check in ``skip`` with the reason.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import geoopt
import pyro.distributions as dist
import torch
from torch import Tensor

import pyro_manifold.distributions as mdist
from pyro_manifold import flows, models, nn
from pyro_manifold import transforms as mt
from pyro_manifold.contrib import lhc
from pyro_manifold.geometry import EmbeddedManifold, ImplicitManifold, SpecialOrthogonal, Torus


@dataclass(frozen=True)
class GeometryCase:
    """``manifold()`` is a family, ``dim`` picks the member."""

    name: str
    manifold: Callable[[], geoopt.Manifold]
    dim: int
    skip: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TransformCase:
    """``make`` takes the parameters as tensors; ``inputs`` are points of the domain, ``(n,) + event``."""

    name: str
    make: Callable[..., Any]
    params: Mapping[str, Any]
    inputs: Any
    skip: Mapping[str, str] = field(default_factory=dict)

    def build(self, **like: Any) -> tuple[Any, Tensor]:
        transform = self.make(**tensors(self.params, **like))
        if isinstance(transform, torch.nn.Module):
            transform.to(**like)
        return transform, torch.tensor(self.inputs, dtype=torch.float64).to(**like)


@dataclass(frozen=True)
class DistributionCase:
    """``make`` takes the parameters as tensors, unbatched; ``stress`` and ``extremes`` list parameters that
    replace some of them: where everything is to be finite, and where float32 is to be as good as its rounding
    besides."""

    name: str
    make: Callable[..., Any]
    params: Mapping[str, Any]
    stress: tuple[Mapping[str, Any], ...] = ()
    extremes: tuple[Mapping[str, Any], ...] = ()
    skip: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ModuleCase:
    """``make()`` is a fresh module; ``call`` is what to do with it and a batch of inputs."""

    name: str
    make: Callable[[], torch.nn.Module]
    inputs: Any
    call: Callable[[Any, Tensor], Any] = lambda module, x: module(x)
    skip: Mapping[str, str] = field(default_factory=dict)


def tensors(params: Mapping[str, Any], **like: Any) -> dict[str, Tensor]:
    """Parameters as tensors, rounded once from float64."""
    return {k: torch.as_tensor(x, dtype=torch.float64).to(**like) for k, x in params.items()}


EUCLIDEAN, SPHERE = geoopt.Euclidean(ndim=1), geoopt.Sphere()
BALL, BALL2 = geoopt.PoincareBall(c=1.0), geoopt.PoincareBall(c=2.0)
LORENTZ = geoopt.Lorentz()
BALL_HALF = geoopt.Scaled(BALL, 0.5)
SPHERE_R2 = geoopt.Scaled(SPHERE, 2.0)  # of radius 2
SO3, SPD, TORUS = SpecialOrthogonal(3), geoopt.SymmetricPositiveDefinite(), Torus()
S1_R2 = geoopt.ProductManifold((geoopt.Sphere(), 2), (geoopt.Euclidean(ndim=1), 2))
S1_S2 = geoopt.ProductManifold((geoopt.Sphere(), 2), (geoopt.Sphere(), 3))
S1_H2 = geoopt.ProductManifold((geoopt.Sphere(), 2), (geoopt.PoincareBall(), 2))


def log_euclidean() -> geoopt.Manifold:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # geoopt says that its own part of it is incomplete
        return geoopt.SymmetricPositiveDefinite("LEM")


def frames(canonical: bool) -> geoopt.Manifold:
    return geoopt.ProductManifold((geoopt.Stiefel(canonical=canonical), (4, 2)))


_NO_WINDINGS = {
    "preimages": "windings are known on SO(2) and SO(3) only; preimages raises for a wide distribution"
}
_FRAMES = {
    **_NO_WINDINGS,
    "frames": "no frame is parallel along every geodesic; test_stiefel holds it to the metric",
}
_STEPS = "exp has no closed-form inverse here, log and what needs it raise; tests/infer/mcmc/test_constrained checks the steps"
_IMPLICIT = dict.fromkeys(
    ["exp_and_log", "frames", "volume_change", "coincidence", "global_chart", "volume", "preimages"], _STEPS
)
_IMPLICIT["geodesics"] = "slow by extrapolated steps; tests/geometry/test_implicit holds them to closed forms"


def ellipse() -> geoopt.Manifold:
    return ImplicitManifold(lambda x: x[..., 0] ** 2 + x[..., 1] ** 2 / 4 - 1, near=torch.tensor([1.0, 0.0]))


def paraboloid() -> geoopt.Manifold:
    def f(z: Tensor) -> Tensor:
        return torch.cat([z, z.square().sum(-1, keepdim=True) / 20], -1)

    return EmbeddedManifold(mt.Chart(f, lambda x: x[..., :2], 2, 3))


GEOMETRIES = [
    GeometryCase("R2", lambda: EUCLIDEAN, 2),
    GeometryCase("S1", lambda: SPHERE, 1),
    GeometryCase("S2", lambda: SPHERE, 2),
    GeometryCase("S3", lambda: SPHERE, 3),
    GeometryCase("S16", lambda: SPHERE, 16),
    GeometryCase("ball-1", lambda: BALL, 1),
    GeometryCase("ball-2", lambda: BALL, 2),
    GeometryCase("ball-3-c2", lambda: BALL2, 3),
    GeometryCase("lorentz-2", lambda: LORENTZ, 2),
    GeometryCase("lorentz-3-k2", lambda: geoopt.Lorentz(k=2.0), 3),
    GeometryCase("stereographic-positive", lambda: geoopt.Stereographic(k=1.0), 2),
    GeometryCase("stereographic-flat", lambda: geoopt.Stereographic(k=0.0), 2),
    GeometryCase("stereographic-negative", lambda: geoopt.Stereographic(k=-0.5), 3),
    GeometryCase("SO2", lambda: SpecialOrthogonal(2), 1),
    GeometryCase("SO3", lambda: SO3, 3),
    GeometryCase("SO4", lambda: SpecialOrthogonal(4), 6, skip=_NO_WINDINGS),
    GeometryCase("stiefel-4-2-canonical", lambda: frames(True), 5, skip=_FRAMES),
    GeometryCase("stiefel-4-2-euclidean", lambda: frames(False), 5, skip=_FRAMES),
    GeometryCase("SPD2", lambda: SPD, 3),
    GeometryCase("SPD3-log-euclidean", log_euclidean, 6),
    GeometryCase("torus-1", lambda: TORUS, 1),
    GeometryCase("torus-3", lambda: TORUS, 3),
    GeometryCase("scaled-S2", lambda: SPHERE_R2, 2),
    GeometryCase("scaled-ball", lambda: BALL_HALF, 2),
    GeometryCase("scaled-torus", lambda: geoopt.Scaled(TORUS, 1.5), 2),
    GeometryCase("scaled-SPD2", lambda: geoopt.Scaled(SPD, 2.0), 3),
    GeometryCase("scaled-SO3", lambda: geoopt.Scaled(SO3, 3.0), 3),
    GeometryCase("scaled-stiefel-4-2", lambda: geoopt.Scaled(frames(True), 2.0), 5, skip=_FRAMES),
    GeometryCase("scaled-S1xH2", lambda: geoopt.Scaled(S1_H2, 2.0), 3),
    GeometryCase("S1xscaled-S2", lambda: geoopt.ProductManifold((SPHERE, 2), (SPHERE_R2, 3)), 3),
    GeometryCase("S1xR2", lambda: S1_R2, 3),
    GeometryCase("S1xS2", lambda: S1_S2, 3),
    GeometryCase("S1xH2", lambda: S1_H2, 3),
    GeometryCase("implicit-ellipse", ellipse, 1, skip=_IMPLICIT),
    GeometryCase("embedded-paraboloid", paraboloid, 2, skip=_IMPLICIT),
]


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


@cache
def injective_flow_of(dtype: torch.dtype, device: torch.device) -> flows.InjectiveFlow:
    return injective_flow().to(dtype=dtype, device=device)


def injective_flow() -> flows.InjectiveFlow:
    """The same one at each call: checks make a distribution twice and compare."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [flows.Coupling(3, [2]), flows.LULinear(3), flows.Coupling(3, [0, 1], kind="affine")]
    return learned(flows.InjectiveFlow(mt.Pad(2, 3), layers))


_V2 = [[0.0, 0.0], [0.3, -0.4], [1.2, 0.5], [-0.7, 1.1]]
_V3 = [[0.0, 0.0, 0.0], [0.5, -0.3, 0.2], [1.0, 1.2, -0.7]]
_V1 = [[0.1], [-1.0], [2.0]]
_S1 = [[1.0, 0.0], [0.6, 0.8], [-0.8, 0.6]]
_S2 = [[1.0, 0.0, 0.0], [0.0, 0.6, 0.8], [0.48, -0.6, 0.64]]
_X2 = [0.36, 0.48, 0.8]  # a point of S^2
_B2 = [[0.0, 0.0], [0.3, -0.4], [-0.5, 0.6]]
_H2 = [1.25**0.5, 0.3, -0.4]  # a point of the hyperboloid
_R3 = [[0.6, -0.8, 0.0], [0.8, 0.6, 0.0], [0.0, 0.0, 1.0]]  # a rotation

_CYCLE = [[0.0, 0.3, 1.3], [1.0, 0.0, 0.3], [0.0, 1.0, 0.0]]  # its permutation is not its own inverse

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
    TransformCase("exp-sphere", lambda loc: mt.ExpMap(SPHERE, loc), dict(loc=_X2), _V2),
    TransformCase("exp-circle", lambda loc: mt.ExpMap(SPHERE, loc), dict(loc=[0.6, 0.8]), _V1),
    TransformCase("exp-ball", lambda loc: mt.ExpMap(BALL2, loc), dict(loc=[0.3, -0.2]), _V2),
    TransformCase("exp-ball-origin", lambda: mt.ExpMap(BALL), {}, _V2),
    TransformCase("exp-lorentz", lambda loc: mt.ExpMap(LORENTZ, loc), dict(loc=_H2), _V2),
    TransformCase("exp-SO3", lambda loc: mt.ExpMap(SO3, loc), dict(loc=_R3), _V3),
    TransformCase("exp-SPD2", lambda loc: mt.ExpMap(SPD, loc), dict(loc=[[1.5, 0.3], [0.3, 0.7]]), _V3),
    TransformCase("exp-torus", lambda loc: mt.ExpMap(TORUS, loc), dict(loc=[3.0, -1.0]), _V2),
    TransformCase("exp-scaled", lambda loc: mt.ExpMap(SPHERE_R2, loc), dict(loc=_X2), _V2),
    TransformCase(
        "exp-product",
        lambda loc: mt.ExpMap(S1_H2, loc),
        dict(loc=[0.6, 0.8, 0.1, 0.2]),
        [[0.5, 1.0, -1.0], [1.0, 0.0, 0.3]],
    ),
    TransformCase(
        "polar-sphere",
        lambda loc: mt.PolarExpMap(SPHERE, loc),
        dict(loc=_X2),
        [[0.5, 0.6, 0.8], [2.0, 0.0, -1.0]],
    ),
    TransformCase(
        "polar-ball",
        lambda loc: mt.PolarExpMap(BALL, loc),
        dict(loc=[0.1, 0.2]),
        [[0.5, 0.6, 0.8], [2.0, 0.0, -1.0]],
    ),
    TransformCase("translation-ball", lambda loc: mt.Translation(BALL, loc), dict(loc=[0.3, -0.2]), _B2),
    TransformCase("translation-sphere", lambda loc: mt.Translation(SPHERE, loc), dict(loc=_X2), _S2),
    TransformCase("pad", lambda: mt.Pad(2, 4), {}, _V2),
    TransformCase(
        "linear-embedding",
        lambda matrix: mt.LinearEmbedding(matrix, matrix[:, 0]),
        dict(matrix=[[1.0, 0.5], [0.3, -2.0], [0.7, 0.0]]),
        _V2,
    ),
    TransformCase("conformal", lambda: learned(mt.ConformalEmbedding(2, 4, blocks=2)), {}, _V2),
    TransformCase("chart-circle", circle, {}, _V1),
    TransformCase("coupling-spline", lambda: learned(flows.Coupling(3, [0, 2])), {}, _V3),
    TransformCase("coupling-affine", lambda: learned(flows.Coupling(3, [1], kind="affine")), {}, _V3),
    TransformCase("spline", lambda: learned(flows.Spline(3)), {}, _V3),
    TransformCase(
        "affine",
        lambda matrix, loc: flows.Affine(matrix, loc),
        dict(matrix=[[0.5, 1.0, 0.0], [0.0, -0.3, 0.2], [2.0, 0.0, 1.0]], loc=[1.0, 0.0, -2.0]),
        _V3,
        skip={"gradients": "its matrix is fixed"},
    ),
    TransformCase("lu-linear", lambda: learned(flows.LULinear(3)), {}, _V3),
    TransformCase("lu-cycle", lambda: learned(flows.LULinear(3, torch.tensor(_CYCLE))), {}, _V3),
    TransformCase("among", lambda: learned(flows.Partial(3, 2, [flows.Coupling(2, [0])])), {}, _V3),
    TransformCase("haar", lambda: flows.Haar(2, 2), {}, [[0.0, 0.0, 0.0, 0.0], [0.5, -0.3, 0.2, 1.0]]),
    TransformCase("injective-flow", injective_flow, {}, _V2),
    TransformCase(
        "rotation", lambda matrix: mt.Rotation(matrix), dict(matrix=[[0.6, -0.8], [0.8, 0.6]]), _S1
    ),
]

_RANK = {
    "infer_shapes": "shapes alone do not tell a batch of vectors from a matrix; points are taken for vectors"
}
_BASE = {
    "validation": "torch's normal distribution, the base, takes infinite numbers; test_invalid_parameters "
    "has the weights"
}
_BREAK = {"one_graph": "the radial engine (quadrature, data-dependent windows) runs outside the graph"}
_TRIL = [[0.8, 0.0], [0.5, 0.6]]
_CONCENTRATIONS = tuple(dict(concentration=k) for k in (0.0, 1e-6, 1e3, 1e6))
_SIZES = (1e-8, 83767.77, 1e15, 1e37)
_EXTREMES = tuple(dict(concentration=k) for k in (0.0, 1e-8, 83767.77, 2e7, 1e13, 1e19, 1e37))
_TINY_AND_HUGE = (dict(scale=[1e-6]), dict(scale=[1e-3]), dict(scale=[2.0]))

_SYMMETRIC = [[1.0, 0.5, -0.2], [0.5, -2.0, 0.3], [-0.2, 0.3, 0.7]]
_R4 = [[0.5, 0.5, 0.5, -0.5], [0.5, 0.5, -0.5, 0.5], [0.5, -0.5, 0.5, 0.5], [0.5, -0.5, -0.5, -0.5]]
_FRAME4 = [[0.5, 0.5, 0.5, 0.5], [0.5, 0.5, -0.5, -0.5], [0.5, -0.5, 0.5, -0.5], [0.5, -0.5, -0.5, 0.5]]
_FRAME = [[0.36, 0.48, 0.8], [0.48, 0.64, -0.6], [-0.8, 0.6, 0.0]]

DISTRIBUTIONS = [
    DistributionCase("uniform-S1", lambda: mdist.ManifoldUniform(SPHERE, (2,)), {}),
    DistributionCase("uniform-S2", lambda: mdist.ManifoldUniform(SPHERE, (3,)), {}),
    DistributionCase("uniform-scaled-S2", lambda: mdist.ManifoldUniform(SPHERE_R2, (3,)), {}),
    DistributionCase(
        "wrapped-scaled-S2",
        lambda loc, scale: mdist.WrappedNormal(SPHERE_R2, loc, scale),
        dict(loc=_X2, scale=[1.4, 0.8]),
        stress=_TINY_AND_HUGE,
    ),
    DistributionCase(
        "riemannian-scaled-ball",
        lambda loc, scale: mdist.RiemannianNormal(BALL_HALF, loc, scale),
        dict(loc=[0.3, -0.4], scale=0.4),
        skip=_BREAK,
        stress=(dict(scale=1e-3), dict(scale=1.0)),
    ),
    DistributionCase("uniform-S1xS2", lambda: mdist.ManifoldUniform(S1_S2), {}),
    DistributionCase(
        "wrapped-R2",
        lambda loc, scale: mdist.WrappedNormal(EUCLIDEAN, loc, scale),
        dict(loc=[0.3, -1.0], scale=[0.5, 2.0]),
    ),
    DistributionCase(
        "wrapped-S1",
        lambda loc, scale: mdist.WrappedNormal(SPHERE, loc, scale),
        dict(loc=[0.6, 0.8], scale=[2.0]),
        stress=_TINY_AND_HUGE,
    ),
    DistributionCase(
        "wrapped-S2",
        lambda loc, scale: mdist.WrappedNormal(SPHERE, loc, scale),
        dict(loc=_X2, scale=[0.7, 0.4]),
        stress=_TINY_AND_HUGE,
    ),
    DistributionCase(
        "wrapped-S2-tril",
        lambda loc, scale_tril: mdist.WrappedNormal(SPHERE, loc, scale_tril=scale_tril),
        dict(loc=_X2, scale_tril=_TRIL),
    ),
    DistributionCase(
        "wrapped-S2-truncated",
        lambda loc, scale: mdist.WrappedNormal(SPHERE, loc, scale, truncated=True),
        dict(loc=_X2, scale=[1.5]),
        stress=_TINY_AND_HUGE,
    ),
    DistributionCase(
        "wrapped-ball",
        lambda loc, scale: mdist.WrappedNormal(BALL, loc, scale),
        dict(loc=[0.3, -0.4], scale=[0.7]),
        stress=_TINY_AND_HUGE,
    ),
    DistributionCase(
        "wrapped-ball-tril",
        lambda loc, scale_tril: mdist.WrappedNormal(BALL2, loc, scale_tril=scale_tril),
        dict(loc=[0.3, -0.4], scale_tril=_TRIL),
    ),
    DistributionCase(
        "wrapped-lorentz",
        lambda loc, scale: mdist.WrappedNormal(LORENTZ, loc, scale),
        dict(loc=_H2, scale=[0.7, 0.3]),
        stress=_TINY_AND_HUGE,
    ),
    DistributionCase(
        "wrapped-S1xH2",
        lambda loc, scale: mdist.WrappedNormal(S1_H2, loc, scale),
        dict(loc=[0.6, 0.8, 0.1, 0.2], scale=[0.7, 0.5, 0.9]),
    ),
    DistributionCase(
        "wrapped-SO3",
        lambda loc, scale: mdist.WrappedNormal(SO3, loc, scale),
        dict(loc=_R3, scale=[0.8]),
        stress=_TINY_AND_HUGE,
        skip=_RANK,
    ),
    DistributionCase(
        "wrapped-torus",
        lambda loc, scale: mdist.WrappedNormal(TORUS, loc, scale),
        dict(loc=[3.0, -1.0], scale=[1.2, 0.7]),
        stress=_TINY_AND_HUGE,
    ),
    DistributionCase(
        "wrapped-SPD2",
        lambda loc, scale: mdist.WrappedNormal(SPD, loc, scale),
        dict(loc=[[1.5, 0.3], [0.3, 0.7]], scale=[0.5]),
        stress=_TINY_AND_HUGE,
        skip=_RANK,
    ),
    DistributionCase("uniform-SO3", lambda: mdist.ManifoldUniform(SO3, (3, 3)), {}),
    DistributionCase("uniform-SO4", lambda: mdist.ManifoldUniform(SpecialOrthogonal(4), (4, 4)), {}),
    DistributionCase("uniform-stiefel", lambda: mdist.ManifoldUniform(geoopt.Stiefel(), (4, 2)), {}),
    DistributionCase(
        "wrapped-torus-tril",
        lambda loc, scale_tril: mdist.WrappedNormal(TORUS, loc, scale_tril=scale_tril),
        dict(loc=[3.0, -1.0], scale_tril=_TRIL),
    ),
    DistributionCase(
        "wrapped-SO4-truncated",
        lambda loc, scale: mdist.WrappedNormal(SpecialOrthogonal(4), loc, scale, truncated=True),
        dict(loc=_R4, scale=[0.7]),
        skip=_RANK,
    ),
    DistributionCase(
        "wrapped-cauchy",
        lambda loc, concentration: mdist.WrappedCauchy(loc, concentration),
        dict(loc=3.0, concentration=0.6),
        skip={
            "validation": "a scalar is one value of a distribution of the circle; test_wrapped_cauchy checks "
            "the errors"
        },
        extremes=(dict(concentration=0.0), dict(concentration=1 - 2.0**-24)),
        stress=(dict(concentration=0.0), dict(concentration=0.999999)),
    ),
    DistributionCase("uniform-torus", lambda: mdist.ManifoldUniform(TORUS, (2,)), {}),
    DistributionCase(
        "riemannian-S2",
        lambda loc, scale: mdist.RiemannianNormal(SPHERE, loc, scale),
        dict(loc=_X2, scale=0.7),
        skip=_BREAK,
        stress=(dict(scale=1e-3), dict(scale=1e3), dict(loc=[-1.0, 0.0, 0.0])),
    ),
    DistributionCase(
        "riemannian-S1",
        lambda loc, scale: mdist.RiemannianNormal(SPHERE, loc, scale),
        dict(loc=[0.6, 0.8], scale=1.5),
        skip=_BREAK,
    ),
    DistributionCase(
        "riemannian-S3",
        lambda loc, scale: mdist.RiemannianNormal(SPHERE, loc, scale),
        dict(loc=[0.5, 0.5, -0.5, 0.5], scale=0.9),
        skip=_BREAK,
    ),
    DistributionCase(
        "riemannian-ball",
        lambda loc, scale: mdist.RiemannianNormal(BALL, loc, scale),
        dict(loc=[0.3, -0.4], scale=0.7),
        skip=_BREAK,
        stress=(dict(scale=1e-3), dict(scale=2.0)),
    ),
    DistributionCase(
        "riemannian-lorentz-3",
        lambda loc, scale: mdist.RiemannianNormal(LORENTZ, loc, scale),
        dict(loc=[1.5, 1.0, -0.5, 0.0], scale=0.7),
        skip=_BREAK,
        stress=(dict(scale=1e-3), dict(scale=2.0)),
    ),
    DistributionCase(
        "riemannian-SPD2",
        lambda loc, scale: mdist.RiemannianNormal(SPD, loc, scale),
        dict(loc=[[1.5, 0.3], [0.3, 0.7]], scale=0.7),
        skip={
            **_RANK,
            "pathwise_gradient": "draws have no pathwise derivative in scale; that in loc is in "
            "test_spd_distributions.py",
        },
        stress=(dict(scale=1e-3), dict(scale=1.0)),
    ),
    DistributionCase(
        "vmf-S1",
        lambda loc, concentration: mdist.VonMisesFisher(loc, concentration),
        dict(loc=[0.6, 0.8], concentration=2.0),
        stress=_CONCENTRATIONS,
        extremes=_EXTREMES,
    ),
    DistributionCase(
        "vmf-S2",
        lambda loc, concentration: mdist.VonMisesFisher(loc, concentration),
        dict(loc=_X2, concentration=5.0),
        extremes=_EXTREMES,
        stress=_CONCENTRATIONS + (dict(loc=[1.0, 0.0, 0.0]), dict(loc=[-1.0, 0.0, 0.0])),
    ),
    DistributionCase(
        "vmf-S3",
        lambda loc, concentration: mdist.VonMisesFisher(loc, concentration),
        dict(loc=[0.0, *_X2], concentration=3.0),
        stress=_CONCENTRATIONS,
        extremes=_EXTREMES,
    ),
    DistributionCase(
        "power-spherical-S1",
        lambda loc, concentration: mdist.PowerSpherical(loc, concentration),
        dict(loc=[0.6, 0.8], concentration=2.0),
        stress=_CONCENTRATIONS,
        extremes=_EXTREMES,
    ),
    DistributionCase(
        "power-spherical-S3",
        lambda loc, concentration: mdist.PowerSpherical(loc, concentration),
        dict(loc=[0.0, *_X2], concentration=3.0),
        stress=_CONCENTRATIONS,
        extremes=_EXTREMES,
    ),
    DistributionCase(
        "projected-normal-S2",
        lambda concentration: mdist.ProjectedNormal(concentration),
        dict(concentration=[0.6, 0.8, -1.0]),
        extremes=tuple(dict(concentration=[k, 0.0, 0.0]) for k in (0.0, 1e-30, 1.0, 1e4, 1e15, 1e37)),
        stress=(dict(concentration=[0.0, 0.0, 0.0]), dict(concentration=[100.0, 0.0, 0.0])),
    ),
    DistributionCase(
        "projected-normal-S3",
        lambda concentration: mdist.ProjectedNormal(concentration),
        dict(concentration=[0.6, 0.8, -1.0, 1.0]),
    ),
    DistributionCase(
        "bingham-S2",
        lambda matrix: mdist.Bingham(matrix),
        dict(matrix=_SYMMETRIC),
        extremes=tuple(dict(matrix=[[k, 0.0, 0.0], [0.0, k / 2, 0.0], [0.0, 0.0, -k]]) for k in _SIZES),
        stress=(
            dict(matrix=[[0.0, 0.0, 0.0]] * 3),
            dict(matrix=[[1e4, 0.0, 0.0], [0.0, 1e4, 0.0], [0.0, 0.0, -1e4]]),
            dict(matrix=[[1e6, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]),
        ),
    ),
    DistributionCase(
        "bingham-S1", lambda matrix: mdist.Bingham(matrix), dict(matrix=[[1.0, 0.5], [0.5, -1.0]])
    ),
    DistributionCase(
        "kent-S2",
        lambda frame, concentration, ovalness: mdist.Kent(frame, concentration, ovalness),
        dict(frame=_FRAME, concentration=5.0, ovalness=2.0),
        extremes=tuple(
            dict(frame=torch.eye(3).tolist(), concentration=k, ovalness=r * k)
            for k in _SIZES
            for r in (0.0, 0.4, 0.5)
        ),
        stress=(
            dict(concentration=0.0, ovalness=0.0),
            dict(concentration=1e4, ovalness=5e3),
            dict(concentration=1e6, ovalness=1e3),
        ),
    ),
    DistributionCase(
        "kent-S3",
        lambda frame, concentration, axis_ovalness: mdist.Kent(
            frame, concentration, axis_ovalness=axis_ovalness
        ),
        dict(frame=_FRAME4, concentration=5.0, axis_ovalness=[2.0, 1.0, -3.0]),
    ),
    DistributionCase(
        "acg-S2",
        lambda scale_tril: mdist.AngularCentralGaussian(scale_tril),
        dict(scale_tril=[[1.0, 0.0, 0.0], [0.5, 0.7, 0.0], [-0.3, 0.2, 0.5]]),
        extremes=(dict(scale_tril=[[1e-6, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1e3]]),),
        stress=(dict(scale_tril=[[1.0, 0.0, 0.0], [0.0, 1e-4, 0.0], [0.0, 0.0, 1e4]]),),
    ),
    DistributionCase(
        "pushforward-flow",
        lambda loc, scale: mdist.Pushforward(
            dist.Normal(loc, scale.unsqueeze(-1)).to_event(1), injective_flow_of(loc.dtype, loc.device)
        ),
        dict(loc=[0.3, -0.2], scale=0.5),
        skip={"infer_shapes": "its arguments are a distribution and a map, not tensors", **_BASE},
    ),
    DistributionCase(
        "pushforward-mixture",
        lambda weights, loc: mdist.PushforwardMixture(
            weights, [mdist.Pushforward(dist.Normal(loc, 0.5).to_event(1), h) for h in two_circles()]
        ),
        dict(weights=[0.3, 0.7], loc=[0.1]),
        skip={"infer_shapes": "its arguments are distributions, not tensors", **_BASE},
    ),
    DistributionCase(
        "matrix-fisher",
        lambda matrix: mdist.MatrixFisher(matrix),
        dict(matrix=[[1.0, 0.3, 0.0], [-0.5, 0.7, 0.2], [0.1, 0.0, -0.4]]),
        extremes=tuple(dict(matrix=[[k, 0.0, 0.0], [0.0, k, 0.0], [0.0, 0.0, k]]) for k in _SIZES),
        stress=(
            dict(matrix=[[0.0, 0.0, 0.0]] * 3),
            dict(matrix=[[1e4, 0.0, 0.0], [0.0, 1e4, 0.0], [0.0, 0.0, -1e4]]),
        ),
    ),
]


_CLOUD = torch.tensor(
    [[0.3, -0.2, 1.0], [1.0, 0.5, -0.4], [-0.7, 0.1, 0.2], [0.0, -1.0, 0.3], [0.4, 0.8, 0.9]]
)


def conditional_pushforward() -> mdist.ConditionalPushforward:
    normal = dist.Normal(torch.zeros(1), 1.0).to_event(1)
    layer = flows.ConditionalCoupling(1, [0], context_dim=3, hidden=(8,))
    return mdist.ConditionalPushforward(dist.ConditionalTransformedDistribution(normal, [layer]), circle())


def morphing_head() -> lhc.MorphingHead:
    base = flows.LatentFlow(2, flows.coupling_chain(2, 2, hidden=(5,)))
    S = torch.diag(torch.tensor([1.0, 2.0, 0.5, 0.3]))
    return lhc.MorphingHead(
        base, S, torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), hidden=(5,)
    )


MODULES = [
    ModuleCase("perceptron", lambda: learned(nn.MLP(2, 3, (5,))), _B2),
    ModuleCase(
        "conditional-coupling",
        lambda: learned(flows.ConditionalCoupling(3, [0, 1, 2], context_dim=3)),
        _S2,
        call=lambda m, c: m.condition(c)(c.flip(-1)),
    ),
    ModuleCase(
        "conditional-lu-linear",
        lambda: learned(flows.ConditionalLULinear(3, context_dim=3)),
        _S2,
        call=lambda m, c: m.condition(c)(c.flip(-1)),
    ),
    ModuleCase(
        "conditional-pushforward",
        lambda: learned(conditional_pushforward()),
        _S2,
        call=lambda m, c: m.condition(c).log_prob(c[:, :2]).unsqueeze(-1),
    ),
    ModuleCase("exp-map-head", lambda: nn.ExpMapHead(geoopt.PoincareBall(), 3, 2), _S2),
    ModuleCase("log-map", lambda: nn.LogMapLayer(geoopt.PoincareBall()), _B2),
    ModuleCase("gyroplane", lambda: nn.GyroplaneLayer(geoopt.PoincareBall(), 2, 4), _B2),
    ModuleCase("mobius", lambda: nn.MobiusLinear(geoopt.PoincareBall(), 2, 4), _B2),
    ModuleCase("encoder", lambda: nn.ManifoldEncoder(geoopt.PoincareBall(), 3, 5, 2), _S2),
    ModuleCase("decoder", lambda: nn.ManifoldDecoder(geoopt.PoincareBall(), 2, 5, 3), _B2),
    ModuleCase(
        "latent-flow",
        lambda: learned(flows.LatentFlow(2, flows.coupling_chain(2, 2, 3, hidden=(5,)), 3)),
        _S2,
        call=lambda m, c: m.condition(c).log_prob(c[:, :2]).unsqueeze(-1),
    ),
    ModuleCase(
        "morphing-head",
        lambda: learned(morphing_head()),
        _S2,
        call=lambda m, c: m.condition(c).log_prob(c[:, :2]).unsqueeze(-1),
    ),
    ModuleCase(
        "manifold-flow",
        lambda: learned(models.ManifoldFlow.from_data(_CLOUD, 2, hidden=(5,), latent_hidden=(5,)), 0.1),
        _S2,
        call=lambda m, x: m.log_prob(x).unsqueeze(-1),
    ),
    ModuleCase(
        "manifold-mixture",
        lambda: learned(
            models.ManifoldMixture.from_data(
                torch.cat([_CLOUD, _CLOUD + 20.0]), 2, 2, hidden=(5,), latent_hidden=(5,)
            ),
            0.1,
        ),
        _S2,
        call=lambda m, x: torch.stack([m.log_prob(x), m.log_prob(x + 20.0)], -1),
    ),
    ModuleCase(
        "ambient-flow",
        lambda: learned(models.AmbientFlow.from_data(_CLOUD, 2, hidden=(5,), eps=0.3), 0.1),
        _S2,
        call=lambda m, x: m.log_prob(x).unsqueeze(-1),
    ),
    ModuleCase(
        "poincare-vae",
        lambda: models.PoincareVAE(geoopt.PoincareBall(), dim=2, data_dim=3, hidden=5),
        _S2,
        call=lambda vae, x: (vae.decode(vae.encode(x).loc).mean, vae.encode(x).scale),
    ),
]
