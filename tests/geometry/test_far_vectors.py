"""exp of vectors whose squared length overflows: the point is where the exact length says, and on the
manifold."""

import warnings

import geoopt
import mpmath as mp
import pytest
import torch

from pyro_manifold.geometry import Grassmann, SpecialOrthogonal, Torus, geometry

LENGTHS = {torch.float32: (2e19, 1e30, 1e37), torch.float64: (2e19, 1e155, 1e200, 1e300)}


@pytest.mark.parametrize("dtype", LENGTHS)
def test_angles(dtype: torch.dtype) -> None:
    """cos and sin of the length of the vector as it is held in the dtype, with all its digits; gradient and
    volume too."""
    tol = 4 * torch.finfo(dtype).eps
    for r in LENGTHS[dtype]:
        v = torch.tensor([r, 0.0], dtype=dtype, requires_grad=True)
        with mp.workdps(400):
            length = mp.mpf(float(v[0].detach()))
            cos, sin = float(mp.cos(length)), float(mp.sin(length))
            log_det = float(mp.log(abs(mp.sin(length))) - mp.log(length))
        y = geometry(geoopt.Sphere()).exp_frame(torch.eye(3, dtype=dtype)[0], v)
        torch.testing.assert_close(y, torch.tensor([cos, sin, 0.0], dtype=dtype), rtol=0, atol=tol)
        (g,) = torch.autograd.grad(y[0], v)
        torch.testing.assert_close(g[0], torch.tensor(-sin, dtype=dtype), rtol=0, atol=tol)
        out = geometry(geoopt.Sphere()).log_det_exp(torch.eye(3, dtype=dtype)[0], v)
        torch.testing.assert_close(out, torch.tensor(log_det, dtype=dtype))
        turn = geometry(SpecialOrthogonal(3)).exp_frame(
            torch.eye(3, dtype=dtype), torch.tensor([r, 0.0, 0.0], dtype=dtype)
        )
        torch.testing.assert_close(
            turn[1:, 1:], torch.tensor([[cos, -sin], [sin, cos]], dtype=dtype), rtol=0, atol=tol
        )
        turn = geometry(SpecialOrthogonal(2)).exp_frame(
            torch.eye(2, dtype=dtype), torch.tensor([r], dtype=dtype)
        )
        torch.testing.assert_close(
            turn, torch.tensor([[cos, -sin], [sin, cos]], dtype=dtype), rtol=0, atol=tol
        )


@pytest.mark.parametrize("dtype", LENGTHS)
@pytest.mark.parametrize(
    "manifold, dim",
    [(geoopt.Sphere(), 63), (SpecialOrthogonal(3), 3), (SpecialOrthogonal(2), 1), (geoopt.SphereProjection(), 2), (Torus(), 2),
     (geoopt.Scaled(geoopt.Sphere(), 2.0), 2), (SpecialOrthogonal(4), 6), (SpecialOrthogonal(5), 10), (Grassmann(4, 2), 4), (geoopt.PoincareBall(), 2), (geoopt.Stereographic(k=-0.5), 3)],
)  # fmt: skip
def test_stays_on_the_manifold(manifold: geoopt.Manifold, dim: int, dtype: torch.dtype) -> None:
    geo = geometry(manifold)
    p = geo.exp_frame(geo.origin(dim, dtype=dtype), torch.full((dim,), 0.3, dtype=dtype))
    for r in (1e4, *LENGTHS[dtype]):
        v = torch.randn(dim, dtype=dtype)
        v = (v / v.norm() * r).requires_grad_()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # the ball says that it cannot hold the point
            y = geo.exp_frame(p, v)
            other = geo.exp(p, geo.to_tangent(p, v.detach()))
        assert bool(geo.contains(y)) and bool(geo.contains(other)), r
        assert bool(torch.autograd.grad(y.sum(), v)[0].isfinite().all()), r
        assert bool(geo.log_det_exp(p, v.detach()).isfinite().all()), r
