"""Scalar functions against mpmath, on both sides of zero; derivatives of first and second order."""

import mpmath as mp
import pytest
import torch

from pyro_manifold.ops import signed_trig as trig

mp.mp.dps = 40
ROOT = {
    "cos_sqrt": mp.cos,
    "sinc_sqrt": lambda r: mp.sin(r) / r,
    "arctanc_sqrt": lambda r: mp.atan(r) / r,
    "arcsinc_sqrt": lambda r: mp.asin(r) / r,
    "log_sinc_sqrt": lambda r: mp.log(abs(mp.sin(r) / r)),
}
GRID = [
    s * x
    for s in (-1.0, 1.0)
    for x in (1e-300, 1e-30, 1e-12, 1e-6, 1e-3, 0.03, 0.0499, 0.0501, 0.3, 0.8, 0.97)
]
WIDE = [-4000.0, -100.0, -9.0, -3.0, 1.5, 4.0, 8.0, 30.0, 400.0]


def reference(name: str, s: float, n: int = 0) -> float:
    def f(t: mp.mpf) -> mp.mpf:
        return mp.re(ROOT[name](mp.sqrt(mp.mpc(t))))

    if n == 0:
        with mp.workdps(400 if abs(s) < 1e-20 else 40):
            return float(f(mp.mpf(s)))
    with mp.workdps(120):  # the removable singularity at 0 costs a differentiated closed form many digits
        h = mp.mpf(10) ** -25
        s = mp.mpf(s) + (mp.mpf(10) ** -50 if abs(s) < 1e-20 else 0)
        return float((f(s + h) - f(s - h)) / (2 * h) if n == 1 else (f(s + h) - 2 * f(s) + f(s - h)) / h**2)


def grid(name: str) -> list[float]:
    return GRID + ([] if name.startswith("arc") else WIDE)


@pytest.mark.parametrize("name", ROOT)
@pytest.mark.parametrize("n, tol", [(0, 1e-15), (1, 2e-14), (2, 1e-11)])
def test_against_mpmath(name: str, n: int, tol: float) -> None:
    points = grid(name)
    s = torch.tensor(points, dtype=torch.float64, requires_grad=True)
    y = getattr(trig, name)(s)
    for _ in range(n):
        (y,) = torch.autograd.grad(y.sum(), s, create_graph=True)
    want = torch.tensor([reference(name, p, n) for p in points], dtype=torch.float64)
    # conditioning of the argument itself, where the function is steep (cos, tan and log|sin| near their zeros
    # and poles)
    slopes = [abs(p * reference(name, p, n + 1)) if abs(p) > 1 and n < 2 else 0.0 for p in points]
    steep = torch.tensor(slopes, dtype=torch.float64)
    error = (y - want).abs() / (want.abs() + steep).clamp_min(1.0 if n == 0 else 1e-3)
    assert error.max() <= tol, f"s = {points[int(error.argmax())]}: {float(error.max())}"


@pytest.mark.parametrize("name", ROOT)
def test_sign_hint_changes_nothing(name: str) -> None:
    for sign in (-1, 1):
        s = torch.tensor(
            [x for x in grid(name) if x * sign > 0] + [0.0], dtype=torch.float64, requires_grad=True
        )
        f = getattr(trig, name)
        for a, b in zip(*((y, *torch.autograd.grad(y.sum(), s)) for y in (f(s), f(s, sign))), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-150)


@pytest.mark.parametrize("sign", [-1, 0, 1])
def test_cos_and_sinc_together(sign: int) -> None:
    points = [x for x in grid("cos_sqrt") if x * sign >= 0] + [0.0]
    s = torch.tensor(points, dtype=torch.float64, requires_grad=True)
    pairs = trig.cos_sinc_sqrt(s, sign), (trig.cos_sqrt(s), trig.sinc_sqrt(s))
    for both, alone in zip(*pairs, strict=True):
        torch.testing.assert_close(both, alone, rtol=4e-15, atol=4e-16)
        (g,), (h,) = (torch.autograd.grad(y.sum(), s, create_graph=True) for y in (both, alone))
        torch.testing.assert_close(g, h, rtol=1e-13, atol=1e-15)
        (g,), (h,) = (torch.autograd.grad(y.sum(), s, retain_graph=True) for y in (g, h))
        torch.testing.assert_close(g, h, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", ROOT)
def test_forward_mode_and_vmap(name: str) -> None:
    f = getattr(trig, name)
    s = torch.tensor([-0.7, -1e-3, 0.0, 0.4], dtype=torch.float64)
    reverse = torch.func.vmap(torch.func.grad(f))(s)
    _, forward = torch.func.jvp(f, (s,), (torch.ones_like(s),))
    torch.testing.assert_close(reverse, forward)


def test_large_arguments_stay_finite_where_the_answer_is() -> None:
    s = torch.tensor([-1e6, -1e30], dtype=torch.float64, requires_grad=True)
    y = trig.log_sinc_sqrt(s)
    assert torch.isfinite(y).all() and torch.isfinite(torch.autograd.grad(y.sum(), s)[0]).all()
