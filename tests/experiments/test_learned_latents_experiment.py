"""The tutorial on learned latents: its pictures turn, its exact posterior is exact where that is known by
heart, it runs."""

import argparse
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from scripts import EXPERIMENTS, load, run
from torch.distributions import MultivariateNormal

from pyro_manifold.flows import LatentFlow
from pyro_manifold.models import ManifoldFlow
from pyro_manifold.transforms import LinearEmbedding

pytestmark = pytest.mark.filterwarnings(
    "ignore::pyro_manifold.training.TrainingWarning"
)  # smoke runs make few passes

SCRIPT = EXPERIMENTS / "learned_latents.py"


@pytest.fixture(scope="module")
def tutorial() -> ModuleType:
    return load(SCRIPT)


def test_pictures_turn(tutorial: ModuleType) -> None:
    """A quarter turn of the digit is a quarter turn of its picture; the surface has two dimensions."""
    ink = torch.rand(64)
    still, turned = tutorial.pictures(torch.tensor([[0.0, 0.0], [math.pi / 2, 0.0]]), ink).reshape(2, 8, 8)
    torch.testing.assert_close(turned, torch.rot90(still), rtol=1e-4, atol=1e-5)
    J = torch.func.jacrev(lambda t: tutorial.pictures(t, ink))(torch.tensor([0.3, 0.1]))
    assert torch.linalg.svdvals(J)[1] > 0.1


def plane(tutorial: ModuleType) -> tuple[Any, torch.Tensor, MultivariateNormal, torch.Tensor]:
    """Pictures on a plane with a normal prior: (problem, y, exact posterior of u, exact log evidence)."""
    torch.manual_seed(0)
    W, loc, noise = 0.2 * torch.randn(64, 2), torch.rand(64), 0.3
    problem = tutorial.Problem(
        ManifoldFlow(LinearEmbedding(W, loc), LatentFlow(2, [])), torch.rand(64), noise, 101
    )
    S = W[tutorial.SEEN]
    y = loc[tutorial.SEEN] + S @ torch.randn(2) + noise * torch.randn(32)
    precision = torch.eye(2) + S.mT @ S / noise**2
    mean = torch.linalg.solve(precision, S.mT @ (y - loc[tutorial.SEEN])) / noise**2
    posterior = MultivariateNormal(mean, precision_matrix=precision)
    evidence = MultivariateNormal(loc[tutorial.SEEN], S @ S.mT + noise**2 * torch.eye(32)).log_prob(y)
    return problem, y, posterior, evidence


def test_exact_posterior_of_a_plane(tutorial: ModuleType) -> None:
    problem, y, posterior, evidence = plane(tutorial)
    log_evidence, weight, _ = problem.exact(y)
    assert float(log_evidence) == pytest.approx(float(evidence), abs=1e-3)
    torch.testing.assert_close(weight @ problem.u, posterior.mean, rtol=0, atol=1e-3)
    u = posterior.sample((500,))
    assert problem.kl(y, u, posterior.log_prob(u), log_evidence) == pytest.approx(
        0, abs=1e-3
    )  # no variance: q is p
    wide = MultivariateNormal(posterior.mean, 4 * posterior.covariance_matrix)
    u = wide.sample((4000,))
    exact = float(torch.distributions.kl_divergence(wide, posterior))
    assert problem.kl(y, u, wide.log_prob(u), log_evidence) == pytest.approx(
        exact, abs=0.3
    )  # 5 standard errors


@pytest.mark.slow
def test_autoguide_of_a_plane(tutorial: ModuleType) -> None:
    """A normal posterior is what AutoMultivariateNormal can be."""
    problem, y, _, _ = plane(tutorial)
    args = argparse.Namespace(auto_steps=150, draws=1000)
    u, log_q = tutorial.by_autoguide(problem, y, args)
    assert problem.kl(y, u, log_q, problem.exact(y)[0]) < 0.1


def test_script_in_smoke_mode(tutorial: ModuleType, tmp_path: Path) -> None:
    printed = run(SCRIPT, "--smoke", "--quiet", "--out", tmp_path)
    names = ("| NUTS |", "| AutoMultivariateNormal |", "| M-flow guide |", "| true process |", "| linear |")
    assert all(any(line.startswith(name) for line in printed.splitlines()) for name in names)
    assert (tmp_path / "surface.pt").exists()
    assert (tmp_path / "learned_latents.png").read_bytes().startswith(b"\x89PNG")


def test_a_guide_is_read_only_for_what_it_was_trained_for(tutorial: ModuleType, tmp_path: Path) -> None:
    problem, x = plane(tutorial)[0], torch.randn(8, 64)
    args = argparse.Namespace(out=tmp_path, seed=5, steps=2, batch=4, quiet=True)
    first, again = (tutorial.learn_guide(problem, x, args).state_dict() for _ in range(2))
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    other = argparse.Namespace(**{**vars(args), "seed": 6})
    for rows, settings, match in ((x + 1, args, "rows differs"), (x, other, "seed was 5, is 6")):
        with pytest.raises(ValueError, match=rf"guide\.pt.*{match}"):
            tutorial.learn_guide(problem, rows, settings)
