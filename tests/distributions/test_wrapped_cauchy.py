"""Wrapped Cauchy: density against scipy, mass, moments of draws, divergence, gradients, errors; a site of
angles in Pyro."""

import math

import pyro
import pytest
import torch
from pyro.infer import NUTS
from scipy import stats
from torch.distributions import biject_to, kl_divergence, transform_to

from pyro_manifold.constraints import circular
from pyro_manifold.distributions import WrappedCauchy

F64 = torch.float64
GRID = (torch.arange(4096, dtype=F64) + 0.5) * 2 * math.pi / 4096


def integral(f):
    """Trapezoid over the circle: error rho^4096 relative."""
    return f.mean(-1) * 2 * math.pi


@pytest.mark.parametrize("rho", [0.1, 0.5, 0.9])
def test_density_is_scipys_and_has_mass_one(rho):
    d = WrappedCauchy(torch.tensor(1.0, dtype=F64), torch.tensor(rho, dtype=F64))
    x = GRID + 1.0
    expected = torch.from_numpy(stats.wrapcauchy(rho).logpdf(GRID.numpy()))
    assert (d.log_prob(x) - expected).abs().max() < 1e-12
    assert abs(float(integral(d.log_prob(x).exp())) - 1) < 1e-12
    assert float(d.entropy()) == pytest.approx(
        float(-integral(d.log_prob(x).exp() * d.log_prob(x))), abs=1e-12
    )


def test_concentration_zero_is_uniform():
    d = WrappedCauchy(torch.tensor(0.3, dtype=F64), 0.0)
    assert torch.allclose(d.log_prob(GRID), torch.full_like(GRID, -math.log(2 * math.pi)), atol=1e-15)


def test_trigonometric_moments_of_draws():
    """E exp(ikx) = rho^k exp(ik mu), 8 means within 5 standard errors: false-alarm rate 5e-6."""
    torch.manual_seed(0)
    x = WrappedCauchy(torch.tensor([3.0, -1.0], dtype=F64), torch.tensor([0.7, 0.2], dtype=F64)).sample(
        (100_000,)
    )
    assert (x >= -math.pi).all() and (x < math.pi).all()
    for k in (1, 2):
        for f in (torch.cos, torch.sin):
            draws = f(k * x)
            expected = torch.tensor([0.7, 0.2], dtype=F64) ** k * f(k * torch.tensor([3.0, -1.0], dtype=F64))
            assert ((draws.mean(0) - expected).abs() < 5 * draws.std(0) / 100_000**0.5).all()


def test_pathwise_gradient_of_the_resultant():
    """d/d rho E cos(x - mu) = 1 and d/d mu E cos(x) = -rho sin mu, within 5 standard errors."""
    torch.manual_seed(0)
    n = 200_000
    mu, rho = (
        torch.full((n,), 0.8, dtype=F64, requires_grad=True),
        torch.full((n,), 0.6, dtype=F64, requires_grad=True),
    )
    x = WrappedCauchy(mu, rho).rsample()
    (g,) = torch.autograd.grad(torch.cos(x - 0.8).sum(), rho, retain_graph=True)
    assert abs(float(g.mean()) - 1) < 5 * float(g.std()) / n**0.5
    (g,) = torch.autograd.grad(torch.cos(x).sum(), mu)
    assert abs(float(g.mean()) + 0.6 * math.sin(0.8)) < 5 * float(g.std()) / n**0.5


def test_divergence_against_quadrature():
    p = WrappedCauchy(torch.tensor(0.3, dtype=F64), 0.7)
    for mu, rho in ((0.3, 0.7), (0.3, 0.0), (2.5, 0.6), (-3.0, 0.9)):
        q = WrappedCauchy(torch.tensor(mu, dtype=F64), rho)
        expected = integral(p.log_prob(GRID).exp() * (p.log_prob(GRID) - q.log_prob(GRID)))
        assert float(kl_divergence(p, q)) == pytest.approx(float(expected), abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("rho", [0.0, 1e-6, 0.999999])
def test_finite_everywhere(dtype, rho):
    loc, conc = (
        torch.tensor(math.pi, dtype=dtype, requires_grad=True),
        torch.tensor(rho, dtype=dtype, requires_grad=True),
    )
    d = WrappedCauchy(loc, conc)
    lp = d.log_prob(torch.tensor([math.pi, -math.pi, 0.0, 1e4], dtype=dtype)).sum() + d.rsample((100,)).sum()
    lp.backward()
    assert lp.isfinite() and loc.grad.isfinite() and conc.grad.isfinite()


def test_errors():
    with pytest.raises(ValueError, match=r"concentration: got 1, expected a number in \[0, 1\)"):
        WrappedCauchy(0.0, 1.0)
    with pytest.raises(ValueError, match="concentration: got nan"):
        WrappedCauchy(0.0, math.nan)
    with pytest.raises(ValueError, match="loc: got nan"):
        WrappedCauchy(math.nan, 0.5)
    with pytest.raises(ValueError, match="do not broadcast"):
        WrappedCauchy(torch.zeros(2), torch.zeros(3))
    with pytest.raises(ValueError, match="support"):
        WrappedCauchy(0.0, 0.5, validate_args=True).log_prob(torch.tensor(math.nan))


def test_circular_constraint():
    x = torch.tensor([0.0, 7.0, -20.0])
    assert circular.check(x).all() and not circular.check(torch.tensor(math.inf))
    assert torch.allclose(
        transform_to(circular)(x), torch.tensor([0.0, 7.0 - 2 * math.pi, -20.0 + 6 * math.pi])
    )
    with pytest.raises(NotImplementedError, match="CircularReparam"):
        biject_to(circular)
    assert pyro.param("angle", torch.tensor(4.0), constraint=circular).item() == pytest.approx(
        4.0 - 2 * math.pi
    )


def test_nuts_refuses_the_raw_site_and_names_the_remedy():
    with pytest.raises(NotImplementedError, match="CircularReparam"):
        NUTS(lambda: pyro.sample("x", WrappedCauchy(3.0, 0.6))).setup(1)


@pytest.mark.parametrize("loc", [100.0, 1e8, 2e19, -1e30])
def test_many_turns(loc: float) -> None:
    """Angles of any size are those of their sine and cosine; at 1e8 the difference of two float32 angles has
    no digit left."""
    far = torch.tensor(loc)
    near = torch.atan2(far.double().sin(), far.double().cos()).float()
    one, other = WrappedCauchy(far, 0.9), WrappedCauchy(near, 0.9)
    x = one.sample((2000,))
    assert bool(((x >= -math.pi - 1e-6) & (x < math.pi)).all())
    torch.testing.assert_close(one.log_prob(x), other.log_prob(x), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(one.log_prob(far), other.log_prob(near))
    torch.testing.assert_close(one.mean, near, rtol=0, atol=1e-6)
    assert float(kl_divergence(one, other)) < 1e-10
    resultant = torch.stack([(x - near).cos().mean(), (x - near).sin().mean()])
    assert float((resultant - torch.tensor([0.9, 0.0])).abs().max()) < 5 / math.sqrt(
        len(x)
    )  # 5 standard errors
