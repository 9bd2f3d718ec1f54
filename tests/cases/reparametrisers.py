"""The registry of reparametrised sites that the generic tests of ``tests/infer/test_reparam_cases.py`` walk:
one line each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import geoopt
import pyro.distributions as dist
import torch
from torch import Tensor

import pyro_manifold.distributions as mdist
from pyro_manifold.geometry import SpecialOrthogonal, Torus
from pyro_manifold.infer import AmbientReparam, CircularReparam, ProjectedNormalReparam, WrappedNormalReparam

F64 = torch.float64
SPHERE, SO3, BALL, SPD = (
    geoopt.Sphere(),
    SpecialOrthogonal(3),
    geoopt.PoincareBall(),
    geoopt.SymmetricPositiveDefinite(),
)
STIEFEL, LORENTZ = geoopt.Stiefel(), geoopt.Lorentz()
S1_H2_T1 = geoopt.ProductManifold((geoopt.Sphere(), 2), (geoopt.PoincareBall(), 2), (Torus(), 1))


def t(*x: Any) -> Tensor:
    return torch.tensor(x, dtype=F64)


def plain(x: Tensor, event_dim: int) -> Tensor:
    """Ambient coordinates as one last axis."""
    return x.flatten(x.dim() - event_dim) if event_dim else x.unsqueeze(-1)


def angles(x: Tensor, event_dim: int) -> Tensor:
    x = plain(x, event_dim)
    return torch.cat([x.cos(), x.sin()], -1)


def last_angle(x: Tensor, event_dim: int) -> Tensor:
    return torch.cat([x[..., :-1], x[..., -1:].cos(), x[..., -1:].sin()], -1)


@dataclass(frozen=True)
class ReparamCase:
    """``make()`` is the distribution of the site; ``coordinates`` gives numbers that know nothing of turns.

    :param strategy: does ``ManifoldReparam`` choose this reparametriser?
    :param has_density: can a masked site be scored? (Pyro's ProjectedNormal stops at four dimensions.)
    """

    name: str
    make: Callable[[], Any]
    reparam: Callable[[], Any]
    coordinates: Callable[[Tensor, int], Tensor] = plain
    strategy: bool = True
    has_density: bool = True


REPARAMS = [
    ReparamCase("vmf", lambda: mdist.VonMisesFisher(t(0, 0.6, 0.8), t(3.0)[0]), AmbientReparam),
    ReparamCase(
        "power-spherical-circle", lambda: mdist.PowerSpherical(t(0.6, 0.8), t(3.0)[0]), AmbientReparam
    ),
    ReparamCase("bingham", lambda: mdist.Bingham(torch.diag(t(2, 0, -1, 1))), AmbientReparam),
    ReparamCase(
        "truncated",
        lambda: mdist.WrappedNormal(SPHERE, t(0, 0.6, 0.8), t(0.9), truncated=True),
        AmbientReparam,
    ),
    ReparamCase(
        "riemannian-sphere", lambda: mdist.RiemannianNormal(SPHERE, t(0, 0.6, 0.8), t(0.8)[0]), AmbientReparam
    ),
    ReparamCase("uniform-s64", lambda: mdist.ManifoldUniform(SPHERE, 65, dtype=F64), AmbientReparam),
    ReparamCase("matrix-fisher", lambda: mdist.MatrixFisher(torch.diag(t(2, 1, -0.5))), AmbientReparam),
    ReparamCase(
        "rotations-4", lambda: mdist.ManifoldUniform(SpecialOrthogonal(4), (4, 4), dtype=F64), AmbientReparam
    ),
    ReparamCase("frames", lambda: mdist.ManifoldUniform(STIEFEL, (4, 2), dtype=F64), AmbientReparam),
    ReparamCase(
        "riemannian-ball",
        lambda: mdist.RiemannianNormal(BALL, t(0.1, -0.2), t(0.6)[0]),
        AmbientReparam,
        strategy=False,
    ),
    ReparamCase(
        "spd",
        lambda: mdist.WrappedNormal(SPD, torch.diag(t(1.2, 0.8)), t(0.4)),
        AmbientReparam,
        strategy=False,
    ),
    ReparamCase(
        "torus",
        lambda: mdist.WrappedNormal(Torus(), t(3, -1), t(0.8, 0.5)),
        AmbientReparam,
        angles,
        strategy=False,
    ),
    ReparamCase(
        "product",
        lambda: mdist.WrappedNormal(S1_H2_T1, t(0.6, 0.8, 0.1, 0.2, 3), t(0.5, 0.5, 0.6, 0.7)),
        AmbientReparam,
        last_angle,
        strategy=False,
    ),
    ReparamCase("von-mises", lambda: dist.VonMises(t(3.0)[0], t(20.0)[0]), CircularReparam, angles),
    ReparamCase(
        "von-mises-wide", lambda: dist.VonMises(t(3.0)[0], t(1.0)[0]), lambda: CircularReparam(40.0), angles
    ),
    ReparamCase("wrapped-cauchy", lambda: mdist.WrappedCauchy(t(3.0)[0], t(0.7)[0]), CircularReparam, angles),
    ReparamCase(
        "sine-bivariate",
        lambda: dist.SineBivariateVonMises(t(1.0)[0], t(-2.0)[0], t(2.0)[0], t(3.0)[0], t(1.0)[0]),
        CircularReparam,
        angles,
    ),
    ReparamCase(
        "uniform-torus", lambda: mdist.ManifoldUniform(Torus(), 2, dtype=F64), CircularReparam, angles
    ),
    ReparamCase(
        "wrapped-sphere",
        lambda: mdist.WrappedNormal(SPHERE, t(0, 0.6, 0.8), t(1.5, 0.4)),
        WrappedNormalReparam,
    ),
    ReparamCase(
        "wrapped-ball-dense",
        lambda: mdist.WrappedNormal(
            BALL, t(0.1, -0.2), scale_tril=torch.tensor([[0.8, 0.0], [0.5, 0.6]], dtype=F64)
        ),
        WrappedNormalReparam,
    ),
    ReparamCase(
        "wrapped-lorentz", lambda: mdist.WrappedNormal(LORENTZ, t(1, 0, 0), t(0.5)), WrappedNormalReparam
    ),
    ReparamCase(
        "wrapped-rotations",
        lambda: mdist.WrappedNormal(SO3, torch.eye(3, dtype=F64), t(0.7)),
        WrappedNormalReparam,
    ),
    ReparamCase(
        "projected-normal", lambda: mdist.ProjectedNormal(t(0.3, -1, 0.5, 0, 0.2, 0)), ProjectedNormalReparam
    ),
    ReparamCase(
        "pyro-projected-normal",
        lambda: dist.ProjectedNormal(t(0.3, -1, 0.5, 0, 0.2, 0)),
        ProjectedNormalReparam,
        has_density=False,
    ),
    ReparamCase(
        "acg",
        lambda: mdist.AngularCentralGaussian(t([1, 0, 0], [0.5, 0.6, 0], [0, 1, 2])),
        ProjectedNormalReparam,
    ),
]
