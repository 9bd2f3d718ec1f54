"""Training in two processes of a Lightning Fabric object: maximum likelihood and M-flows as in one process with the whole
batch; flow matching, the reverse divergence and VAEs, whose draws differ by process, with equal weights in both."""

import json
from pathlib import Path
from typing import Any

import pytest
from scripts import python

SCRIPT = """
import json, sys, warnings
import geoopt, torch
from lightning_fabric import Fabric
import pyro_manifold.distributions as mdist
from pyro_manifold.flows import ContinuousFlow, SphereFlow
from pyro_manifold.models import ManifoldFlow, ManifoldVAE
from pyro_manifold.nn import TangentField
from pyro_manifold.training import Phase, fit, fit_flow_matching, fit_likelihood, fit_md, fit_reverse_kl
from pyro_manifold.training import run as run_module

torch.set_num_threads(1)
warnings.simplefilter("ignore")
SPHERE = geoopt.Sphere()
TARGET = mdist.VonMisesFisher(torch.tensor([0.0, 0.6, 0.8]), 4.0)
UNIFORM = mdist.ManifoldUniform(SPHERE, 3)

def rows():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return TARGET.sample((207,))

def train(fabric, which):
    torch.manual_seed(1)
    options = dict(batch_size=50, fabric=fabric, disable_progbar=True)
    if which == "flow_matching":
        flow = ContinuousFlow(TangentField(SPHERE, 3, (8,)))
        history = fit_flow_matching(flow, rows(), epochs=20, **options)
    elif which == "vae":
        flow = ManifoldVAE(SPHERE, 2, 3, hidden=16, likelihood="normal")
        phase = Phase("vae", lambda x: -flow.elbo(x).mean(), list(flow.parameters()), lr=1e-2, epochs=4)
        history = fit([phase], rows(), model=flow, **options)
    else:
        flow = SphereFlow(2, 2, bins=4, hidden=(8,))
        if which == "likelihood":
            history = fit_likelihood(flow, rows(), base=UNIFORM, epochs=4, **options)
        else:
            history = fit_reverse_kl(flow, UNIFORM, TARGET.log_prob, steps=40, **options)
    weight = sum(p.double().abs().sum() for p in flow.parameters()).detach()
    weights = [float(weight)] if fabric is None else fabric.all_gather(weight).reshape(-1).tolist()
    return history.start[which], history.losses[which], weights

def train_md(fabric, path=None):
    z = torch.randn(203, 2, generator=torch.Generator().manual_seed(0))
    x = torch.cat([z, z[:, :1].sin() + 0.2 * z[:, 1:].square()], -1)
    torch.manual_seed(1)
    flow = ManifoldFlow.from_data(x, 2, depth=2, hidden=(8,), latent_depth=2, latent_hidden=(8,))
    writes, save = [], run_module.RunFile.save
    run_module.RunFile.save = lambda self, run: (writes.append(1), save(self, run))
    history = fit_md(
        flow, x, epochs=3, lr=1e-3, batch_size=50, unroll=False, checkpoint=path, fabric=fabric,
        disable_progbar=True,
    )
    run_module.RunFile.save = save
    count = [len(writes)] if fabric is None else fabric.all_gather(torch.tensor(len(writes))).reshape(-1).tolist()
    return history.losses, float(sum(p.double().abs().sum() for p in flow.parameters())), count

def train_all(fabric, names, path=None):
    return {which: train_md(fabric, path) if which == "md" else train(fabric, which) for which in names}

if __name__ == "__main__":
    path, *names = sys.argv[1:]
    two = Fabric(accelerator="cpu", devices=2, strategy="ddp_fork")  # before this process makes threads
    out = {"two": two.launch(train_all, names, path), "whole": train_all(None, names)}
    if "md" in names:
        half = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
        half.launch()
        out["bf16"] = train_md(half)
    print(json.dumps(out), flush=True)
"""


def seen_of(names: tuple[str, ...], folder: Path) -> dict[str, Any]:
    """What the script says; all of its trainings share one start of three processes."""
    pytest.importorskip("lightning_fabric")
    (folder / "script.py").write_text(SCRIPT)
    run = python(folder / "script.py", folder / "run.pt", *names)
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.strip().splitlines()[-1])


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("processes")
    return seen_of(("likelihood", "reverse_kl", "md"), folder) | {"folder": folder}


def check(seen: dict[str, Any], which: str) -> None:
    (start, losses, weights), (start_of_one, losses_of_one, weights_of_one) = (
        seen[processes][which] for processes in ("two", "whole")
    )
    assert weights[0] == weights[1] and losses[-1] < start
    if which == "likelihood":
        assert start == pytest.approx(start_of_one, rel=1e-5)
        assert losses == pytest.approx(losses_of_one, rel=1e-4)
        assert weights[0] == pytest.approx(weights_of_one[0], rel=1e-4)
    else:  # other draws, so that the losses are near each other, not equal
        assert losses != losses_of_one
        assert losses[-1] == pytest.approx(losses_of_one[-1], abs=0.3)


@pytest.mark.parametrize("which", ["likelihood", "reverse_kl"])
def test_two_processes(which: str, seen: dict[str, Any]) -> None:
    check(seen, which)


@pytest.mark.slow
def test_two_processes_of_flow_matching_and_vaes(tmp_path: Path) -> None:
    names = ("flow_matching", "vae")
    seen = seen_of(names, tmp_path)
    for which in names:
        check(seen, which)


def test_m_flows_train_as_in_one_process_and_half_precision_runs(seen: dict[str, Any]) -> None:
    """Losses of each pass and the weights at the end, to float tolerance, batches of odd size among them; one
    process writes the checkpoint."""
    losses, weights, writes = seen["two"]["md"]
    assert sorted(losses) == ["D", "M"] and all(len(v) == 3 for v in losses.values())
    for name, values in losses.items():
        assert values == pytest.approx(seen["whole"]["md"][0][name], rel=1e-4)
        assert seen["bf16"][0][name] == pytest.approx(seen["whole"]["md"][0][name], rel=0.2)
    assert weights == pytest.approx(seen["whole"]["md"][1], rel=1e-5)
    assert writes[0] == 8 and writes[1] == 0 and (seen["folder"] / "run.pt").exists()
