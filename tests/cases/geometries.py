"""Manifolds: a family and the dimension of one member each."""

import warnings

import geoopt
import torch
from torch import Tensor

from pyro_manifold import transforms as mt
from pyro_manifold.geometry import EmbeddedManifold, Grassmann, ImplicitManifold, SpecialOrthogonal, Torus

from .base import GeometryCase

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


_FRAMES = {
    "frames": "no frame is parallel along every geodesic; test_stiefel holds it to the metric",
}
_STEPS = "exp has no closed-form inverse here, log and what needs it raise; tests/infer/mcmc/test_constrained checks the steps"
_IMPLICIT = dict.fromkeys(
    ["exp_and_log", "frames", "volume_change", "coincidence", "global_chart", "volume", "preimages"], _STEPS
)
_IMPLICIT["features"] = "Newton's method projects what is near the manifold only"
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
    GeometryCase("S2", lambda: SPHERE, 2, inference=True),
    GeometryCase("S3", lambda: SPHERE, 3),
    GeometryCase("S16", lambda: SPHERE, 16, inference=True),
    GeometryCase("ball-1", lambda: BALL, 1),
    GeometryCase("ball-2", lambda: BALL, 2),
    GeometryCase("ball-3-c2", lambda: BALL2, 3, inference=True),
    GeometryCase("lorentz-2", lambda: LORENTZ, 2),
    GeometryCase("lorentz-3-k2", lambda: geoopt.Lorentz(k=2.0), 3, inference=True),
    GeometryCase("stereographic-positive", lambda: geoopt.Stereographic(k=1.0), 2, inference=True),
    GeometryCase("stereographic-flat", lambda: geoopt.Stereographic(k=0.0), 2),
    GeometryCase("stereographic-negative", lambda: geoopt.Stereographic(k=-0.5), 3),
    GeometryCase("SO2", lambda: SpecialOrthogonal(2), 1),
    GeometryCase("SO3", lambda: SO3, 3, inference=True),
    GeometryCase("SO4", lambda: SpecialOrthogonal(4), 6, inference=True),
    GeometryCase("stiefel-4-2-canonical", lambda: frames(True), 5, skip=_FRAMES, inference=True),
    GeometryCase("stiefel-4-2-euclidean", lambda: frames(False), 5, skip=_FRAMES, inference=True),
    GeometryCase("grassmann-4-2", lambda: Grassmann(4, 2), 4, inference=True),
    GeometryCase("lines-3", lambda: Grassmann(3, 1), 2),
    GeometryCase("SPD2", lambda: SPD, 3, inference=True),
    GeometryCase("SPD3-log-euclidean", log_euclidean, 6, inference=True),
    GeometryCase("torus-1", lambda: TORUS, 1),
    GeometryCase("torus-3", lambda: TORUS, 3, inference=True),
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
    GeometryCase("S1xH2", lambda: S1_H2, 3, inference=True),
    GeometryCase("implicit-ellipse", ellipse, 1, skip=_IMPLICIT),
    GeometryCase("embedded-paraboloid", paraboloid, 2, skip=_IMPLICIT),
]

INFERENCE_GEOMETRIES = {case.name: case for case in GEOMETRIES if case.inference}
