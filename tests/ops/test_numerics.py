"""Norms and square roots at zero, at the ends of the range of a dtype, and their derivatives."""

import pytest
import torch

from pyro_manifold.ops.numerics import norm, safe_sqrt


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_norm(scale: float) -> None:
    x = torch.tensor([3.0, 4.0]) * scale
    torch.testing.assert_close(norm(x), torch.tensor(5 * scale))
    zero = torch.zeros(2, requires_grad=True)
    (g,) = torch.autograd.grad(norm(zero), zero)
    assert not g.any()


def test_safe_sqrt_has_gradient_zero_at_zero() -> None:
    s = torch.tensor([0.0, 4.0], requires_grad=True)
    y = safe_sqrt(s)
    assert y.tolist() == [0.0, 2.0]
    assert torch.autograd.grad(y.sum(), s)[0].tolist() == [0.0, 0.25]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_norm_of_any_layout_and_length(dtype: torch.dtype) -> None:
    """Rows side by side or one after the other, of usual, vanishing and overflowing squares: value and
    gradient x / |x|."""
    draws = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    unit = torch.nn.functional.normalize(draws, dim=-1)
    for length in (1.0, torch.finfo(dtype).tiny * 100, torch.finfo(dtype).max / 100):
        rows = unit.to(dtype) * length
        for x in (rows, rows.t().contiguous().t()):
            x = x.clone().requires_grad_()
            r = norm(x)
            torch.testing.assert_close(
                r.double() / length, torch.ones(5, dtype=torch.float64), rtol=1e-5, atol=0
            )
            torch.testing.assert_close(
                torch.autograd.grad(r.sum(), x)[0].double(), unit, rtol=1e-5, atol=1e-6
            )
