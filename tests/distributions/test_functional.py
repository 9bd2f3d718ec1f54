"""Distributions that are no case of the registry, under every transform of ``torch.func``."""

from collections.abc import Callable
from typing import Any

import geoopt
import pytest
import torch
from torch import Tensor
from torch.func import vmap

from pyro_manifold.distributions import (
    AngularCentralGaussian,
    RiemannianNormal,
    VonMisesFisher,
    WrappedNormal,
)
from pyro_manifold.geometry import SpecialOrthogonal, Torus, geometry
from pyro_manifold.testing import DISTRIBUTION_CHECKS

F64 = torch.float64
_FRAME = [[0.5, 0.5], [0.5, -0.5], [0.5, 0.5], [0.5, -0.5]]
_SPD = geoopt.SymmetricPositiveDefinite()
_SCALED = geoopt.Scaled(_SPD, 2.0)
_PRODUCT = geoopt.ProductManifold((geoopt.Sphere(), 2), (_SPD, (2, 2)))


def wrapped(manifold: geoopt.Manifold, **options: Any) -> Callable[..., Any]:
    return lambda loc, **spread: WrappedNormal(manifold, loc, **spread, **options)


CASES: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "frames": (wrapped(geoopt.Stiefel(canonical=True)), dict(loc=_FRAME, scale=[0.1])),
    "frames-truncated": (
        wrapped(geoopt.Stiefel(canonical=False), truncated=True),
        dict(loc=_FRAME, scale=[0.3]),
    ),
    "SO2": (wrapped(SpecialOrthogonal(2)), dict(loc=[[0.6, -0.8], [0.8, 0.6]], scale=[0.6])),
    "SO4": (wrapped(SpecialOrthogonal(4)), dict(loc=torch.eye(4).tolist(), scale=[0.1])),
    "SPD3": (wrapped(_SPD), dict(loc=torch.eye(3).tolist(), scale_tril=(torch.eye(6) / 2).tolist())),
    "torus-wide": (wrapped(Torus()), dict(loc=[0.3, 1.0], scale_tril=[[1.8, 0.0], [0.5, 2.2]])),
    "projection": (wrapped(geoopt.SphereProjection(k=1.5)), dict(loc=[0.3, 0.2], scale=[0.6])),
    "flat-chart": (wrapped(geoopt.Stereographic(k=0.0)), dict(loc=[0.3, 0.2], scale=[0.6])),
    "product": (wrapped(_PRODUCT), dict(loc=[1.0, 0.0, 1.0, 0.0, 0.0, 1.0], scale=[0.5])),
    "scaled": (
        lambda loc, scale: RiemannianNormal(_SCALED, loc, scale),
        dict(loc=[[1.5, 0.3], [0.3, 0.7]], scale=0.6),
    ),
    "acg": (
        lambda covariance_matrix: AngularCentralGaussian(covariance_matrix=covariance_matrix),
        dict(covariance_matrix=[[0.5, 0.1], [0.1, 0.3]]),
    ),
    "vmf-S63": (VonMisesFisher, dict(loc=torch.eye(64)[0].tolist(), concentration=30.0)),
}


@pytest.mark.parametrize("name", CASES)
def test_derivatives(name: str) -> None:
    torch.manual_seed(0)
    make, params = CASES[name]
    DISTRIBUTION_CHECKS["derivatives"](make, {k: torch.tensor(x, dtype=F64) for k, x in params.items()})


@pytest.mark.parametrize(
    "name", [n for n in CASES if not n.startswith("frames")]
)  # logs of distant frames are not known
def test_mapping(name: str) -> None:
    torch.manual_seed(0)
    make, params = CASES[name]
    DISTRIBUTION_CHECKS["mapping"](make, {k: torch.tensor(x, dtype=F64) for k, x in params.items()})


@pytest.mark.parametrize("where", ["SPD3", "SO4", "flat-chart"])
def test_second_derivatives_at_the_centre(where: str) -> None:
    """Where eigenvalues repeat, as a Laplace approximation needs them: along geodesics the density falls like
    that of the normal of the tangent vector, less the volume change."""
    make, params = CASES[where]
    values = {k: torch.tensor(x, dtype=F64) for k, x in params.items()}
    d = make(**values)
    t = d.transforms[0]
    dim = d.base_dist.event_shape[0]
    hessian = torch.func.hessian(lambda v: d.log_prob(t(v)))(torch.zeros(dim, dtype=F64))
    volume = torch.func.hessian(lambda v: t.log_abs_det_jacobian(v, v))(torch.zeros(dim, dtype=F64))
    precision = torch.linalg.inv(d.covariance_matrix)
    torch.testing.assert_close(hessian, -precision - volume, rtol=1e-9, atol=1e-9)


def test_batches_of_batches() -> None:
    """vmap over parameters that broadcast against a batch of values is the batch itself."""
    loc = torch.nn.functional.normalize(torch.randn(4, 3, dtype=F64), dim=-1)
    x = torch.nn.functional.normalize(torch.randn(5, 3, dtype=F64), dim=-1)
    k = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=F64)

    def log_prob(m: Tensor, c: Tensor) -> Tensor:
        return VonMisesFisher(m, c).log_prob(x)

    torch.testing.assert_close(
        vmap(log_prob)(loc, k), VonMisesFisher(loc.unsqueeze(1), k.unsqueeze(1)).log_prob(x)
    )
    torch.testing.assert_close(vmap(log_prob, in_dims=(1, 0))(loc.mT, k), vmap(log_prob)(loc, k))


def test_hessian_at_the_mode_of_a_circle_and_a_product() -> None:
    """-1 / variance along the circle, which a distance to the centre, without a derivative there, would
    lose."""
    m = geoopt.ProductManifold((geoopt.Sphere(), 2), (geoopt.PoincareBall(), 2))
    loc = torch.tensor([0.6, 0.8, 0.1, 0.2], dtype=F64)
    scale = torch.tensor([0.7, 0.5, 0.9], dtype=F64)
    d = WrappedNormal(m, loc, scale)
    t = d.transforms[0]
    hessian = torch.func.hessian(lambda v: d.log_prob(t(v)))(torch.zeros(3, dtype=F64))
    expected = -(scale**-2) - torch.tensor([0.0, 1 / 3, 1 / 3], dtype=F64)  # log sinh r / r is r^2 / 6
    torch.testing.assert_close(hessian, torch.diag(expected), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "kind", [geoopt.PoincareBall, geoopt.Lorentz, geoopt.Sphere, lambda: geoopt.Stereographic(k=0.0)]
)
def test_maps_at_a_zero_vector(kind: Callable[[], geoopt.Manifold]) -> None:
    """exp and log have their derivatives at coinciding points under every transform too."""
    geo = geometry(kind())
    p = geo.exp_frame(geo.origin(2, dtype=F64), torch.tensor([0.3, -0.2], dtype=F64))
    v = torch.zeros(2, dtype=F64)
    for f in (torch.func.jacrev, torch.func.jacfwd):
        torch.testing.assert_close(
            f(lambda u: geo.log_frame(p, geo.exp_frame(p, u)))(v), torch.eye(2, dtype=F64)
        )
    second = torch.func.hessian(lambda u: geo.log_frame(p, geo.exp_frame(p, u)))(v)
    assert second.abs().max() < 1e-12
