"""The heat kernel of SO(3): against both of its series in 50 digits, its normal and uniform limits, and the heat
equation. Statistical bounds are 5 standard errors (false alarm 6e-7 each)."""

import math

import mpmath
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import kl_divergence

import pyro_manifold.distributions as mdist
from pyro_manifold.geometry import SpecialOrthogonal, geometry
from pyro_manifold.ops.rotation_heat_kernel import (
    _PEAK,
    angle_cdf,
    angle_entropy,
    log_heat_kernel,
    sample_angle,
    uniform_divergence,
)

F64 = torch.float64
GEO = geometry(SpecialOrthogonal(3))


def tensor(*x: float) -> Tensor:
    return torch.tensor(x, dtype=F64)


def rotation(*batch: int) -> Tensor:
    return GEO.uniform_sample(batch, (3, 3), dtype=F64)


def exact(angle: float, scale: float) -> float:
    """The sum over characters where it converges, else that over windings, in 50 digits."""
    with mpmath.workdps(80):
        w, t = mpmath.mpf(angle), mpmath.mpf(scale) ** 2
        if t > 0.1:
            total = mpmath.mpf(0)
            for j in range(60):
                total += (
                    (2 * j + 1)
                    * mpmath.exp(-j * (j + 1) * t / 2)
                    * mpmath.sin((j + 0.5) * w)
                    / mpmath.sin(w / 2)
                )
            return mpmath.log(total / (8 * mpmath.pi**2))
        turns = [w + 2 * mpmath.pi * k for k in range(-3, 4)]
        total = sum(
            (-1) ** k * x * mpmath.exp(-(x**2) / 2 / t) for k, x in zip(range(-3, 4), turns, strict=True)
        )
        return t / 8 - 1.5 * mpmath.log(2 * mpmath.pi * t) + mpmath.log(total / (2 * mpmath.sin(w / 2)))


@pytest.mark.parametrize("scale", [0.01, 0.2, 0.4, 0.54, 0.56, 1.0, 1.41, 1.42, 3.0])
def test_density(scale: float) -> None:
    angles = [1e-9, 1e-3, 0.4, 0.99, 1.01, 2.0, 3.0, 3.14, math.pi]
    found = log_heat_kernel(tensor(*angles).unsqueeze(-1), tensor(scale))
    expected = tensor(*(float(exact(a, scale)) for a in angles))
    torch.testing.assert_close(found, expected, rtol=2e-15, atol=2e-14)


def derivatives(angle: Tensor, time: Tensor) -> list[Tensor]:
    """log p, and the derivatives of p in the angle, twice in the angle, and in the time scale^2; over p."""
    angle, time = angle.clone().requires_grad_(), time.clone().requires_grad_()
    log_p = log_heat_kernel(angle.unsqueeze(-1), time.sqrt())
    slope, rate = torch.autograd.grad(log_p.sum(), (angle, time), create_graph=True)
    (second,) = torch.autograd.grad(slope.sum(), angle)
    return [x.detach() for x in (log_p, slope, second + slope.square(), rate)]


def test_regions_agree_with_their_derivatives() -> None:
    """Both series at the seams of the regions, up to the second order."""
    angle, time = tensor(0.5, 1.0, 2.0, 3.1), tensor(0.3, 0.81, 2.0, 2.0)
    for a, b in zip(*(derivatives(angle + e, time + e) for e in (-1e-9, 1e-9)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7)


def test_heat_equation() -> None:
    r""":math:`\partial_t p = \frac12 (p'' + \cot\frac\omega2\,p')`, at t = scale^2."""
    time = tensor(0.04, 0.25, 0.64, 1.7, 4.0).unsqueeze(-1).expand(5, 4)
    angle = tensor(0.02, 0.7, 1.5, 3.0).expand(5, 4)
    _, slope, second, rate = derivatives(angle, time)
    torch.testing.assert_close(rate, (second + slope / torch.tan(angle / 2)) / 2, rtol=1e-9, atol=1e-11)


def test_limits() -> None:
    v = tensor(0.3, -0.5, 0.8)
    for scale in (1e-3, 1e-10, 1e-60):
        normal = dist.Normal(torch.zeros(3, dtype=F64), scale).log_prob(scale * v).sum()
        torch.testing.assert_close(log_heat_kernel(scale * v, tensor(scale))[0], normal, rtol=1e-6, atol=0)
        entropy = 3 * dist.Normal(tensor(0.0), tensor(scale)).entropy()
        torch.testing.assert_close(angle_entropy(tensor(scale)), entropy, rtol=0, atol=2e-6)
    uniform = tensor(-math.log(8 * math.pi**2))
    for scale in (10.0, 1e30, math.inf):
        torch.testing.assert_close(log_heat_kernel(v, tensor(scale)), uniform)
    ratio = uniform_divergence(tensor(3.0, 4.0, 5.0)) / (4.5 * torch.exp(-2 * tensor(9.0, 16.0, 25.0)))
    torch.testing.assert_close(
        ratio, torch.ones_like(ratio), rtol=1e-3, atol=0
    )  # 9 e^{-2t} / 2 at first order


@pytest.mark.parametrize("scale", [1e-8, 0.3, 0.9, 1.5, 1.8, 4.0])
def test_draws_have_the_cdf(scale: float) -> None:
    """Kolmogorov-Smirnov: a distance above 2.7 / sqrt(n) has probability 1e-6."""
    angle = sample_angle(tensor(scale)[0], torch.Size([5000]))
    u = angle_cdf(angle, tensor(scale)[0]).sort().values
    steps = (torch.arange(len(u), dtype=F64) + 0.5) / len(u)
    assert float((u - steps).abs().max()) < 2.7 / math.sqrt(len(u))
    assert bool((angle <= math.pi).all())
    torch.testing.assert_close(angle_cdf(tensor(math.pi), tensor(scale)), tensor(1.0), rtol=0, atol=1e-13)


def test_bound_of_the_rejection_sampler() -> None:
    angle = torch.linspace(1e-3, math.pi, 500, dtype=F64)
    for t in (1e-3, 0.1, 0.5, 1.0, 2.0, 2.5, 3.0):
        log_p = log_heat_kernel(angle.unsqueeze(-1), tensor(math.sqrt(t)).expand(500))
        ratio = log_p + 1.5 * math.log(2 * math.pi * t) + angle.square() / (2 * t) - t / 8
        ratio = ratio + 2 * torch.log(torch.sin(angle / 2) / (angle / 2))
        assert float(ratio.max()) <= math.log(_PEAK)


def test_derivative_of_draws() -> None:
    r""":math:`\mathrm E[R] = e^{-\sigma^2}\mu`, and its derivative by single draws."""
    scale = tensor(0.05, 0.4, 1.0, 1.6, 2.5).requires_grad_()
    loc = rotation()
    x = mdist.IsotropicGaussian(loc, scale).rsample((20_000,))
    along = (x * loc).sum((-1, -2)) / 3
    error = (along.mean(0) - torch.exp(-scale.square())) / (along.std(0) / math.sqrt(len(x)))
    assert bool((error.abs() < 5).all())
    each = scale.detach().expand(20_000, 5).clone().requires_grad_()
    turned = sample_angle(each, each.shape)
    (slope,) = torch.autograd.grad(((1 + 2 * turned.cos()) / 3).sum(), each)
    expected = -2 * scale.detach() * torch.exp(-scale.detach().square())
    assert bool(((slope.mean(0) - expected).abs() < 5 * slope.std(0) / math.sqrt(len(slope))).all())


def test_products_of_draws() -> None:
    """Brownian motion: scales add as squares."""
    loc, n = rotation(), 5000
    first, then = (
        mdist.IsotropicGaussian(loc, tensor(0.6)[0]),
        mdist.IsotropicGaussian(torch.eye(3).double(), 0.8),
    )
    x = first.sample((n,)) @ then.sample((n,))
    angle = GEO.dist(loc, x)
    u = mdist.IsotropicGaussian(loc, tensor(1.0)[0]).angle_cdf(angle).sort().values
    assert float((u - (torch.arange(n) + 0.5) / n).abs().max()) < 2.7 / math.sqrt(n)  # false alarm 1e-6


def test_divergence_from_uniform() -> None:
    uniform = mdist.ManifoldUniform(SpecialOrthogonal(3), (3, 3), dtype=F64)
    scale = tensor(0.1, 0.49, 0.51, 1.0, 3.0)
    d = mdist.IsotropicGaussian(rotation(), scale)
    torch.testing.assert_close(
        kl_divergence(d, uniform), math.log(8 * math.pi**2) - d.entropy(), rtol=1e-12, atol=1e-13
    )
    s = scale.requires_grad_()
    assert torch.autograd.gradcheck(uniform_divergence, s) and torch.autograd.gradcheck(angle_entropy, s)
    angle = tensor(0.3, 0.8, 1.0, 2.0, 3.0).requires_grad_()
    assert torch.autograd.gradcheck(angle_cdf, (angle, s))


def test_score_of_small_noise() -> None:
    """The score of a diffusion model is minus the rotation vector over the variance, to order 1."""
    loc, v = rotation(), tensor(1.0, -2.0, 0.5) * 1e-3
    t = torch.zeros(3, dtype=F64, requires_grad=True)
    d = mdist.IsotropicGaussian(loc, tensor(1e-3)[0])
    (score,) = torch.autograd.grad(d.log_prob(GEO.exp_frame(GEO.exp_frame(loc, v), t)), t)
    torch.testing.assert_close(score, -v / 1e-6, rtol=1e-5, atol=0)


def test_half_turns_have_no_slope() -> None:
    half = GEO.exp_frame(torch.eye(3).double(), tensor(math.pi, 0, 0))
    for scale in (0.1, 0.7, 2.0):
        x = half.clone().requires_grad_()
        log_p = mdist.IsotropicGaussian(torch.eye(3).double(), scale).log_prob(x)
        (g,) = torch.autograd.grad(log_p, x)
        along = GEO.from_tangent(half, GEO.project_tangent(half, g))
        assert float(along.abs().max()) < 1e-9 / scale**2


@pytest.mark.slow
def test_variational_posterior() -> None:
    """Seen through n draws of a small scale s, a rotation with a Haar prior has a posterior of scale
    s / sqrt(n)."""
    torch.manual_seed(0)
    loc, n = rotation(), 50
    data = mdist.IsotropicGaussian(loc, tensor(0.1)[0]).sample((n,))

    def model() -> None:
        r = pyro.sample("r", mdist.ManifoldUniform(SpecialOrthogonal(3), (3, 3), dtype=F64))
        with pyro.plate("data", n):
            pyro.sample("x", mdist.IsotropicGaussian(r, tensor(0.1)[0]), obs=data)

    def guide() -> None:
        scale = pyro.param("scale", tensor(0.05)[0], constraint=dist.constraints.positive)
        v = pyro.param("v", torch.zeros(3, dtype=F64))
        pyro.sample("r", mdist.IsotropicGaussian(GEO.exp_frame(data[0], v), scale))

    pyro.clear_param_store()
    svi = pyro.infer.SVI(
        model,
        guide,
        pyro.optim.Adam({"lr": 0.02}),
        pyro.infer.Trace_ELBO(num_particles=8, vectorize_particles=True, max_plate_nesting=1),
    )
    for _ in range(100):
        svi.step()
    assert float(pyro.param("scale").detach()) == pytest.approx(0.1 / math.sqrt(n), rel=0.3)
    found = GEO.exp_frame(data[0], pyro.param("v").detach())
    assert float(GEO.dist(found, loc)) < 5 * 0.1 / math.sqrt(n)


@pytest.mark.parametrize(
    "loc, scale, match",
    [
        (torch.ones(3, 3), 1.0, "loc: "),
        (torch.eye(4), 1.0, r"loc: got shape \(4, 4\), expected \(..., 3, 3\)"),
        (torch.eye(3), 0.0, "scale: got 0, expected positive numbers"),
        (torch.eye(3), torch.tensor([0.5, math.nan]), r"scale: got nan at index \(1,\), expected positive"),
    ],
)
def test_errors(loc: Tensor, scale: float, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        mdist.IsotropicGaussian(loc, scale, validate_args=True)
