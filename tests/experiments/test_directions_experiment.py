"""The tutorial on a mean direction and a rotation: its closed forms are right and those of its models, and it
runs."""

import math
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import torch
from pyro import poutine
from scripts import EXPERIMENTS, load, run

import pyro_manifold.distributions as mdist

SCRIPT = EXPERIMENTS / "directions_and_rotations.py"
F64 = torch.float64


@pytest.fixture(scope="module")
def tutorial() -> ModuleType:
    pytest.importorskip("arviz")
    return load(SCRIPT)


@pytest.fixture
def double():
    old = torch.get_default_dtype()
    torch.set_default_dtype(F64)
    yield
    torch.set_default_dtype(old)


def iceland() -> torch.Tensor:
    centre = torch.tensor([0.41, -0.13, 0.9], dtype=F64)
    return mdist.VonMisesFisher(centre / centre.norm(), 5000.0).sample((11,))


def log_density(model, **values) -> float:
    return float(poutine.trace(poutine.condition(model, data=values)).get_trace().log_prob_sum())


def test_fishers_cone_is_the_posterior_cone(tutorial: ModuleType, double) -> None:
    """Under p(kappa) = 1/kappa, up to exp(-2 kappa); and the concentration's posterior mean is Fisher's
    estimate."""
    torch.manual_seed(0)
    x = iceland()
    _, r, kappa, alpha = tutorial.fisher(x)
    u, w, exact = tutorial.direction_posterior(len(x), r)
    assert exact == pytest.approx(alpha, rel=1e-5)
    assert float(w @ u.exp()) == pytest.approx(kappa, rel=1e-6)


def test_direction_posterior_is_that_of_the_model(tutorial: ModuleType, double) -> None:
    """log joint minus log of the closed-form posterior does not depend on the parameters."""
    torch.manual_seed(1)
    x = iceland()
    mean, r, _, _ = tutorial.fisher(x)
    u, w, _ = tutorial.direction_posterior(len(x), r)
    gaps = []
    for k in (2000, 2500, 2700):
        mu = mdist.VonMisesFisher(mean, 3000.0).sample()
        joint = log_density(partial(tutorial.direction_model, len(x)), mu=mu, x=x, log_kappa=u[k])
        gaps.append(joint - float(w[k].log() + mdist.VonMisesFisher(mean, u[k].exp() * r).log_prob(mu)))
    assert max(gaps) - min(gaps) < 1e-6


def test_rotation_posterior_is_that_of_the_model(tutorial: ModuleType, double) -> None:
    torch.manual_seed(2)
    x = mdist.ManifoldUniform(tutorial.SPHERE, 3).sample((20,))
    y = mdist.VonMisesFisher(
        x @ mdist.ManifoldUniform(tutorial.ROTATIONS, (3, 3)).sample().mT, 100.0
    ).sample()
    u, w, _ = tutorial.rotation_posterior(x, y, tutorial.WIDE)
    torch.testing.assert_close(tutorial.wahba(x, y), mdist.MatrixFisher(y.mT @ x).mode, rtol=1e-9, atol=1e-9)
    gaps = []
    for k in (300, 400, 500):
        distribution = mdist.MatrixFisher(u[k].exp() * (y.mT @ x))
        q = distribution.sample()
        joint = log_density(partial(tutorial.rotation_model, x), q=q, y=y, log_kappa=u[k])
        gaps.append(joint - float(w[k].log() + distribution.log_prob(q)))
    assert max(gaps) - min(gaps) < 1e-6
    known = tutorial.rotation_posterior(x, y, (100.0, 100.0), 1)[2]
    torch.testing.assert_close(known, mdist.MatrixFisher(100 * (y.mT @ x)).mean)


def test_script_in_smoke_mode(tmp_path: Path) -> None:
    torch.manual_seed(3)
    scattered = torch.nn.functional.normalize(torch.randn(60, 3, dtype=F64), dim=-1)
    x = torch.cat([iceland(), scattered[scattered @ iceland()[0] < math.cos(0.2)]])
    degrees = torch.stack([x[:, 2].asin(), torch.atan2(x[:, 1], x[:, 0])], -1).rad2deg()
    rows = "".join(f"{a:.4f},{b:.4f}\n" for a, b in degrees.tolist())
    (tmp_path / "volerup.csv").write_text("Latitude,Longitude\n" + rows)
    picture = tmp_path / "picture.png"
    printed = run(SCRIPT, "--smoke", "--folder", tmp_path, "--figure", picture)
    assert "11 volcanoes" in printed and printed.count("SBC: 8 simulations") == 2
    assert picture.read_bytes().startswith(b"\x89PNG")
