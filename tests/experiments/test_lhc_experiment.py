"""The LHC tutorial: its likelihoods, modes and weights are what they say, and it runs."""

import json
from collections import defaultdict
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from scripts import EXPERIMENTS, load, run

from pyro_manifold.contrib.lhc import MorphingHead, grid_posterior
from pyro_manifold.flows import LatentFlow, coupling_chain
from pyro_manifold.models import ManifoldFlow
from pyro_manifold.transforms import Pad

pytestmark = pytest.mark.filterwarnings(
    "ignore::pyro_manifold.training.TrainingWarning"
)  # smoke runs make few passes

SCRIPT = EXPERIMENTS / "lhc.py"


@pytest.fixture(scope="module")
def compare() -> ModuleType:
    return load(EXPERIMENTS / "lhc_compare.py")


@pytest.fixture(scope="module")
def nuts() -> ModuleType:
    return load(EXPERIMENTS / "lhc_nuts.py")


def flows() -> list[ManifoldFlow]:
    torch.manual_seed(0)
    head = MorphingHead(LatentFlow(3, []), torch.eye(3), torch.randn(99, 2), hidden=(8,))
    for p in head.parameters():
        p.data += 0.5 * torch.randn_like(p)
    spline = LatentFlow(3, coupling_chain(3, 2, 2, hidden=(8,)), 2)
    return [ManifoldFlow(Pad(3, 4), latent).requires_grad_(False).double() for latent in (head, spline)]


def test_likelihood_of_many_theta_is_that_of_the_flow(compare: ModuleType, nuts: ModuleType) -> None:
    x, theta = torch.randn(5, 4).double(), torch.randn(7, 2).double()
    for flow in flows():
        want = flow.log_prob(x, theta.unsqueeze(1)).sum(-1)
        got = compare.log_likelihood(flow, x)(theta)
        assert torch.allclose(got - got[0], want - want[0], atol=1e-8)
        assert nuts.gradient_error(flow, x) < 1e-6


def test_modes_and_their_masses(nuts: ModuleType) -> None:
    def two(theta: torch.Tensor) -> torch.Tensor:  # modes about +-1.5 with shares 0.8 and 0.2
        peaks = torch.stack([(theta - m).square().sum(-1) for m in (1.5, -1.5)])
        return (-8 * peaks + torch.tensor([[0.8], [0.2]], dtype=theta.dtype).log()).logsumexp(0)

    p = grid_posterior(two)
    label = nuts.basins(p)
    assert label.max() == 1
    masses = nuts.masses(p.weight, label)
    assert masses.sum() == pytest.approx(1) and masses[0] == pytest.approx(0.8, abs=0.01)
    assert torch.equal(nuts.nearest(p, p.theta + 0.05), torch.arange(len(p.theta)))
    torch.manual_seed(0)
    chains = torch.cat(
        [1.4 + 0.25 * torch.randn(100, 2), -1.4 + 0.25 * torch.randn(300, 2)]
    ).double()  # shares all wrong
    weight, ess = nuts.reweighted(p, label, two, chains, 20_000, 0)
    assert torch.allclose(weight, masses, atol=0.02) and ess > 2000  # sd 0.004 or less


def test_script_in_smoke_mode(tmp_path: Path) -> None:
    rows = results(tmp_path, "--densities", "head, both")
    assert [len(rows[k]) for k in ("posteriors", "NUTS", "SBC", "score")] == [2, 4, 2, 1]
    exact = rows["posteriors"][0]
    assert exact["name"] == "exact" and exact["kl"] == 0 and exact["c2st"] == 0.5 and exact["less_exact"] == 0
    assert (tmp_path / "lhc.png").read_bytes().startswith(b"\x89PNG")
    assert "f_Wt" in (tmp_path / "summary_unimodal.txt").read_text()


@pytest.mark.slow
def test_every_density_and_three_theta(tmp_path: Path) -> None:
    """With two theta, then three on the surface that the first run has learned."""
    two, three = tmp_path / "2", tmp_path / "3"
    rows = results(two, "--densities", "head, joint ratio", "head, both", "spline, SCANDAL")
    assert [len(rows[k]) for k in ("posteriors", "NUTS", "SBC", "score")] == [4, 4, 3, 2]
    surface = two / "surface.pt"
    rows = results(
        three, "--theta", "3", "--surface", str(surface), "--densities", "head, joint score", "--seeds", "2"
    )
    assert [len(rows[k]) for k in ("posteriors", "NUTS", "SBC", "score")] == [3, 1, 2, 2]
    assert all(len(r["r2"]) == 3 for r in rows["score"]) and not (three / "surface.pt").exists()


def results(out: Path, *options: str) -> dict[str, list[dict[str, Any]]]:
    """Its results by part."""
    run(SCRIPT, "--smoke", "--no-progress", "--out", out, *options)
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in (out / "results.jsonl").read_text().splitlines():
        row = json.loads(line)
        rows[row["part"]].append(row)
    return rows
