"""Angles, maps and limits on the sphere: against mpmath, at coinciding points, near and at the antipode."""

import math

import geoopt
import mpmath as mp
import pytest
import torch
from torch import Tensor

from pyro_manifold.geometry import geometry

mp.mp.dps = 40
F64 = torch.float64
GEO = geometry(geoopt.Sphere())
ANGLES = [1e-6, 1e-5, 1e-3, 0.1, 1.0, math.pi / 2, 2.0, 3.0, 3.14, math.pi - 1e-3, math.pi - 1e-6]


def pair(angle: float, dtype: torch.dtype, n: int = 50, d: int = 3) -> tuple[Tensor, Tensor]:
    p, u = torch.randn(n, d + 1, dtype=F64), torch.randn(n, d + 1, dtype=F64)
    p = p / p.norm(dim=-1, keepdim=True)
    u = u - p * (p * u).sum(-1, keepdim=True)
    u = u / u.norm(dim=-1, keepdim=True)
    return p.to(dtype), (math.cos(angle) * p + math.sin(angle) * u).to(dtype)


def exact_angle(p: Tensor, q: Tensor) -> Tensor:
    out = []
    for a, b in zip(p.double().tolist(), q.double().tolist(), strict=True):
        a, b = [mp.mpf(t) for t in a], [mp.mpf(t) for t in b]
        minus, plus = (
            mp.sqrt(sum((s * sign + t) ** 2 for s, t in zip(a, b, strict=True))) for sign in (-1, 1)
        )
        out.append(float(2 * mp.atan2(minus, plus)))
    return torch.tensor(out, dtype=F64)


@pytest.mark.parametrize("dtype, rtol", [(torch.float32, 1e-6), (F64, 2e-15)])
@pytest.mark.parametrize("angle", ANGLES)
def test_distance(angle: float, dtype: torch.dtype, rtol: float) -> None:
    p, q = pair(angle, dtype)
    want = exact_angle(p, q)
    assert ((GEO.dist(p, q).double() - want).abs() <= rtol * want).all()


@pytest.mark.parametrize("dtype, tol", [(torch.float32, 1e-6), (F64, 2e-15)])
@pytest.mark.parametrize("angle", ANGLES)
def test_log_has_the_length_of_the_angle_and_exp_returns(
    angle: float, dtype: torch.dtype, tol: float
) -> None:
    p, q = pair(angle, dtype)
    v, u = GEO.log_frame(p, q), GEO.log(p, q)
    want = exact_angle(p, q)
    eps = torch.finfo(dtype).eps
    for w in (v, u):  # coordinates off the sphere by eps are an angle error of eps
        assert ((w.double().norm(dim=-1) - want).abs() <= tol * want + 4 * eps).all()
    assert (GEO.exp(p, u) - q).abs().max() <= 8 * eps
    assert (GEO.exp_frame(p, v) - q).abs().max() <= 8 * eps
    assert ((p * u).sum(-1)).abs().max() <= 8 * eps * angle


@pytest.mark.parametrize("d", [1, 2, 5])
def test_coincidence_and_antipode(d: int, dtype: torch.dtype) -> None:
    p, _ = pair(1.0, dtype, 20, d)
    assert not GEO.dist(p, p).any() and not GEO.log(p, p).any()
    assert (GEO.dist(p, -p) == torch.tensor(math.pi, dtype=dtype)).all()
    v = GEO.log_frame(p, -p)
    torch.testing.assert_close(v.norm(dim=-1), torch.full((20,), math.pi, dtype=dtype))
    torch.testing.assert_close(GEO.exp_frame(p, v), -p)
    zero = torch.zeros(20, d, dtype=dtype)
    for f, args in (
        (GEO.dist, (p, p)),
        (GEO.dist, (p, -p)),
        (GEO.log_frame, (p, p)),
        (GEO.log_frame, (p, -p)),
        (GEO.exp_frame, (p, zero)),
        (GEO.log_det_exp, (p, zero)),
    ):
        args = tuple(a.clone().requires_grad_() for a in args)
        for g in torch.autograd.grad(f(*args).sum(), args, allow_unused=True):
            assert g is None or g.isfinite().all(), f.__name__


@pytest.mark.parametrize("gap", [0.0, 1e-12, 1e-7, 1e-3])
def test_frame_near_the_antipode_of_the_origin(gap: float) -> None:
    p = torch.tensor([-math.cos(gap), math.sin(gap) * 0.6, math.sin(gap) * 0.8], dtype=F64).requires_grad_()
    basis = torch.stack([GEO.to_tangent(p, e) for e in torch.eye(2, dtype=F64)])
    torch.testing.assert_close(basis @ basis.T, torch.eye(2, dtype=F64), rtol=0, atol=1e-14)
    torch.testing.assert_close(basis @ p, torch.zeros(2, dtype=F64), rtol=0, atol=1e-14)
    v = torch.tensor([0.3, -0.8], dtype=F64)
    torch.testing.assert_close(GEO.from_tangent(p, GEO.to_tangent(p, v)), v)
    (g,) = torch.autograd.grad(GEO.to_tangent(p, v).sum(), p)
    assert g.isfinite().all()


def test_second_derivatives() -> None:
    p = torch.tensor([0.6, 0.0, 0.8], dtype=F64)
    assert torch.autograd.gradgradcheck(
        lambda v: GEO.exp_frame(p, v), (torch.tensor([[0.3, 0.2], [1e-9, 0.0]], dtype=F64).requires_grad_(),)
    )


def test_preimages() -> None:
    p, v = torch.tensor([0.6, 0.0, 0.8], dtype=F64), torch.tensor([[0.3, -0.2], [0.0, 0.0]], dtype=F64)
    all_of_them = GEO.preimages(p.expand(2, 3), v, 10.0)
    assert all_of_them.shape == (7, 2, 2)
    torch.testing.assert_close(GEO.exp_frame(p, all_of_them), GEO.exp_frame(p, v).expand(7, 2, 3))


def test_a_sphere_in_a_subspace_is_refused() -> None:
    with pytest.raises(ValueError, match="lower dimension"):
        geometry(geoopt.Sphere(intersection=torch.eye(3)[:, :2]))
