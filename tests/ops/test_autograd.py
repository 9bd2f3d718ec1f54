"""The guards of derivatives that are not there."""

import pytest
import torch
from torch.func import jacfwd, jacrev

from pyro_manifold.ops.autograd import last_order_gradient
from pyro_manifold.ops.ball import ball_exp


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return last_order_gradient(3 * x.detach() ** 2 * g.detach(), x, g)


def test_raises_even_where_another_path_leads_to_the_input():
    x = torch.tensor(2.0, requires_grad=True)
    (d,) = torch.autograd.grad(x**2 * Cube.apply(x), x, create_graph=True)
    assert d == 80  # the first derivative is right
    with pytest.raises(NotImplementedError, match="last order"):
        torch.autograd.grad(d, x)


def test_no_cost_in_a_first_backward():
    y = torch.ones(2)
    with torch.no_grad():
        assert last_order_gradient(y, torch.ones(2, requires_grad=True)) is y


def test_forward_mode_inside_forward_mode_is_refused() -> None:
    """torch would give zeros; forward over reverse is right. Modes that nest elsewhere are no fault of the
    operator."""
    x = torch.tensor([0.3, 0.4], dtype=torch.float64)

    def f(v: torch.Tensor) -> torch.Tensor:
        return ball_exp(
            torch.tensor(-1.0, dtype=torch.float64), torch.zeros(2, dtype=torch.float64), v, True
        ).sum()

    with pytest.raises(NotImplementedError, match="use torch.func.hessian"):
        jacfwd(jacfwd(f))(x)
    step = 1e-5 * torch.eye(2, dtype=torch.float64)
    slopes = torch.stack([(jacrev(f)(x + e) - jacrev(f)(x - e)) / 2e-5 for e in step])
    torch.testing.assert_close(jacfwd(jacrev(f))(x), slopes, rtol=1e-6, atol=1e-8)
    other = jacfwd(lambda y: jacfwd(lambda z: (z**3).sum())(y).sum() + f(x))(x)  # f of a constant
    torch.testing.assert_close(other, 6 * x)
