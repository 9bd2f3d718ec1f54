"""Logarithms of the incomplete gamma function against mpmath, where the function itself underflows and where
it does not."""

import mpmath as mp
import pytest
import torch

from pyro_manifold.ops.incomplete_gamma import log_gammainc, log_gammainc_slope

F64 = torch.float64


@pytest.mark.parametrize("a", [0.5, 1.0, 32.0, 75.0, 512.0, 2048.0])
def test_against_mpmath(a):
    """The degrees of freedom of d = 1, 2, 64, 150, 1024, 4096."""
    ratios = [1e-12, 1e-3, 0.5, 0.99, 1.0, 1.001, 1.1, 1.5, 3.0, 30.0]
    with mp.workdps(30):
        logs = [mp.log(mp.gammainc(mp.mpf(a), 0, mp.mpf(a * r), regularized=True)) for r in ratios]
        slopes = [
            mp.log(mp.mpf(a * r) ** mp.mpf(a)) - mp.mpf(a * r) - mp.loggamma(a) - p
            for r, p in zip(ratios, logs, strict=True)
        ]
    x = torch.tensor([a * r for r in ratios], dtype=F64)
    for ours, exact in ((log_gammainc(a, x), logs), (log_gammainc_slope(a, x), slopes)):
        torch.testing.assert_close(
            ours, torch.tensor([float(v) for v in exact], dtype=F64), rtol=1e-12, atol=1e-13
        )


def test_derivatives_and_ends():
    x = torch.tensor([0.1, 0.9, 1.0, 1.1, 3.0, 20.0], dtype=F64, requires_grad=True)
    for a in (0.5, 5.0, 100.0):
        assert torch.autograd.gradcheck(lambda y: log_gammainc(a, a * y), x)  # noqa: B023
        assert torch.autograd.gradgradcheck(lambda y: log_gammainc(a, a * y), x)  # noqa: B023
        ends = torch.tensor([1e-300, float("inf")], dtype=F64, requires_grad=True)
        value = log_gammainc(a, ends)
        (slope,) = torch.autograd.grad(value[1], ends)
        assert value[0].isfinite() and value[1] == 0 and slope[1] == 0
