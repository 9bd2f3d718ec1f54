"""Expectations of functions of a normal vector's length, against closed forms and mpmath."""

import mpmath
import pytest
import torch

from pyro_manifold.ops.chi import chi_expectation


@pytest.mark.parametrize("dim", [1, 2, 3, 64, 1024])
@pytest.mark.parametrize("scale", [1e-3, 0.5, 3.0])
def test_against_closed_forms(dim, scale):
    s = torch.tensor([scale], dtype=torch.float64)
    assert float(chi_expectation(lambda r: r * 0 + 1, dim, s)) == pytest.approx(1, abs=1e-12)
    assert float(chi_expectation(lambda r: r**2, dim, s)) == pytest.approx(dim * scale**2, rel=1e-12)
    cos = float(mpmath.hyp1f1(dim / 2, 0.5, -(scale**2) / 2))  # E cos(scale z), Kummer
    assert float(chi_expectation(torch.cos, dim, s)) == pytest.approx(cos, abs=1e-12)
    cosh = float(mpmath.hyp1f1(dim / 2, 0.5, scale**2 / 2))
    assert float(chi_expectation(torch.cosh, dim, s, growth=1.0)) == pytest.approx(cosh, rel=1e-9)


def test_gradient_in_scale():
    s = torch.tensor([0.3, 2.0], dtype=torch.float64, requires_grad=True)
    chi_expectation(lambda r: r**2, 4, s).sum().backward()
    assert torch.allclose(s.grad, 8 * s.detach())
