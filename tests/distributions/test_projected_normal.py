"""Projected normal: the radial integral against mpmath, far values, the mean, Pyro's reparametriser."""

import math

import mpmath
import pyro
import pytest
import torch
from pyro.infer.reparam import ProjectedNormalReparam

from pyro_manifold.distributions import ProjectedNormal
from pyro_manifold.ops.parabolic_cylinder import log_radial_integral

LENGTHS = [-100.0, -30.0, -5.0, -1.0, -1e-3, 0.0, 1e-3, 1.0, 5.0, 30.0, 100.0]


@pytest.mark.parametrize("n", [2, 3, 4, 5, 10, 17, 18, 19, 100])
def test_radial_integral(n: int) -> None:
    """Value, first and second derivative, through the parabolic cylinder function."""
    a = torch.tensor(LENGTHS, dtype=torch.float64, requires_grad=True)
    f = log_radial_integral(a, n)
    (g,) = torch.autograd.grad(f.sum(), a, create_graph=True)
    (h,) = torch.autograd.grad(g.sum(), a)
    with mpmath.workdps(40):
        for i, x in enumerate(map(mpmath.mpf, LENGTHS)):
            m, r = mpmath.gamma(n) * mpmath.pcfu(n - mpmath.mpf(1) / 2, -x), mpmath.mpf(n)
            r = mpmath.gamma(n + 1) * mpmath.pcfu(n + mpmath.mpf(1) / 2, -x) / m
            value = mpmath.log(m) + x * x / 4 - (x * x / 2 if x > 0 else 0)
            assert abs(f[i].item() - value) <= 1e-13 * max(1, abs(value))
            assert abs(g[i].item() - (r - max(x, 0))) <= 1e-13 * abs(r - max(x, 0))
            assert abs(h[i].item() - (n + x * r - r * r - (1 if x > 0 else 0))) <= 1e-11


@pytest.mark.parametrize("dtype_, bound", [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("n", [2, 3, 10])
def test_log_prob(n: int, dtype_: torch.dtype, bound: float) -> None:
    """Every x, concentration up to 100: at, across from and opposite to the mode."""
    e = torch.eye(n, dtype=dtype_)
    for k in (0.0, 0.5, 5.0, 100.0):
        d = ProjectedNormal(k * e[0])
        for x in (e[0], e[1], -e[0], torch.nn.functional.normalize(-e[0] + 0.01 * e[1], dim=0)):
            with mpmath.workdps(40):
                a = mpmath.mpf(k) * mpmath.mpf(x[0].item())
                m = mpmath.gamma(n) * mpmath.pcfu(n - mpmath.mpf(1) / 2, -a)
                expected = (
                    mpmath.log(m)
                    + a * a / 4
                    - mpmath.mpf(k) ** 2 / 2
                    - mpmath.mpf(n) / 2 * mpmath.log(2 * mpmath.pi)
                )
            assert abs(d.log_prob(x).item() - float(expected)) <= bound * max(1, abs(expected))


def test_uniform_at_zero() -> None:
    x = torch.nn.functional.normalize(torch.randn(5, 7, dtype=torch.float64), dim=-1)
    area = 2 * math.pi**3.5 / math.gamma(3.5)
    torch.testing.assert_close(ProjectedNormal(x.new_zeros(7)).log_prob(x), x.new_full((5,), -math.log(area)))


@pytest.mark.parametrize("n", [2, 3, 8])
def test_mean(n: int) -> None:
    """Against draws, five standard errors (false alarm 6e-7 per coordinate)."""
    for k in (0.0, 0.3, 3.0, 100.0):
        d = ProjectedNormal(torch.nn.functional.normalize(torch.randn(n, dtype=torch.float64), dim=0) * k)
        x = d.sample((40_000,))
        assert bool(((x.mean(0) - d.mean).abs() < 5 * x.std(0) / 200).all())


def test_reparam() -> None:
    """Pyro's strategy for HMC and autoguides accepts the distribution, in a dimension where Pyro's own has no
    density."""

    def model() -> torch.Tensor:
        return pyro.sample("x", ProjectedNormal(torch.ones(6)))

    trace = pyro.poutine.trace(pyro.poutine.reparam(model, {"x": ProjectedNormalReparam()})).get_trace()
    trace.compute_log_prob()
    assert trace.nodes["x_normal"]["value"].shape == (6,)
    assert ProjectedNormal(torch.ones(3, 6)).expand((2, 3)).sample().shape == (2, 3, 6)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"concentration: got shape \(\).*Add the coordinate axis"):
        ProjectedNormal(torch.tensor(1.0))
    with pytest.raises(ValueError, match="n >= 2"):
        ProjectedNormal(torch.ones(1))
    with pytest.raises(ValueError, match="concentration: got nan, 1, expected finite vectors"):
        ProjectedNormal(torch.tensor([math.nan, 1.0]))
    with pytest.raises(ValueError, match="support|constraint"):
        ProjectedNormal(torch.ones(3), validate_args=True).log_prob(torch.ones(3))
