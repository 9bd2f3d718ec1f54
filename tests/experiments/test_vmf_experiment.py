"""The experiment on von Mises-Fisher targets: its entropies are right, and it runs and goes on from its file."""

import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from scripts import EXPERIMENTS, load, run

import pyro_manifold.distributions as mdist

SCRIPT = EXPERIMENTS / "vmf_targets.py"


@pytest.fixture(scope="module")
def experiment() -> ModuleType:
    return load(SCRIPT)


def test_entropies_are_the_published_ones(experiment: ModuleType) -> None:
    for kappa, expected in ((100, -1.767), (50, -1.074), (10, 0.535)):
        assert experiment.entropy(kappa) == pytest.approx(expected, abs=5e-4)
        target = mdist.VonMisesFisher(torch.tensor([0.0, 0.6, 0.8]), float(kappa))
        assert float(target.entropy()) == pytest.approx(experiment.entropy(kappa), abs=1e-5)


def test_a_model_that_is_not_trained_is_scored_by_its_divergence(experiment: ModuleType) -> None:
    """Of the uniform distribution: log 4 pi less the entropy; its mass is one."""
    sizes = experiment.Sizes(draws=20_000, nodes=48, hidden=(4,))
    old = experiment.train
    experiment.train = lambda *args: None
    try:
        row = experiment.measure("Riemannian CNF", "likelihood", 10.0, "infinity", 0, sizes)
    finally:
        experiment.train = old
    expected = 2.5310242 - experiment.entropy(10.0)
    assert row.kl == pytest.approx(expected, abs=5 * row.kl_error)
    assert row.mass == pytest.approx(1, abs=1e-4) and row.evaluations > 5


@pytest.mark.slow
def test_script_in_quick_mode(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    printed = run(SCRIPT, "--quick", "--kappas", "10", "--out", out)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == 11 and "entropy at 10: 0.5353 nat" in printed
    assert printed.count("| stereographic CNF |") == 4 and printed.count("| flow matching |") == 1
    again = run(SCRIPT, "--quick", "--kappas", "10", "--out", out)
    assert len(out.read_text().splitlines()) == 11 and again.count("| spline flow |") == 2
