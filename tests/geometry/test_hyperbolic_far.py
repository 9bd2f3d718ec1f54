"""The logarithm of the hyperboloid from far out: towards the origin, where y - x holds no digit of y, and its
gradients."""

import geoopt
import mpmath as mp
import pytest
import torch

from pyro_manifold.geometry import geometry


def exact_log_frame(x: list[float], y: list[float]) -> list[mp.mpf]:
    with mp.workdps(60):
        X, Y = [mp.mpf(c) for c in x[1:]], [mp.mpf(c) for c in y[1:]]
        tx, ty = (mp.sqrt(1 + mp.fdot(v, v)) for v in (X, Y))
        c, a = tx * ty - mp.fdot(X, Y), mp.fdot(X, Y) / (1 + tx) - ty
        f = mp.acosh(c) / mp.sqrt(c * c - 1)
        return [f * (q + a * p) for p, q in zip(X, Y, strict=True)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("radius", [5.0, 12.0])
@pytest.mark.parametrize("near", [1e-3, 1.0, 4.0])
def test_log_from_far_to_near_the_origin(dtype, radius, near):
    geo = geometry(geoopt.Lorentz(k=torch.tensor(1.0, dtype=dtype)))
    o = geo.origin(3, dtype=dtype).expand(8, 4)
    u = torch.randn(8, 3, dtype=dtype)
    x = geo.exp_frame(o, radius * u / u.norm(dim=-1, keepdim=True))
    y = geo.exp_frame(o, near * torch.randn(8, 3, dtype=dtype) / 3)
    for v, p, q in zip(geo.log_frame(x, y).tolist(), x.tolist(), y.tolist(), strict=True):
        w = exact_log_frame(p, q)
        assert mp.norm([a - b for a, b in zip(v, w, strict=True)]) < 8 * torch.finfo(dtype).eps * mp.norm(w)


@pytest.mark.parametrize("step", ["near", "home"])
@pytest.mark.parametrize("d", [3, 10])
def test_gradients_of_log_far_out(d, step):
    """float32 against float64 at the same coordinates: neighbours, and a point by the origin; components
    apart and not."""
    geo = geometry(geoopt.Lorentz())
    o, v = geo.origin(d).double().expand(50, -1), torch.randn(2, 50, d).double()
    x = geo.exp_frame(o, 6 * v[0] / v[0].norm(dim=-1, keepdim=True))
    y = geo.exp_frame(x, 1e-4 * v[1]) if step == "near" else geo.exp_frame(o, 0.03 * v[1])
    x, y = (geo.project(p.float().double()) for p in (x, y))
    weight = torch.randn(50, d + 1)

    def gradients(dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
        p, q = x.to(dtype, copy=True).requires_grad_(), y.to(dtype, copy=True).requires_grad_()
        return torch.autograd.grad((geo.log(p, q) * weight).sum(), (p, q))

    bounds = (200, 200) if step == "near" else (8, 1000)
    for g, want, bound in zip(gradients(torch.float32), gradients(torch.float64), bounds, strict=True):
        assert ((g - want).norm(dim=-1) <= bound * torch.finfo(torch.float32).eps * want.norm(dim=-1)).all()


def test_a_nan_hides_no_other_point():
    """What is evaluated for exceptional points alone is found beside one that is NaN."""
    geo = geometry(geoopt.Lorentz())
    p = geo.exp_frame(
        geo.origin(2).double().expand(3, 3), torch.tensor([[0.1, 0.2], [12.0, 0.0], [3.0, 4.0]]).double()
    )
    u = geo.to_tangent(p, torch.tensor([[0.3, 0.1], [-12.0, 0.0], [-3.0, -4.0]]).double())
    want = geo.exp(p[1:], u[1:])
    p[0, 1] = torch.nan
    torch.testing.assert_close(geo.exp(p, u)[1:], want, rtol=0, atol=1e-14)
