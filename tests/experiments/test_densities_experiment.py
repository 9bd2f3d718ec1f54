"""The experiment on densities: its quadrature finds spikes, its models are densities, its rows resume, its script
runs."""

import json
import math
from pathlib import Path
from types import ModuleType

import geoopt
import pyro.distributions as dist
import pytest
import torch
from scripts import EXPERIMENTS, load, run

import pyro_manifold.distributions as mdist

SCRIPT = EXPERIMENTS / "densities.py"
F64 = torch.float64


@pytest.fixture(scope="module")
def models() -> ModuleType:
    return load(EXPERIMENTS / "densities_models.py")


@pytest.fixture(scope="module")
def quadrature() -> ModuleType:
    return load(EXPERIMENTS / "densities_mass.py")


def places(n: int) -> torch.Tensor:
    centre = torch.tensor([[0.0, 0.6, 0.8], [1.0, 0.0, 0.0]], dtype=F64)
    d = mdist.VonMisesFisher(centre, torch.tensor([50.0, 800.0], dtype=F64))
    return d.sample((n,)).flatten(0, 1)


@pytest.mark.parametrize("concentration", [0.5, 50.0, 1e4, 1e7])
def test_mass_of_a_spike(quadrature: ModuleType, concentration: float) -> None:
    torch.manual_seed(0)
    d = mdist.VonMisesFisher(torch.tensor([0.6, 0.0, 0.8], dtype=F64), torch.tensor(concentration, dtype=F64))
    twice = quadrature.mass(lambda x: d.log_prob(x) + math.log(2), d.sample((50,)), True)
    assert twice.value == pytest.approx(2, abs=3e-3) and twice.error < 5e-3 and twice.evaluations < 70_000
    angles = dist.VonMises(
        torch.tensor([3.1, -1.0], dtype=F64), torch.tensor(min(concentration, 1e4), dtype=F64)
    )
    found = quadrature.mass(angles.to_event(1).log_prob, angles.sample((50,)), False)
    assert found.value == pytest.approx(1, abs=3e-3)


@pytest.mark.filterwarnings("ignore::pyro_manifold.training.TrainingWarning")
def test_flow_on_kernels_has_mass_one_and_starts_as_kernels(
    models: ModuleType, quadrature: ModuleType
) -> None:
    flows = pytest.importorskip("pyro_manifold.flows")
    torch.manual_seed(0)
    train, valid = places(20), places(20)
    options = dict(bins=6, hidden=(8,), number=2)
    plain = models.kernels(train, valid)
    for steps, lr in ((1, 0.0), (30, 1e-2)):
        torch.manual_seed(1)
        d = models.fit_flow_on_kernels(flows.SphereFlow(2, 2, **options), train, valid, steps=steps, lr=lr)
        score, before = (float(e.log_prob(valid).mean().detach()) for e in (d, plain))
        if lr == 0:  # a new flow is the identity
            assert score == pytest.approx(before, abs=0.02)
        assert score >= before - 0.02
        m = quadrature.mass(d.log_prob, train, True, budget=20_000)
        assert m.value == pytest.approx(1, abs=5e-3)


def test_stack_is_the_best_mixture(models: ModuleType) -> None:
    torch.manual_seed(0)
    x = places(300)
    parts = [
        mdist.VonMisesFisher(torch.tensor(c, dtype=F64), 50.0) for c in ([0.0, 0.6, 0.8], [0.0, 0.0, -1.0])
    ]
    parts.append(mdist.ManifoldUniform(geoopt.Sphere(), 3, dtype=F64))
    s = models.stack(x, parts)
    assert len(s.parts) == 2 and float(s.weights[0]) == pytest.approx(0.5, abs=0.1)  # the other has no points
    best = float(s.log_prob(x).mean())
    for w in torch.linspace(0.05, 0.95, 19, dtype=F64):
        log = torch.stack([w.log() + parts[0].log_prob(x), (1 - w).log() + parts[2].log_prob(x)]).logsumexp(0)
        assert float(log.mean()) <= best + 1e-6
    draws = s.sample((2000,))
    near = (draws @ torch.tensor([0.0, 0.6, 0.8], dtype=F64) > 0.8).double().mean()
    assert float(near) == pytest.approx(float(s.weights[0]) + 0.1 * float(s.weights[1]), abs=0.05)


@pytest.mark.filterwarnings("ignore::pyro_manifold.training.TrainingWarning")
@pytest.mark.slow
def test_script_on_small_data(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    torch.manual_seed(0)
    x = places(25)
    degrees = torch.stack([x[:, 2].asin(), torch.atan2(x[:, 1], x[:, 0])], -1).rad2deg()
    for file in ("volerup.csv", "flood.csv"):
        (tmp_path / file).write_text("".join(f"{a:.3f},{b:.3f}\n" for a, b in degrees.tolist()))
    rows = [f"{f},{r},ALA,ALA,{r * 4 + f},{150 - f}" for r in range(20) for f in range(4)]
    (tmp_path / "adk.csv").write_text("frame,residue,name,next,phi,psi\n" + "\n".join(rows))
    out = tmp_path / "out"
    common = ("--data", tmp_path, "--out", out, "--steps", 2, "--budget", 2000)
    earth = ("--names", "volcano", "--seeds", 0, 1, "--rows", "uniform", "vMF kernels", "stack")
    run(SCRIPT, "earth", *common, *earth)
    run(
        SCRIPT,
        "earth",
        *common,
        "--raw",
        "--names",
        "volcano",
        "--seeds",
        0,
        "--rows",
        "vMF mixture",
        "spline flow",
    )
    found = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert len(found) == 8 and all(math.isfinite(r["test"]) for r in found)
    assert found[0]["test"] == pytest.approx(math.log(4 * math.pi)) and "mass" not in found[-3]
    run(SCRIPT, "earth", *common, *earth)  # nothing is run again
    assert len((out / "results.jsonl").read_text().splitlines()) == 8
    torus = (
        "--names",
        "general",
        "--seeds",
        0,
        "--rows",
        "von Mises kernels",
        "wrapped normal mixture",
        "spline flow on mixture",
    )
    run(SCRIPT, "torsions", *common, *torus)
    run(SCRIPT, "oracles", "--out", out, "--names", "T^7", "--seeds", 0, "--steps", 1, "--rows-of-data", 100)
    printed = run(SCRIPT, "report", "--out", out)
    assert "## Earth, every place once" in printed and "| uniform | 2.53 ± 0.00 (2) |" in printed
    assert "*Riemannian flow matching (published)*" in printed and "| T^7 | 0 |" in printed
    run(SCRIPT, "maps", *common, "--row", "vMF kernels", "--resolution", 16)
    run(SCRIPT, "ramachandran", *common, "--row", "wrapped normal mixture", "--resolution", 16)
    for name in ("densities_earth.png", "densities_torsions.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
