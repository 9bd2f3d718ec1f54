"""Networks of fields: what a pixel reads, shapes, and a regression against least squares."""

import pytest
import torch

from pyro_manifold.nn import ConvNet
from pyro_manifold.nn.field_regression import FieldRegression

F64 = torch.float64


def test_what_a_pixel_reads() -> None:
    """Two layers of 3 x 3 kernels: the 5 x 5 pixels around it, of x and of the context, and no other field."""
    net = ConvNet(1, 2, 4, depth=1, context_channels=1).double()
    torch.nn.init.normal_(net.last.weight)
    x, c = (
        torch.randn(2, 3, 1, 9, 9, dtype=F64).requires_grad_(),
        torch.randn(3, 1, 9, 9, dtype=F64).requires_grad_(),
    )
    y = net(x, c)
    assert y.shape == (2, 3, 2, 9, 9)
    gx, gc = torch.autograd.grad(y[1, 2, 0, 4, 4], (x, c))
    expected = torch.zeros(9, 9, dtype=torch.bool)
    expected[2:7, 2:7] = True
    assert torch.equal(gx[1, 2, 0] != 0, expected) and torch.equal(gc[2, 0] != 0, expected)
    assert not bool(gx[0].any()) and not bool(gc[:2].any())
    torch.testing.assert_close(net(x[1, 2], c[2]), y[1, 2])


@pytest.mark.parametrize(
    "make, match",
    [(lambda: ConvNet(1, 1, kernel=2), "kernel: got 2"), (lambda: ConvNet(0, 1), "at least one channel")],
)
def test_errors(make: object, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()  # type: ignore[operator]


def test_regression_is_least_squares() -> None:
    """Of a quadratic function of a pixel plus a linear one of its neighbours, without noise, it finds that function; with
    noise its residuals are those of least squares, to the penalty."""
    torch.manual_seed(0)
    x = torch.randn(60, 2, 5, 5, dtype=F64)
    exact = FieldRegression(2, 1).double()
    known = torch.nn.functional.conv2d(
        x[:, 1:], torch.tensor([[[[0.0, 0, 0], [1, 0, 0], [0, 0, 0]]]], dtype=F64), padding=1
    )
    y = x[:, :1] * x[:, 1:] - 2 * x[:, :1].square() + known + 3.0
    exact.fit(x, y)
    torch.testing.assert_close(exact(x), y, atol=1e-3, rtol=1e-3)
    noisy = y + 0.5 * torch.randn_like(y)
    exact.fit(x, noisy)
    residual = (exact(x) - noisy).detach().square().mean()
    rows = 60 * 25
    assert float(residual) == pytest.approx(0.25 * (rows - 22) / rows, rel=0.15)


def test_one_field_is_enough() -> None:
    """With the strongest penalty, since none is held out."""
    net = FieldRegression(1, 1)
    net.fit(torch.randn(1, 1, 4, 4), torch.ones(1, 1, 4, 4))
    torch.testing.assert_close(net(torch.zeros(1, 1, 4, 4)), torch.ones(1, 1, 4, 4), atol=0.1, rtol=0)
