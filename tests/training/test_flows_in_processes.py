"""Training in two processes of a Lightning Fabric object: maximum likelihood of flows as in one process with the whole
batch; flow matching, the reverse divergence and VAEs, whose draws differ by process, with equal weights in both."""

import json
from pathlib import Path

import pytest
from scripts import python

SCRIPT = """
import json, sys, warnings
import geoopt, torch
from lightning_fabric import Fabric
import pyro_manifold.distributions as mdist
from pyro_manifold.flows import ContinuousFlow, SphereFlow
from pyro_manifold.models import ManifoldVAE
from pyro_manifold.nn import TangentField
from pyro_manifold.training import Phase, fit, fit_flow_matching, fit_likelihood, fit_reverse_kl

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

def train_all(fabric, names):
    return {which: train(fabric, which) for which in names}

if __name__ == "__main__":
    two = Fabric(accelerator="cpu", devices=2, strategy="ddp_fork")  # before this process makes threads
    print(json.dumps({"two": two.launch(train_all, sys.argv[1:]), "whole": train_all(None, sys.argv[1:])}), flush=True)
"""


@pytest.mark.parametrize(
    "names",
    [("likelihood", "reverse_kl"), pytest.param(("flow_matching", "vae"), marks=pytest.mark.slow)],
    ids=", ".join,
)
def test_two_processes(names: tuple[str, ...], tmp_path: Path) -> None:
    pytest.importorskip("lightning_fabric")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    run = python(script, *names)  # both trainings in one start of three processes
    assert run.returncode == 0, run.stderr[-3000:]
    seen = json.loads(run.stdout.strip().splitlines()[-1])
    for which in names:
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
