"""Affine maps of charts for rows of many coordinates, where each chart is applied to its own rows."""

import torch

from pyro_manifold.flows import Conditional, LocalFrames


def test_rows_sorted_by_chart_against_a_loop() -> None:
    """20 coordinates, four charts of which one has no row, contexts of another batch shape than the points."""
    torch.manual_seed(0)
    codes = torch.randn(4, 3, dtype=torch.float64)
    matrix, loc = torch.randn(4, 20, 20, dtype=torch.float64), torch.randn(4, 20, dtype=torch.float64)
    k = torch.tensor([2, 0, 2, 3, 0])
    layer = Conditional(LocalFrames(codes, matrix, loc), 3).condition(codes[k])
    x = torch.randn(6, 5, 20, dtype=torch.float64, requires_grad=True)
    y, volume = layer.forward_and_log_volume(x)
    exact = torch.stack(
        [torch.stack([loc[c] + matrix[c] @ r for c, r in zip(k, row, strict=True)]) for row in x]
    )
    torch.testing.assert_close(y, exact)
    torch.testing.assert_close(volume, torch.linalg.det(matrix)[k].abs().log().expand(6, 5))
    torch.testing.assert_close(layer.inverse_and_log_volume(y)[0], x, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(
        torch.autograd.grad(y.square().sum(), x)[0], torch.autograd.grad(exact.square().sum(), x)[0]
    )
    one = layer.forward_and_log_volume(x[0, :1].expand(5, 20))[0]  # one point in all charts
    torch.testing.assert_close(one, layer.forward_and_log_volume(x[0, 0])[0])
    assert layer.forward_and_log_volume(x[:0])[0].shape == (0, 5, 20)
