"""The general Fisher-Bingham distribution, against its special cases, conditioned normals and quadrature. Statistical
bounds are 5 standard errors (false alarm 6e-7 each)."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import kl_divergence

import pyro_manifold.distributions as mdist
from pyro_manifold.distributions import fisher_bingham
from pyro_manifold.ops import fisher_bingham_general as general

F64 = torch.float64


def unit(d: int, *batch: int) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(*batch, d, dtype=F64), dim=-1)


def symmetric(d: int, scale: float) -> Tensor:
    a = scale * torch.randn(d, d, dtype=F64)
    return (a + a.mT) / 2


def tensor(x: float) -> Tensor:
    return torch.tensor(x, dtype=F64)


def within_5_se(draws: Tensor, expected: Tensor) -> None:
    error = (draws.mean(0) - expected).abs() / (draws.std(0) / math.sqrt(len(draws)) + 1e-12)
    assert float(error.max()) < 5, f"{float(error.max()):.1f} standard errors off"


@pytest.mark.parametrize(
    "d, kappa, scale",
    [
        (2, 3.0, 2.0),
        (2, 10.0, 30.0),
        (3, 5.0, 5.0),
        (3, 300.0, 100.0),
        (4, 1e4, 1e3),
        (10, 5.0, 20.0),
        (100, 50.0, 5.0),
    ],
)
def test_draws(d: int, kappa: float, scale: float) -> None:
    torch.manual_seed(0)
    p = mdist.FisherBingham(unit(d), tensor(kappa), symmetric(d, scale))
    x = p.sample((20_000 if d < 50 else 2000,))
    assert bool(p.support.check(x).all())
    within_5_se(x, p.mean)
    few = x[:, :5]
    within_5_se((few.unsqueeze(-1) * few.unsqueeze(-2)).flatten(1), p.second_moment[:5, :5].flatten())
    within_5_se(-p.log_prob(x), p.entropy())
    assert bool((p.log_prob(p.mode) >= p.log_prob(x) - 1e-9).all())


@pytest.mark.parametrize("by_numpy", [True, False])
@pytest.mark.parametrize("d", [2, 3, 5])
def test_both_modes_of_a_narrow_one(d: int, by_numpy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    r""":math:`\log p(x) - \log p(-x) = 2\kappa\,\mu\cdot x` where each mode has a width of 1e-3: the other one keeps
    its digits too, which the quadratic form of -2x would lose."""
    if not by_numpy:
        monkeypatch.setattr(fisher_bingham, "by_numpy", lambda *_: False)
    for _ in range(5):
        mu, k = unit(d), tensor(1.5)
        p = mdist.FisherBingham(mu, k, symmetric(d, 1e6))
        x = p.sample((20,))
        torch.testing.assert_close(p.log_prob(x) - p.log_prob(-x), 2 * k * (x @ mu), rtol=0, atol=4e-11)


@pytest.mark.parametrize("kappa", [0.0, 1e-6, 3.0, 1e4, 1e13])
def test_special_cases(kappa: float) -> None:
    """Bingham, von Mises-Fisher and Kent distributions: density, moments, entropy, every divergence."""
    k, zero = tensor(kappa), torch.zeros(3, 3, dtype=F64)
    frame = torch.linalg.qr(torch.randn(3, 3, dtype=F64)).Q if kappa < 1e9 else torch.eye(3, dtype=F64)
    betas = k * torch.tensor([0.4, -0.4], dtype=F64)
    inner = (frame[:, 1:] * betas) @ frame[:, 1:].T
    a = symmetric(3, 2.0) + inner
    pairs = [
        (mdist.FisherBingham(frame[:, 0], k, inner), mdist.Kent(frame, k, axis_ovalness=betas)),
        (mdist.FisherBingham(frame[:, 0], k, zero), mdist.VonMisesFisher(frame[:, 0], k)),
        (mdist.FisherBingham(frame[:, 0], tensor(0.0), a), mdist.Bingham(a)),
    ]
    uniform = mdist.ManifoldUniform(mdist.VonMisesFisher.manifold, (3,), dtype=F64)
    for ours, known in pairs:
        x = known.sample((20,))
        torch.testing.assert_close(ours.log_prob(x), known.log_prob(x), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(ours.mean, known.mean, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(ours.entropy(), known.entropy(), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(
            kl_divergence(ours, uniform), kl_divergence(known, uniform), rtol=1e-9, atol=1e-13
        )
        assert float(kl_divergence(ours, known).abs()) < 1e-8
        for q in (mdist.Bingham(symmetric(3, 1.0)), mdist.VonMisesFisher(unit(3), tensor(2.0))):
            for first, second in ((ours, q), (q, ours)):
                same = tuple(known if y is ours else y for y in (first, second))
                torch.testing.assert_close(
                    kl_divergence(first, second), kl_divergence(*same), rtol=1e-8, atol=1e-9
                )


def test_divergence() -> None:
    torch.manual_seed(0)
    p, q = (mdist.FisherBingham(unit(4), tensor(k), symmetric(4, 3.0)) for k in (5.0, 8.0))
    vmf = mdist.VonMisesFisher(unit(4), tensor(3.0))
    for a, b in ((p, q), (p, vmf), (vmf, p), (p, mdist.Bingham(symmetric(4, 2.0)))):
        x = a.sample((20_000,))
        within_5_se(a.log_prob(x) - b.log_prob(x), kl_divergence(a, b))
    assert float(kl_divergence(p, p).abs()) < 1e-12


@pytest.mark.parametrize(
    "kappa, a",
    [
        pytest.param(3.0, 1.0, id="one mode"),
        pytest.param(1.0, 4.0, id="two modes"),
        pytest.param(0.0, 2.0, id="Bingham"),
    ],
)
@pytest.mark.slow
def test_gradients(kappa: float, a: float) -> None:
    """Of density, entropy, moments and divergences in all parameters, by finite differences, also where the mode is
    not unique; the density's twice."""
    mu, x = torch.tensor([0.0, 1.0, 0.0], dtype=F64, requires_grad=True), unit(3)
    k = tensor(kappa).requires_grad_(kappa > 0)
    m = torch.diag(torch.tensor([a, 0.0, -0.5], dtype=F64)).requires_grad_()

    def make(mu: Tensor, k: Tensor, m: Tensor) -> mdist.FisherBingham:
        return mdist.FisherBingham(mu / mu.norm(), k, (m + m.mT) / 2)

    other = mdist.FisherBingham(unit(3), tensor(2.0), symmetric(3, 1.0))
    vmf = mdist.VonMisesFisher(unit(3), tensor(2.0))
    functions = {
        "log_prob": lambda *p: make(*p).log_prob(x),
        "entropy": lambda *p: make(*p).entropy(),
        "mean": lambda *p: make(*p).mean,
        "second_moment": lambda *p: make(*p).second_moment,
        "to": lambda *p: kl_divergence(make(*p), other),
        "from": lambda *p: kl_divergence(other, make(*p)),
        "to vmf": lambda *p: kl_divergence(make(*p), vmf),
        "from vmf": lambda *p: kl_divergence(vmf, make(*p)),
    }
    for name, f in functions.items():
        assert torch.autograd.gradcheck(f, (mu, k, m)), name
    assert torch.autograd.gradgradcheck(functions["log_prob"], (mu, k, m))


@pytest.mark.parametrize("d", [3, 10, 100])
def test_nodes_are_enough(d: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    a = torch.randn(20, d, d, dtype=F64) * 10 ** (4 * torch.rand(20, 1, 1, dtype=F64) - 2)
    form, zero = a @ a.mT, torch.zeros(20, d, dtype=F64)
    form[0] = 0.0
    found = general.general_moments(form, zero)
    monkeypatch.setattr(general, "NODES", 400)
    for one, many in zip(found, general.general_moments(form, zero), strict=True):
        torch.testing.assert_close(one, many, rtol=1e-11, atol=1e-13)


def test_conditioned_normal() -> None:
    """A normal vector conditioned to have length 1: concentrated, it is normal in the tangent plane."""
    mu, a = unit(3), symmetric(3, 1.0)
    p = mdist.FisherBingham(mu, tensor(1e8), 1e8 * a / 4)
    m = p.mode
    b = 1e8 * mu
    level = (m @ b + 2 * m @ (1e8 * a / 4) @ m) / 2  # Lagrange multiplier
    axes = torch.linalg.qr(torch.cat([m.unsqueeze(-1), torch.randn(3, 2, dtype=F64)], -1)).Q[:, 1:]
    precision = 2 * axes.T @ (level * torch.eye(3, dtype=F64) - 1e8 * a / 4) @ axes
    limit = torch.distributions.MultivariateNormal(torch.zeros(2, dtype=F64), precision_matrix=precision)
    torch.testing.assert_close(p.entropy(), limit.entropy(), rtol=1e-6, atol=0)
    torch.testing.assert_close(p.log_prob(m), limit.log_prob(torch.zeros(2, dtype=F64)), rtol=1e-6, atol=0)
    y = p.sample((4000,)) @ axes
    within_5_se((y.unsqueeze(-1) * y.unsqueeze(-2)).flatten(1), limit.covariance_matrix.flatten())


def test_two_far_modes_terminate() -> None:
    """Linear and quadratic part at right angles, where fewest proposals are accepted."""
    torch.manual_seed(0)
    p = mdist.FisherBingham(torch.eye(3)[1], 1e4, torch.diag(torch.tensor([1e4, 0.0, 0.0])))
    x = p.sample((2000,))
    assert 850 < int((x[:, 0] > 0).sum()) < 1150  # 6.7 standard errors
    within_5_se(x[:, 1:], p.mean[1:])


@pytest.mark.parametrize(
    "arguments, match",
    [
        ((torch.ones(3), 1.0, torch.eye(3)), "loc: .*expected unit vectors"),
        (
            (torch.eye(3)[0], -1.0, torch.eye(3)),
            "concentration: got -1, expected finite numbers, zero or positive",
        ),
        ((torch.eye(3)[0], 1.0, torch.eye(2)), r"matrix: got shape \(2, 2\), expected \(..., 3, 3\)"),
        ((torch.eye(3)[0], 1.0, torch.ones(3, 3).triu()), "matrix: .*finite symmetric matrix. Symmetrise it"),
        ((torch.tensor(1.0), 1.0, torch.eye(3)), r"loc: got shape \(\)"),
    ],
)
def test_errors(arguments: tuple, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        mdist.FisherBingham(*arguments, validate_args=True)


@pytest.mark.parametrize("by_numpy", [True, False])
def test_a_matrix_of_nan(by_numpy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without validation: torch's error, whoever computes; NaN elsewhere gives no warning."""
    if not by_numpy:
        monkeypatch.setattr(fisher_bingham, "by_numpy", lambda *_: False)
    mu, nan = unit(3), torch.full((3, 3), math.nan, dtype=F64)
    with pytest.raises(torch.linalg.LinAlgError):
        mdist.FisherBingham(mu, tensor(1.0), nan, validate_args=False).log_prob(mu)
    if by_numpy:
        p = mdist.FisherBingham(mu, tensor(math.nan), symmetric(3, 1.0), validate_args=False)
        assert bool(p.log_prob(mu).isnan())
