"""cdf and icdf of the distributions of the circle: against quadrature in 60 digits, SciPy, the density and draws."""

import math
from collections.abc import Callable
from typing import Any

import geoopt
import mpmath
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from torch import Tensor

import pyro_manifold.distributions as mdist
from pyro_manifold.geometry import Torus
from pyro_manifold.ops.circular_cdf import POWER, VON_MISES, WRAPPED_NORMAL, CircularFamily

F64 = torch.float64
SPHERE, TORUS = geoopt.Sphere(), Torus()


def vector(angle: Tensor) -> Tensor:
    return torch.stack([angle.cos(), angle.sin()], -1)


def azimuth(x: Tensor) -> Tensor:
    return torch.atan2(x[..., 1], x[..., 0])


def identity(x: Tensor) -> Tensor:
    return x


# from the mean direction and the parameter; points from angles, angles from points; parameters
MAKE: dict[str, tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any], tuple[float, ...]]] = {
    "cauchy": (mdist.WrappedCauchy, identity, identity, (0.0, 0.4, 0.99)),
    "vmf": (lambda a, k: mdist.VonMisesFisher(vector(a), k), vector, azimuth, (0.0, 0.5, 20.0, 1e6)),
    "power": (lambda a, k: mdist.PowerSpherical(vector(a), k), vector, azimuth, (0.0, 0.05, 3.0, 1e6)),
    "normal-S1": (
        lambda a, s: mdist.WrappedNormal(SPHERE, vector(a), s.unsqueeze(-1)),
        vector,
        azimuth,
        (0.05, 1.0, 1.75, 30.0),
    ),
    "normal-torus": (
        lambda a, s: mdist.WrappedNormal(TORUS, a.unsqueeze(-1), s.unsqueeze(-1)),
        lambda x: x.unsqueeze(-1),
        lambda x: x.squeeze(-1),
        (0.05, 1.0, 1.75, 30.0),
    ),
}
CASES = [(name, p) for name, (*_, parameters) in MAKE.items() for p in parameters]


def tensor(x: float) -> Tensor:
    return torch.tensor(x, dtype=F64)


@pytest.mark.parametrize("name, parameter", CASES)
def test_inverse(name: str, parameter: float) -> None:
    """To 1e-12 in float64 and 64 roundings in float32, around the circle and at its ends."""
    make, _, angle, _ = MAKE[name]
    d = make(tensor(2.5), tensor(parameter))
    q = torch.cat([torch.linspace(1e-9, 1 - 1e-9, 25, dtype=F64), tensor(0.5).reshape(1)])
    torch.testing.assert_close(d.cdf(d.icdf(q)), q, rtol=0, atol=1e-12 * (1 + 1e-3 * parameter))
    ends = angle(d.icdf(torch.tensor([0.0, 1.0], dtype=F64)))
    torch.testing.assert_close(
        ends.cos(), torch.full((2,), math.cos(2.5 - math.pi), dtype=F64), rtol=0, atol=1e-9
    )
    single = make(tensor(2.5).float(), tensor(parameter).float())
    x = single.icdf(q.float())
    assert x.dtype == single.cdf(x).dtype == torch.float32
    slope = single.log_prob(x).exp().detach().double()  # an angle is rounded to 2e-7
    apart = (single.cdf(x).double() - q + 0.5) % 1 - 0.5  # at the seam 0 and 1 are one
    assert float((apart.abs() - 1e-6 * slope).max()) < 1e-5


@pytest.mark.parametrize("name, parameter", CASES)
def test_is_the_distribution_of_draws(name: str, parameter: float) -> None:
    """Kolmogorov-Smirnov: a distance above 2.7 / sqrt(n) has probability 1e-6. And the density is the slope."""
    torch.manual_seed(0)
    make, point, _, _ = MAKE[name]
    d = make(tensor(-1.0), tensor(parameter))
    u = d.cdf(d.sample((1500,))).sort().values
    assert float((u - (torch.arange(1500) + 0.5) / 1500).abs().max()) < 2.7 / math.sqrt(1500)
    offset = torch.linspace(-3.0, 3.0, 9, dtype=F64) * min(1.0, 3 / math.sqrt(max(parameter, 1.0)))
    x = (offset - 1.0).requires_grad_()
    value = d.cdf(point(x))
    assert bool((value.diff() >= 0).all())
    torch.testing.assert_close(value[4], tensor(0.5))
    (slope,) = torch.autograd.grad(value.sum(), x)
    torch.testing.assert_close(slope, d.log_prob(point(x)).exp().detach(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "family, parameters",
    [(VON_MISES, (0.5, 6.0, 40.0)), (POWER, (0.02, 0.6, 30.0)), (WRAPPED_NORMAL, (0.4, 1.8))],
)
def test_tails_keep_their_digits(family: CircularFamily, parameters: tuple[float, ...]) -> None:
    for k in parameters:
        for a in (0.0, 0.2, 1.0, 2.5, 3.1):
            with mpmath.workdps(60):
                if family is VON_MISES:
                    z = 2 * mpmath.pi * mpmath.besseli(0, k)
                    f = lambda t, k=k, z=z: mpmath.exp(k * mpmath.cos(t)) / z  # noqa: E731
                    exact = mpmath.quad(f, [a, (a + mpmath.pi) / 2, mpmath.pi])
                elif family is POWER:
                    square = mpmath.cos(mpmath.mpf(a) / 2) ** 2
                    exact = mpmath.betainc(k + 0.5, 0.5, 0, square, regularized=True) / 2
                else:
                    turns = [2 * mpmath.pi * j for j in range(-8, 9)]
                    exact = sum(
                        (
                            mpmath.erfc((a + t) / k / mpmath.sqrt(2))
                            - mpmath.erfc((mpmath.pi + t) / k / mpmath.sqrt(2))
                        )
                        / 2
                        for t in turns
                    )
                exact = float(exact)
            found = float(family.tail(tensor(a), tensor(k)))
            assert found == pytest.approx(exact, rel=1e-11, abs=1e-16 if family is WRAPPED_NORMAL else 0)


def test_scipy() -> None:
    x = torch.linspace(-3.1, 3.1, 11, dtype=F64)
    d = mdist.VonMisesFisher(vector(tensor(0.0)), tensor(3.0))
    expected = torch.as_tensor(scipy.stats.vonmises(3.0).cdf(x.numpy()))
    torch.testing.assert_close(d.cdf(vector(x)), expected, rtol=0, atol=1e-9)
    assert float(dist.VonMises(0.0, 3.0).log_prob(tensor(0.5))) == pytest.approx(
        float(d.log_prob(vector(tensor(0.5)))), abs=1e-5
    )


@pytest.mark.parametrize(
    "name, parameter",
    [
        ("cauchy", 0.4),
        ("vmf", 2.0),
        pytest.param("power", 1.3, marks=pytest.mark.slow),
        pytest.param("normal-S1", 0.9, marks=pytest.mark.slow),
        pytest.param("normal-torus", 2.0, marks=pytest.mark.slow),
    ],
)
def test_gradients_and_vmap(name: str, parameter: float) -> None:
    make, point, angle, _ = MAKE[name]
    q = torch.tensor([0.02, 0.3, 0.8], dtype=F64, requires_grad=True)
    loc, k = (tensor(x).requires_grad_() for x in (0.3, parameter))
    assert torch.autograd.gradcheck(lambda a, p, u: angle(make(a, p).icdf(u)), (loc, k, q))
    x = torch.tensor([0.1, 1.0, -2.0], dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, p, y: make(a, p).cdf(point(y)), (loc, k, x))
    batched = make(torch.zeros(4, 1, dtype=F64), torch.full((3,), parameter, dtype=F64))
    assert batched.cdf(point(x.detach())).shape == (4, 3)
    u = torch.rand(4, 3, dtype=F64)
    assert batched.icdf(u).shape == (4, 3) + batched.event_shape
    one = make(tensor(0.0), tensor(parameter))
    mapped = torch.func.vmap(lambda p: make(tensor(0.0), p).cdf(point(tensor(0.7))))(k.detach().expand(2))
    torch.testing.assert_close(mapped, one.cdf(point(tensor(0.7))).expand(2))
    torch.testing.assert_close(torch.func.vmap(one.icdf)(u[:, 0]), one.icdf(u[:, 0]))


def test_errors() -> None:
    d = mdist.VonMisesFisher(torch.tensor([1.0, 0.0]), 2.0, validate_args=True)
    with pytest.raises(
        ValueError, match=r"value: got 1.5 at index \(1,\), expected a probability in \[0, 1\]"
    ):
        d.icdf(torch.tensor([0.5, 1.5]))
    for other in (
        mdist.VonMisesFisher(torch.eye(3)[0], 2.0),
        mdist.WrappedNormal(geoopt.Scaled(SPHERE, 2.0), torch.tensor([1.0, 0.0]), 0.5),
        mdist.WrappedNormal(SPHERE, torch.tensor([1.0, 0.0]), 0.5, truncated=True),
        mdist.WrappedNormal(geoopt.Euclidean(ndim=1), torch.zeros(1), 0.5),
        mdist.WrappedNormal(TORUS, torch.zeros(2), 0.5),
    ):
        with pytest.raises(NotImplementedError, match="has no cdf"):
            other.cdf(other.sample())
        with pytest.raises(NotImplementedError, match="has no icdf"):
            other.icdf(torch.tensor(0.5))
