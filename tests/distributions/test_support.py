"""Draws lie in the support with finite densities and gradients, or the distribution says that the dtype
cannot hold them."""

import math
import warnings
from collections.abc import Callable

import geoopt
import pytest
import torch
from torch import Tensor

from pyro_manifold.distributions import RiemannianNormal, WrappedNormal
from pyro_manifold.geometry import SpecialOrthogonal, geometry
from pyro_manifold.ops.orthogonal import hat
from pyro_manifold.ops.rotation_exp_log import rotation_exp

F32, F64 = torch.float32, torch.float64


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
@pytest.mark.parametrize("d", [1, 2, 64, 1024, 4096])
def test_points_on_the_rim_are_inside(d: int, dtype: torch.dtype) -> None:
    """Of every ball, whatever the order in which their squares are summed up: 400 draws far out, and
    projections."""
    torch.manual_seed(0)
    manifold = geoopt.Stereographic(k=-1.0)
    geo = geometry(manifold)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # that points were placed on the rim
        draws = WrappedNormal(manifold, torch.zeros(d, dtype=dtype), 40.0).sample((400,))
    for x in (draws, geo.project(3 * draws), geo.project(draws * (1 + torch.finfo(dtype).eps))):
        for y in (x, x.flip(-1), x.mT.contiguous().mT, x[:, torch.randperm(d)]):
            assert bool(geo.contains(y).all())
            assert bool(geo.contains(y.double()).all())
        assert bool(geo.dist(torch.zeros_like(x), x).isfinite().all())


def _lorentz(d: int, dtype: torch.dtype) -> Tensor:
    return torch.eye(d + 1, dtype=dtype)[0]


@pytest.mark.parametrize(
    "manifold, loc, scale, dtype",
    [
        (geoopt.SymmetricPositiveDefinite(), torch.eye(3), 10.0, F32),
        (geoopt.SymmetricPositiveDefinite(), torch.eye(3), 30.0, F64),
        (geoopt.Lorentz(), torch.eye(65)[0], 10.0, F32),
        (geoopt.Lorentz(), torch.eye(65)[0], 100.0, F64),
        (geoopt.Scaled(geoopt.Lorentz(), 0.1), torch.eye(4097)[0], 0.3, F32),
        (
            geoopt.ProductManifold((geoopt.Sphere(), 2), (geoopt.Lorentz(), 65)),
            torch.eye(67)[0] + torch.eye(67)[2],
            10.0,
            F32,
        ),
    ],
    ids=["SPD-float32", "SPD-float64", "Lorentz-float32", "Lorentz-float64", "scaled", "product"],
)
def test_what_the_dtype_cannot_hold_is_an_error_of_the_draw(
    manifold: geoopt.Manifold, loc: Tensor, scale: float, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    d = WrappedNormal(manifold, loc.to(dtype), scale)
    for draw in (d.sample, d.rsample, d.expand((2,)).sample):
        with pytest.raises(
            ValueError, match=r"scale: \d+ of .* draws lie farther out .*(float64 or|Use a smaller)"
        ):
            draw((50,))
    assert d.log_prob(d.loc).isfinite()  # the density itself is there


def test_riemannian_normals_say_so() -> None:
    for d in (RiemannianNormal(geoopt.Lorentz(), _lorentz(n, F32), s) for n, s in ((64, 1.0), (4, 9.0))):
        with pytest.raises(ValueError, match="draws lie farther out .* float64"):
            d.sample((10,))
    RiemannianNormal(geoopt.Lorentz(), _lorentz(64, F64), 1.0).sample((10,))


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_angles_are_reduced(n: int) -> None:
    """exp of a skew matrix of many turns is a rotation to rounding, the same as with the turns taken out."""
    torch.manual_seed(0)
    geo = geometry(SpecialOrthogonal(n))
    for dtype in (F32, F64):
        eye = torch.eye(n, dtype=dtype)
        for scale in (1.0, 400.0, 1e4):
            r = geo.exp_frame(eye, scale * torch.randn(100, n * (n - 1) // 2, dtype=dtype))
            assert (r.mT @ r - eye).abs().max() < 60 * torch.finfo(dtype).eps
    v = torch.zeros(n * (n - 1) // 2, dtype=F64)
    v[0] = 1000 * 2 * math.pi + 0.3
    w = v.clone()
    w[0] = 0.3
    torch.testing.assert_close(geo.exp_frame(eye, v), geo.exp_frame(eye, w), rtol=0, atol=1e-11)


def test_gradients_of_long_rotations() -> None:
    torch.manual_seed(0)
    v = 20 * torch.randn(3, 6, dtype=F64)
    v[0] = torch.tensor([30.0, 0, 0, 0, 0, 30.0])  # twice the same angle
    assert torch.autograd.gradcheck(rotation_exp, (v.requires_grad_(),), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(rotation_exp, (v,))
    torch.testing.assert_close(rotation_exp(v), torch.linalg.matrix_exp(hat(v)), rtol=0, atol=1e-11)


DRAWN: list[tuple[str, Callable[[int, torch.dtype], tuple[geoopt.Manifold, Tensor]], tuple[int, ...]]] = [
    ("SPD", lambda n, t: (geoopt.SymmetricPositiveDefinite(), torch.eye(n, dtype=t)), (2, 5)),
    ("Lorentz", lambda d, t: (geoopt.Lorentz(), _lorentz(d, t)), (1, 2, 64, 1024)),
    ("ball", lambda d, t: (geoopt.PoincareBall(), torch.zeros(d, dtype=t)), (1, 2, 64, 1024)),
]


@pytest.mark.parametrize("name, make, dims", DRAWN, ids=[x[0] for x in DRAWN])
def test_every_draw_scores_or_is_refused(
    name: str, make: Callable[[int, torch.dtype], tuple[geoopt.Manifold, Tensor]], dims: tuple[int, ...]
) -> None:
    """Over scale x dimension x dtype: density and gradients of 50 draws are finite, or sampling raised."""
    torch.manual_seed(0)
    refused = 0
    for family in (WrappedNormal, RiemannianNormal):
        for d in dims if family is WrappedNormal else dims[:2]:
            for dtype in (F32, F64):
                for s in (1e-6, 1e-2, 1.0, 3.0, 10.0, 30.0):
                    manifold, loc = make(d, dtype)
                    leaves = [loc.requires_grad_(), torch.tensor(s, dtype=dtype, requires_grad=True)]
                    p = family(manifold, *leaves)
                    try:
                        with warnings.catch_warnings():
                            warnings.simplefilter("ignore", RuntimeWarning)
                            x = p.sample((50,)).requires_grad_()
                    except ValueError as e:
                        assert "draws lie farther out" in str(e) and s > 0.5
                        refused += 1
                        continue
                    lp = p.log_prob(x)
                    assert bool(lp.isfinite().all())
                    for g in torch.autograd.grad(lp.sum(), [x, *leaves]):
                        assert bool(g.isfinite().all()), (family, d, dtype, s)
    assert (refused == 0) == (name == "ball")
