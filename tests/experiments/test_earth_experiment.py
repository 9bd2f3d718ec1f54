"""The tutorial on the Earth's catalogues: its two models are one, its density is one, its fits find what is
there, it runs."""

import json
from pathlib import Path
from types import ModuleType

import geoopt
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from scripts import EXPERIMENTS, load, run

import pyro_manifold.distributions as mdist
from pyro_manifold.testing.quadrature import manifold_rule

SCRIPT = EXPERIMENTS / "earth.py"
CENTRES = torch.tensor([[0.0, 0.0, 1.0], [0.6, 0.8, 0.0]])


@pytest.fixture(scope="module")
def tutorial() -> ModuleType:
    return load(SCRIPT)


def two_regions(n: int) -> torch.Tensor:
    """The first n places of each of two round regions, of 10 and 3 degrees."""
    return (
        mdist.VonMisesFisher(CENTRES, torch.tensor([30.0, 300.0])).sample((n,)).transpose(0, 1).flatten(0, 1)
    )


@pytest.mark.parametrize("family", ["vmf", "kent"])
def test_enumerated_and_marginal_models_have_one_density(tutorial: ModuleType, family: str) -> None:
    x, name = two_regions(20), "loc" if family == "vmf" else "frame"
    v = tutorial.start(x, family, 3) | {
        "weight": torch.tensor([0.2, 0.3, 0.5]),
        "concentration": torch.tensor([5.0, 20.0, 80.0]),
    }
    elbo = TraceEnum_ELBO(max_plate_nesting=1)
    enumerated = -elbo.loss(poutine.condition(tutorial.enumerated, v), lambda *args: None, x, family, 3)
    apart = {n: u for n, u in v.items() if n != name} | {f"{name}_{i}": c for i, c in enumerate(v[name])}
    trace = poutine.trace(poutine.condition(tutorial.marginal, apart)).get_trace(x, family, 3)
    trace.compute_log_prob()
    marginal = float(trace.log_prob_sum())
    assert enumerated == pytest.approx(marginal, rel=1e-5)
    # and the likelihood in it is what the score is made of
    draw = {n: u.unsqueeze(0) for n, u in v.items()}
    assert float(trace.nodes["x"]["log_prob"].sum()) == pytest.approx(
        float(tutorial.log_density(draw, x).sum()), rel=1e-5
    )


@pytest.mark.parametrize("family", ["vmf", "kent"])
def test_predictive_density_integrates_to_one(tutorial: ModuleType, family: str) -> None:
    starts = [tutorial.start(two_regions(20), family, 3, concentration=40.0) for _ in range(2)]
    q = {n: torch.stack([s[n] for s in starts]) for n in starts[0]}
    rule = manifold_rule(geoopt.Sphere(), CENTRES[0], 4.0)
    assert float(rule.integrate(tutorial.log_predictive(q, rule.points).exp())) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("family", ["vmf", pytest.param("kent", marks=pytest.mark.slow)])
def test_svi_finds_two_regions(tutorial: ModuleType, family: str) -> None:
    x = torch.stack(
        [two_regions(150), two_regions(150)]
    )  # two data sets side by side, as the seeds of the table
    truth = mdist.VonMisesFisher(CENTRES, torch.tensor([30.0, 300.0]))
    for each, y in zip(
        tutorial.fit_svi(x, family, 2, steps=150, batch=100, draws=10, lr=0.2), x, strict=True
    ):
        axis = each["loc"].mean(0) if family == "vmf" else each["frame"][..., 0].mean(0)
        # a centre is known to (30 * 150) ** -0.5 = 0.015 rad; 0.1 leaves room for the guide's own noise
        assert torch.cdist(CENTRES, axis).amin(-1).max() < 0.1
        best = float((truth.log_prob(y.unsqueeze(1)) - torch.tensor(2.0).log()).logsumexp(-1).mean())
        assert float(tutorial.log_predictive(each, y).mean()) > best - 0.1


def test_nuts_runs_two_chains_from_centres_of_their_own(tutorial: ModuleType) -> None:
    x = two_regions(15)
    starts = [{n: v.unsqueeze(0) for n, v in tutorial.start(x, "vmf", 2).items()} for _ in range(2)]
    q, report = tutorial.fit_nuts(x, "vmf", 2, starts=starts, draws=4, warmup=4)
    assert {n: tuple(v.shape) for n, v in q.items()} == {
        "weight": (8, 2),
        "concentration": (8, 2),
        "loc": (8, 2, 3),
    }
    assert torch.allclose(q["loc"].norm(dim=-1), torch.ones(8, 2), atol=1e-5) and report["divergences"] >= 0


@pytest.mark.slow
def test_script_in_smoke_mode(tmp_path: Path) -> None:
    x = two_regions(30)
    degrees = torch.stack([x[:, 2].asin(), torch.atan2(x[:, 1], x[:, 0])], -1).rad2deg()
    rows = "".join(f"{a:.3f},{b:.3f}\n" for a, b in degrees.tolist())
    (tmp_path / "volerup.csv").write_text("Latitude,Longitude\n" + rows + rows)  # every place twice
    printed = run(SCRIPT, "--smoke", "--data", tmp_path, "--out", tmp_path / "out")
    assert printed.count("| volcano |") == 9  # 2 distributions x 2 K, once and with repeats, and NUTS
    results = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert [r["n"] for r in results] == [48] * 4 + [96] * 4 + [48] and all(
        len(r["test"]) in (1, 2) for r in results
    )
    for name in ("earth.png", "earth_mcmc.png"):
        assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")
