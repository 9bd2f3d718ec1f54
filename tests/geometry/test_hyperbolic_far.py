"""The logarithm of the hyperboloid from far out towards the origin, where y - x holds no digit of y."""

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
