"""The tutorial on learned manifolds: its metrics vanish on the truth, its chain has the right distribution,
it runs, it resumes."""

import argparse
import json
import math
import runpy
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from scripts import EXPERIMENTS, load
from torch import Tensor

from pyro_manifold.flows import LatentFlow
from pyro_manifold.models import AmbientFlow, ManifoldFlow
from pyro_manifold.transforms import Chart

pytestmark = pytest.mark.filterwarnings(
    "ignore::pyro_manifold.training.TrainingWarning"
)  # smoke runs make few passes

SCRIPT = EXPERIMENTS / "manifold_flows.py"


@pytest.fixture(scope="module")
def tutorial() -> ModuleType:
    return load(SCRIPT)


@pytest.fixture(scope="module")
def data() -> ModuleType:
    return load(EXPERIMENTS / "manifold_flows_data.py")


@pytest.fixture(scope="module")
def polynomial(tutorial: ModuleType) -> Any:
    return tutorial.Polynomial(smoke=True)


class Mixture(LatentFlow):
    """The true distribution of z given theta."""

    def __init__(self) -> None:
        super().__init__(2, [], 1)

    def condition(self, context: Tensor | None = None) -> Any:
        assert context is not None
        narrow = 0.2 + 0.4 * (1 + context[..., 0])
        scale = torch.stack([torch.full_like(narrow, 2.0), narrow], -1)[..., None]
        loc = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
        parts = dist.Normal(loc.expand(*scale.shape[:-1], 2), scale.expand(*scale.shape[:-1], 2)).to_event(1)
        return dist.MixtureSameFamily(
            dist.Categorical(torch.tensor([0.6, 0.4]).expand(scale.shape[:-1])), parts
        )


def test_every_metric_of_the_surface_vanishes_on_the_truth(polynomial: Any) -> None:
    surface = load(EXPERIMENTS / "manifold_flows_polynomial.py").SURFACE
    chart = Chart(lambda z: surface.embed(z).to(z), lambda x: surface.chart(x)[0].to(x), 2, 3)
    torch.manual_seed(0)
    row = polynomial.evaluate(ManifoldFlow(chart, Mixture()))
    assert row["distance"] < 1e-6 and row["orthogonal_distance"] < 1e-6 and row["reco"] < 1e-6
    assert row["auc"] > 0.999 and abs(row["kl"]) < 1e-4 and abs(row["mmd2"]) < 1e-6
    # two short chains: as far apart as the truth's own, run with the same random numbers
    assert row["mmd2_chain"] == pytest.approx(polynomial.floor()["mmd2_chain"], abs=1e-3)


def test_the_chain_samples_the_posterior_on_the_grid(polynomial: Any) -> None:
    polynomial.steps, steps = 1_100, polynomial.steps
    log_weight = torch.stack(
        [-0.5 * ((polynomial.grid - 0.3) / 0.2).square(), -((polynomial.grid + 1) / 0.3)]
    )
    theta = polynomial.chain(log_weight.repeat_interleave(8, 0), seed=0)
    polynomial.steps = steps
    assert theta.shape == (16, 1000) and bool((theta.abs() <= 1).all())
    p = log_weight.softmax(-1)
    mean = (p * polynomial.grid).sum(-1)
    # about 8000 / 15 independent draws of standard deviation 0.2 and 0.3: standard errors 0.009 and 0.013;
    # allowed are 4
    torch.testing.assert_close(theta.reshape(2, -1).mean(-1), mean, rtol=0, atol=0.05)
    assert (
        polynomial.between(log_weight, torch.tensor([1.01, -1.01], dtype=torch.float64)).tolist()
        == [-math.inf] * 2
    )
    at = torch.tensor([0.3, 0.3], dtype=torch.float64)
    torch.testing.assert_close(
        polynomial.between(log_weight, at), torch.tensor([0.0, -1.3 / 0.3], dtype=torch.float64)
    )


@pytest.mark.parametrize("name", ["M", "PIE", "PIE original"])
def test_likelihoods_of_sets_are_sums_over_their_points(polynomial: Any, name: str) -> None:
    torch.manual_seed(0)
    flow = polynomial.build(name)[0].requires_grad_(False)
    for p in flow.parameters():
        p.add_(0.05 * torch.randn_like(p))
    y = polynomial.truth[0]
    table = polynomial.log_likelihood(flow, y)
    assert table.shape == (len(y), 401)
    for theta in (0, 400):
        context = polynomial.grid[theta].float().reshape(1)
        direct = (
            flow.log_prob(y.float(), context).sum(-1)
            if name != "M"
            else flow.latent_log_prob(y.float(), context).sum(-1)
        )
        torch.testing.assert_close(table[:, theta], direct.double(), rtol=1e-4, atol=1e-2)


def test_pie_projects_by_its_latent_coordinates(data: ModuleType) -> None:
    x = torch.randn(50, 3) @ torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, 0.2], [0.0, 0.0, 0.1]])
    torch.manual_seed(0)
    flow = AmbientFlow.from_data(x, 2, hidden=(8,)).requires_grad_(False)
    for p in flow.parameters():
        p.add_(0.1 * torch.randn_like(p))
    y = data.project(flow, x)
    torch.testing.assert_close(data.project(flow, y), y, rtol=1e-3, atol=1e-3)
    assert bool((y - x).norm(dim=-1).max() > 1e-2)


def test_the_exact_distribution_on_the_circle_scores_nothing(tutorial: ModuleType) -> None:
    circle = tutorial.Circle(smoke=True)
    flow = circle.build("FOM")[0]
    exact = LatentFlow(1, [dist.transforms.AffineTransform(0.0, math.pi / 4, event_dim=1)])
    row = circle.evaluate(ManifoldFlow(flow.transform, exact))
    # equal up to the tail that is wrapped around, beyond 4 standard deviations
    assert abs(row["kl"]) < 1e-2 and row["distance"] < 1e-6 and row["reco"] < 1e-5


def test_the_true_chart_of_images_has_no_divergence(tutorial: ModuleType) -> None:
    """The model whose g is the true chart, told the true factors in place of an inverse, and whose u is
    uniform."""
    images = tutorial.Images(smoke=True)
    images.test, images.factors = images.test[:20], images.factors[:20]
    images.many = 20

    class Told(Chart):
        def _inverse(self, x: Tensor) -> Tensor:
            return images.factors[torch.cdist(x, images.test).argmin(-1)]

    class Uniform(LatentFlow):
        def condition(self, context: Tensor | None = None) -> Any:
            return dist.Uniform(-torch.ones(4), torch.ones(4)).to_event(1)

    flow = ManifoldFlow(Told(images.chart._forward, lambda x: x, 4, 1024), Uniform(4, []))
    row = images.evaluate(flow)
    assert abs(row["kl"]) < 1e-3 and row["reco"] < 1e-5 < row["pca"]


def test_passes_fit_the_budget(tutorial: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that trainings alone move: 0.04 s a pass of the manifold, 0.01 s one of the density."""
    clock, calls = [0.0], []

    def clocked(flow: Any, x: Tensor, *rest: Any, epochs: tuple[int, int], **settings: Any) -> Any:
        calls.append((len(x), epochs))
        clock[0] += (0.04 * epochs[0] + 0.01 * epochs[1]) * len(x) / len(circle.x)
        return SimpleNamespace(losses={"density": [2.0, 1.0, 3.0]})

    circle = tutorial.Circle(smoke=True)
    flow, settings = circle.build("M")
    settings["batch"] = len(circle.x) // 50
    monkeypatch.setattr(tutorial, "fit_md", clocked)
    monkeypatch.setattr(tutorial.time, "process_time", lambda: clock[0])
    report = tutorial.fit(
        flow, circle.x, None, budget=2.0 + 1e-6, **{**settings, "share": 0.4, "schedule": "sequential"}
    )
    assert report["passes"] == (20, 120) and report["validation"] == {"density": 1.0}
    assert report["cpu_seconds"] == pytest.approx(2.0 + 0.5 * 0.05)  # the timing itself comes on top
    assert [epochs for _, epochs in calls] == [(1, 0), (0, 1), (20, 120)] and calls[0][0] == len(
        circle.x
    ) // 2


NAMES = ["polynomial", "circle", "lorenz", "digits", "images"]


def smoke(monkeypatch: pytest.MonkeyPatch, folder: Path, *options: str) -> None:
    """As a command, but in this process, which has imported torch, matplotlib and scikit-learn already."""
    args = [str(SCRIPT), "--smoke", "--algorithms", "M", "--out", str(folder), *options]
    monkeypatch.setattr(sys, "argv", args)
    validated = torch.distributions.Distribution._validate_args
    with pyro.validation_enabled(True):  # puts back what the script switches off
        runpy.run_path(str(SCRIPT), run_name="__main__")
    torch.distributions.Distribution.set_default_validate_args(validated)


@pytest.mark.slow
def test_pictures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    smoke(monkeypatch, tmp_path)
    for name in NAMES:
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_script_in_smoke_mode_and_again(
    tutorial: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of one of the data sets with its picture."""
    smoke(monkeypatch, tmp_path, "--no-pictures", "--data", *(name for name in NAMES if name != "digits"))
    smoke(monkeypatch, tmp_path, "--data", "digits")
    assert (tmp_path / "digits.png").read_bytes().startswith(b"\x89PNG")
    made = {name: (tmp_path / f"{name}-M-0-0.json") for name in NAMES}
    for name in NAMES:
        assert json.loads(made[name].read_text())["data"] == name
    stamps = {name: path.stat().st_mtime_ns for name, path in made.items()}
    args = argparse.Namespace(out=tmp_path, budget=0.0, progress=False)
    row, flow = tutorial.run(tutorial.Circle(smoke=True), "circle", "M", 0, args)
    assert row == json.loads(made["circle"].read_text()) and not any(
        p.requires_grad for p in flow.parameters()
    )
    assert {name: path.stat().st_mtime_ns for name, path in made.items()} == stamps  # read, not trained again
    told = capsys.readouterr().out
    assert "| published | 5 |" in told and "the truth against itself" in told


def test_table_takes_medians(tutorial: ModuleType) -> None:
    rows = [{"algorithm": "M", "distance": v} for v in (0.1, 0.3, 0.2)] + [{"algorithm": "AF", "reco": 1.0}]
    lines = tutorial.table(rows, ["distance", "reco"], tutorial.PUBLISHED).splitlines()
    assert lines[2] == "| M | 3 | 0.2 | - |" and lines[3] == "| published | 5 | 0.009 | 0.013 |"
    assert lines[4] == "| AF | 1 | - | 1 |" and lines[5] == "| published | 5 | 0.005 | - |"
