"""Component-first layouts, and operators in blocks against the same in one piece."""

import pytest
import torch

from pyro_manifold.ops import components as co


@pytest.mark.parametrize("n", [0, 1, 7, 40000])
@pytest.mark.parametrize("d", [1, 3, 20])
def test_by_components(n: int, d: int) -> None:
    x, y = torch.randn(n, d, requires_grad=True), torch.randn(2, 1, d)
    v, s = co.by_components(lambda a, b: (a * b, (a * b).sum(0)), x, y)
    torch.testing.assert_close(v, x * y)
    torch.testing.assert_close(s, (x * y).sum(-1), rtol=1e-4, atol=1e-4)
    assert v.shape == (2, n, d) and s.shape == (2, n)
    (g,) = torch.autograd.grad(v.sum(), x)
    torch.testing.assert_close(g, y.sum(0).expand(n, d))
