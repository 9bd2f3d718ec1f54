"""Small tools that everything rests on, each against numpy, scipy, a long sum or a finite difference."""

import itertools
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

import pyro_manifold.distributions as md
from pyro_manifold.infer.sbc.test_quantities import LogLikelihood, default_statistics
from pyro_manifold.ops import rejection as rejection_module
from pyro_manifold.ops.circular import log_wrapped_normal, wrap
from pyro_manifold.ops.lon_lat import from_lon_lat, lon_lat
from pyro_manifold.ops.newton import householder_basis, newton
from pyro_manifold.ops.quaternion import quadratic_form, rotation
from pyro_manifold.ops.rejection import rejection

F64 = torch.float64


def test_rejection_draws_each_row_from_its_own_density() -> None:
    """Beta(2, 1) and Beta(4, 1) by uniform proposals: Kolmogorov-Smirnov p above 1e-4 for each."""
    powers = torch.tensor([1.0, 3.0], dtype=F64)

    def propose(k: int, rows: Tensor | slice) -> tuple[Tensor, Tensor]:
        x = torch.rand(k, dtype=F64)
        return x.unsqueeze(-1), powers[rows] * x.log()

    x = rejection(propose, 2000, 2, 1, powers)
    assert x.shape == (2000, 2, 1)
    for row, p in zip(x.unbind(1), powers.tolist(), strict=True):
        assert scipy.stats.kstest(row.squeeze(-1).numpy(), scipy.stats.beta(p + 1, 1).cdf).pvalue > 1e-4
    one = rejection(lambda k, rows: propose(k, torch.ones(k, dtype=torch.long)), 2000, 1, 1, powers)
    assert scipy.stats.kstest(one.flatten().numpy(), scipy.stats.beta(4, 1).cdf).pvalue > 1e-4


def test_rejection_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accepted in the last round allowed; one round fewer is an error that counts what is missing."""
    for allowed, fine in ((3, True), (2, False)):
        rounds: list[int] = []

        def propose(k: int, rows: Tensor | slice, rounds: list[int] = rounds) -> tuple[Tensor, Tensor]:
            rounds.append(k)
            accept = torch.zeros(k) if len(rounds) == 3 else torch.full((k,), -torch.inf)
            return torch.ones(k, 1), accept

        monkeypatch.setattr(rejection_module, "_MAX_ROUNDS", allowed)
        if fine:
            assert rejection(propose, 5, 1, 1, torch.zeros(())).sum() == 5 and rounds == [5, 5, 5]
        else:
            with pytest.raises(RuntimeError, match="5 of 5 draws were not accepted in 2 rounds"):
                rejection(propose, 5, 1, 1, torch.zeros(()))


def test_quaternions_are_scipys_rotations() -> None:
    q = torch.nn.functional.normalize(torch.randn(50, 4, dtype=F64), dim=-1)
    expected = torch.from_numpy(Rotation.from_quat(q[:, [1, 2, 3, 0]].numpy()).as_matrix())
    R = rotation(q.unsqueeze(-1) * q.unsqueeze(-2))
    torch.testing.assert_close(R, expected, rtol=0, atol=1e-14)
    F = torch.randn(50, 3, 3, dtype=F64)
    torch.testing.assert_close(
        (q.unsqueeze(-2) @ quadratic_form(F) @ q.unsqueeze(-1)).reshape(-1), (F * R).sum((-1, -2))
    )


def test_longitude_and_latitude() -> None:
    x = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [-0.6, 0.0, -0.8]], dtype=F64)
    lon, lat = lon_lat(x)
    torch.testing.assert_close(lat, torch.tensor([0.0, 0.0, math.pi / 2, -math.asin(0.8)], dtype=F64))
    torch.testing.assert_close(lon[[0, 1]], torch.tensor([0.0, math.pi / 2], dtype=F64))
    assert float(lon[3].abs()) == pytest.approx(math.pi)
    torch.testing.assert_close(from_lon_lat(lon, lat), x)


@pytest.mark.parametrize("scale", [1e-3, 0.3, 1.69, 1.71, 3.0, 30.0])
def test_wrapped_normal_is_the_long_sum(scale: float) -> None:
    """Two hundred windings, on either side of where the dual sum takes over."""
    x = torch.tensor([-3.1415, -1.0, 0.0, 0.5, 3.0, 7.0, -20.0], dtype=F64)
    turns = 2 * math.pi * np.arange(-200, 201)
    terms = scipy.stats.norm(0, scale).logpdf(wrap(x).numpy()[:, None] + turns)
    expected = torch.from_numpy(np.logaddexp.reduce(terms, 1))
    torch.testing.assert_close(
        log_wrapped_normal(x, torch.tensor(scale, dtype=F64)), expected, rtol=1e-12, atol=1e-13
    )
    y = wrap(x)
    assert bool(((y >= -math.pi) & (y < math.pi)).all())
    torch.testing.assert_close(torch.stack([y.cos(), y.sin()]), torch.stack([x.cos(), x.sin()]))
    assert float(wrap(torch.tensor(math.pi, dtype=F64))) == -math.pi


def test_newton_freezes_rows_and_says_which_converged() -> None:
    """Square roots; a row at its root stays to the bit, one that divides by zero is lost, one too far is not
    done."""
    target = torch.tensor([[4.0], [2.0], [1.0], [1e30]], dtype=F64)
    start = torch.tensor([[2.0], [1.0], [0.0], [1.0]], dtype=F64)
    q, done = newton(lambda q: (q * q - target) / (2 * q), start, 20)
    assert done.tolist() == [True, True, False, False]
    assert float(q[0]) == 2.0 and float(q[1]) == pytest.approx(math.sqrt(2), rel=1e-15) and float(q[2]) == 0.0
    assert newton(lambda q: (q * q - target) / (2 * q), start[:2], 0)[1].tolist() == [False, False]


def test_householder_basis_with_a_gradient() -> None:
    """Orthonormal, its first columns span those given, equal to LAPACK's, with the derivative of finite
    differences."""
    a = torch.randn(3, 5, 2, dtype=F64)
    plain, leaf = householder_basis(a), a.clone().requires_grad_()
    traced = householder_basis(leaf)
    torch.testing.assert_close(traced.detach(), plain)
    torch.testing.assert_close(traced.mT @ traced, torch.eye(5, dtype=F64).expand(3, 5, 5))
    assert float((plain[..., 2:].mT @ a).abs().max()) < 1e-13
    weight = torch.randn(3, 5, 5, dtype=F64)
    (grad,) = torch.autograd.grad((traced * weight).sum(), leaf)
    step = 1e-6 * torch.randn_like(a)
    slope = ((householder_basis(a + step) - householder_basis(a - step)) * weight).sum() / 2
    torch.testing.assert_close((grad * step).sum(), slope, rtol=1e-5, atol=1e-12)


def test_statistics_of_simulation_based_calibration() -> None:
    """Their names, and their values for a model whose log likelihood can be written down."""

    def model() -> None:
        mu = pyro.sample(
            "mu", md.ManifoldUniform(md.VonMisesFisher(torch.eye(3)[0], 1.0).support.manifold, (3,))
        )
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", 4):
            pyro.sample("y", dist.Normal(m + mu[..., 0], 2.0))

    told = default_statistics(model, (), ["y"])
    assert list(told) == ["mu[0]", "mu[1]", "mu[2]", "dist(mu)", "m", "log_lik"]
    mu = torch.nn.functional.normalize(torch.randn(2, 3, 3), dim=-1)
    m, y = torch.randn(2, 3), torch.randn(2, 1, 4)
    values = {"mu": mu, "m": m, "y": y}
    torch.testing.assert_close(told["mu[1]"](values), mu[..., 1])
    torch.testing.assert_close(told["dist(mu)"](values), mu[..., 0].arccos(), rtol=1e-4, atol=1e-4)
    expected = torch.zeros(2, 3)
    for i, j in itertools.product(range(2), range(3)):
        distribution = scipy.stats.norm(float(m[i, j] + mu[i, j, 0]), 2.0)
        expected[i, j] = distribution.logpdf(y[i, 0].numpy()).sum()
    torch.testing.assert_close(LogLikelihood(model, (), ["y"])(values), expected, rtol=1e-5, atol=1e-5)
