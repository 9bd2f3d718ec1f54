"""The guard of gradients of the last order."""

import pytest
import torch

from pyro_manifold.ops.autograd import first_order


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return first_order(3 * x.detach() ** 2 * g.detach(), x, g)


def test_raises_even_where_another_path_leads_to_the_input():
    x = torch.tensor(2.0, requires_grad=True)
    (d,) = torch.autograd.grad(x**2 * Cube.apply(x), x, create_graph=True)
    assert d == 80  # the first derivative is right
    with pytest.raises(NotImplementedError, match="last order"):
        torch.autograd.grad(d, x)


def test_no_cost_in_a_first_backward():
    y = torch.ones(2)
    with torch.no_grad():
        assert first_order(y, torch.ones(2, requires_grad=True)) is y
