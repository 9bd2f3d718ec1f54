"""The heat kernel of SO(3) that NumPy computes: against sums in 50 digits, and against the same composed of torch's
operators, in one block and in many."""

import math

import mpmath
import pytest
import torch
from torch import Tensor

from pyro_manifold.distributions import IsotropicGaussian, isotropic_gaussian
from pyro_manifold.geometry import SpecialOrthogonal, geometry
from pyro_manifold.ops import numpy_operator

GEO = geometry(SpecialOrthogonal(3))
F64 = torch.float64
ANGLES = (1e-9, 1e-6, 1e-3, 0.03, 0.44, 0.46, 1.0, 2.0, 3.0, 3.14)
ABOUT_Z = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]], dtype=F64)


def turned(angle: float) -> Tensor:
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]], dtype=F64)


def rotations(*batch: int) -> Tensor:
    return GEO.uniform_sample(batch, (3, 3), dtype=F64)


def exact(w: mpmath.mpf, s: mpmath.mpf) -> mpmath.mpf:
    t = s**2
    if t > 0.1:
        total = mpmath.fsum(
            (2 * j + 1) * mpmath.exp(-j * (j + 1) * t / 2) * mpmath.sin((j + 0.5) * w) for j in range(50)
        )
        return mpmath.log(total / mpmath.sin(w / 2) / (8 * mpmath.pi**2))
    turns = [(k, w + 2 * mpmath.pi * k) for k in range(-2, 3)]
    total = mpmath.fsum((-1) ** k * x * mpmath.exp(-(x**2) / 2 / t) for k, x in turns)
    return t / 8 - 1.5 * mpmath.log(2 * mpmath.pi * t) + mpmath.log(total / (2 * mpmath.sin(w / 2)))


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 0.1, 0.5, 0.54, 0.7, 0.99, 1.0, 1.01, 1.5, 4.0])
def test_in_50_digits(scale: float) -> None:
    for angle in ANGLES:
        leaves = [
            x.requires_grad_()
            for x in (turned(angle), torch.eye(3, dtype=F64), torch.tensor(scale, dtype=F64))
        ]
        out = IsotropicGaussian(*leaves[1:], validate_args=False).log_prob(leaves[0])
        in_r, in_loc, in_scale = torch.autograd.grad(out, leaves)
        with mpmath.workdps(70):
            w, s = mpmath.atan2(math.sin(angle), math.cos(angle)), mpmath.mpf(scale)
            h = mpmath.mpf(10) ** -30
            value = float(exact(w, s))
            slope = float((exact(w + h, s) - exact(w - h, s)) / (2 * h))
            wider = float((exact(w, s + h) - exact(w, s - h)) / (2 * h))
        assert float(out.detach()) == pytest.approx(value, rel=4e-15, abs=4e-15)
        for found in ((in_r * (leaves[0] @ ABOUT_Z)).sum(), -(in_loc * ABOUT_Z).sum()):
            # the angle itself is known to 1e-16
            assert float(found.detach()) == pytest.approx(
                slope, rel=1e-12, abs=1e-15 * angle + 1e-15 / scale**2
            )
        assert float(in_scale) == pytest.approx(wider, rel=2e-14, abs=2e-14)


def both(monkeypatch: pytest.MonkeyPatch, *values: Tensor) -> list[list[Tensor | None]]:
    """Values and derivatives, the second in the scale among them, by NumPy and composed."""
    out: list[list[Tensor | None]] = []
    for on in (True, False):
        x, loc, scale = (v.clone().requires_grad_() for v in values)
        with monkeypatch.context() as patch:
            calls: list[int] = []
            patch.setattr(
                isotropic_gaussian, "by_numpy", lambda *xs, on=on, calls=calls: calls.append(1) or on
            )
            log_p = IsotropicGaussian(loc, scale, validate_args=False).log_prob(x)
            assert calls
        weights = torch.linspace(0.5, 2, log_p.numel(), dtype=x.dtype).reshape(log_p.shape)
        total = (log_p * weights).sum()
        found = [log_p, *torch.autograd.grad(total, (x, loc, scale), retain_graph=True)]
        (g,) = torch.autograd.grad(total, scale, create_graph=True)
        out.append([*found, *torch.autograd.grad(g.sum(), (loc, scale))])
    return out


@pytest.mark.parametrize("block", [numpy_operator.BLOCK, 32])
def test_values_and_gradients(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From one centre, from one for each point and from broadcast ones; at the centre and half a turn away; with
    narrow and wide kernels in one call."""
    monkeypatch.setattr(numpy_operator, "BLOCK", block)
    loc = rotations()
    x = torch.cat([rotations(11), loc.unsqueeze(0), loc @ turned(math.pi).unsqueeze(0)])
    for centre, scale in (
        (loc, torch.tensor(0.5)),
        (loc, torch.tensor(2.0)),
        (rotations(13), torch.tensor(0.8)),
        (rotations(13), torch.logspace(-1, 1, 13)),
        (rotations(2, 1), torch.tensor([[0.3], [3.0]])),
        (loc, torch.logspace(-0.5, 0.5, 26).reshape(2, 13)),
    ):
        for a, b in zip(*both(monkeypatch, x, centre, scale.double()), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10 * (1 + float(b.detach().abs().max())))
    one, scales = rotations(), torch.logspace(-0.5, 0.5, 7, dtype=F64)
    for a, b in zip(*both(monkeypatch, one, loc, scales), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10 * (1 + float(b.detach().abs().max())))


def test_extreme_scales(monkeypatch: pytest.MonkeyPatch) -> None:
    loc = rotations()
    near = GEO.exp_frame(loc, torch.tensor([1e-9, -2e-9, 0.5e-9], dtype=F64))
    for x in (loc, near, rotations(), loc @ turned(math.pi)):
        for scale in (1e-200, 1e-100, 1e-8, 39.9, 40.1, 1e30, math.inf):
            one, other = both(monkeypatch, x, loc, torch.tensor(scale, dtype=F64))
            rounding = 1e-6 if x is near else 1e-14  # angles are known to 1e-16
            torch.testing.assert_close(one[0], other[0], rtol=rounding, atol=1e-14)
            if bool(other[0].isfinite()):
                assert all(g is not None and bool(g.isfinite().all()) for g in one[1:4])
    nan = IsotropicGaussian(loc, math.nan, validate_args=False).log_prob(rotations(2))
    assert bool(nan.isnan().all())


def test_float32_loses_no_digits() -> None:
    loc = rotations().float()
    for scale in (0.01, 0.1, 0.9, 1.1, 4.0):
        s = torch.tensor(scale)
        x = IsotropicGaussian(loc, s).sample((300,))
        found = []
        for dtype in (torch.float32, F64):
            leaves = [v.to(dtype).requires_grad_() for v in (x, loc, s)]
            out = IsotropicGaussian(*leaves[1:], validate_args=False).log_prob(leaves[0])
            found.append([out, *torch.autograd.grad(out.sum(), leaves)])
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(
                a.double(), b, rtol=1e-6, atol=1e-6 * (1 + float(b.detach().abs().max()))
            )
