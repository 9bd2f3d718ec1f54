"""Charts that start as quadrics: the shear and its derivative against a loop, coefficients that least squares find."""

from typing import Any

import pytest
import torch

from pyro_manifold.flows import Conditional, LocalQuadrics
from pyro_manifold.flows.local_quadrics import monomials, quadric_of

F64 = torch.float64


def test_shear_against_a_loop() -> None:
    """Two coordinates along, three across, contexts of another batch shape than the points."""
    torch.manual_seed(0)
    codes, c = torch.randn(4, 3, dtype=F64), torch.randn(4, 3, 6, dtype=F64)
    k = torch.tensor([2, 0, 2, 3, 0])
    layer = Conditional(LocalQuadrics(codes, c, 2), 3).condition(codes[k])
    x, t = torch.randn(6, 5, 5, dtype=F64), torch.randn(6, 5, 4, 5, dtype=F64)
    y, volume = layer.forward_and_log_volume(x)
    for i in range(6):
        for j in range(5):
            a, b = x[i, j, :2].tolist()
            phi = torch.tensor([1, a, b, a * a, a * b, b * b], dtype=F64)
            torch.testing.assert_close(y[i, j], x[i, j] + torch.cat([torch.zeros(2), c[k[j]] @ phi]))
    assert not bool(volume.any()) and volume.shape == (6, 5)
    torch.testing.assert_close(layer.inverse_and_log_volume(y)[0], x)
    value, slopes = layer.jvp(x, t)
    exact = [torch.autograd.functional.jvp(layer._call, x, t[..., m, :])[1] for m in range(4)]
    torch.testing.assert_close(value, y)
    torch.testing.assert_close(slopes, torch.stack(exact, -2))


def test_many_coordinates_are_sorted_by_chart() -> None:
    """Six coordinates have 28 monomials, from 16 on each chart is applied to its own rows."""
    torch.manual_seed(0)
    codes, c = torch.randn(3, 2, dtype=F64), torch.randn(3, 1, 28, dtype=F64)
    k = torch.tensor([1, 0, 1, 2])
    x = torch.randn(4, 7, dtype=F64)
    y = Conditional(LocalQuadrics(codes, c, 6), 2).condition(codes[k])(x)
    rise = torch.stack([c[i] @ monomials(r[:6]) for i, r in zip(k, x, strict=True)])
    torch.testing.assert_close(y, torch.cat([x[:, :6], x[:, 6:] + rise], -1))


def test_quadric_or_plane() -> None:
    """A parabola is found exactly; noise alone leaves the plane, by the errors of rows left out; so do few rows."""
    torch.manual_seed(0)
    u = torch.randn(40, 2, dtype=F64)
    bowl = torch.tensor([[0.1, 0.0, 0.3, -0.2, 0.5, 1.0]], dtype=F64)
    torch.testing.assert_close(quadric_of(u, monomials(u) @ bowl.mT), bowl)
    plane = sum(not bool(quadric_of(u, torch.randn(40, 1, dtype=F64)).any()) for _ in range(50))
    assert plane >= 30  # a chi-squared of 3 is below its number of parameters more often than not
    few = u[:6]
    assert not bool(quadric_of(few, monomials(few) @ bowl.mT).any())


@pytest.mark.parametrize(
    "change, match",
    [
        (dict(coefficients=torch.zeros(2, 1, 4)), "and .2, 1, 4.; expected .K, c. and .K, d - 1, 3."),
        (dict(coefficients=torch.zeros(3, 1, 3)), "codes, coefficients: got shapes"),
        (
            dict(coefficients=torch.full((2, 1, 3), torch.nan)),
            "coefficients: those of chart 0 are not finite",
        ),
        (dict(dim=0), "dim: got 0"),
    ],
)
def test_bad_input(change: dict[str, Any], match: str) -> None:
    good: dict[str, Any] = dict(codes=torch.zeros(2, 3), coefficients=torch.zeros(2, 1, 3), dim=1)
    with pytest.raises(ValueError, match=match):
        LocalQuadrics(**{**good, **change})
