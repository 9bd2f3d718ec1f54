"""The quickstart runs, draws its picture, and the model of its exercise is one that can be sampled."""

import textwrap
from pathlib import Path

import geoopt
import pyro
import pyro.distributions as dist
import torch
from scripts import EXPERIMENTS, run

import pyro_manifold.distributions as mdist
from pyro_manifold.infer import GeodesicNUTS, VectorizedMCMC

PAGE = Path(__file__).parents[2] / "docs" / "tutorials" / "quickstart.md"


def test_runs(tmp_path: Path) -> None:
    text = run(EXPERIMENTS.parent / "quickstart.py", "--quick", "--out", tmp_path)
    assert "degrees from the truth" in text and "95 % of the posterior within" in text
    assert (tmp_path / "quickstart.png").stat().st_size > 10_000


def test_exercise() -> None:
    """The answer as it is printed: ten draws, of the right shapes and on the sphere."""
    lines = PAGE.read_text().split("in a plate.\n\n")[1].split("\nThe scatter")[0]
    names = {"pyro": pyro, "dist": dist, "mdist": mdist, "sphere": geoopt.Sphere()}
    exec(textwrap.dedent(lines), names)  # noqa: S102  what the page shows
    torch.manual_seed(0)
    x = mdist.VonMisesFisher(torch.eye(3), 20.0).sample((6,))
    mcmc = VectorizedMCMC(
        GeodesicNUTS(names["model"], chains=2), num_samples=5, warmup_steps=10, disable_progbar=True
    )
    mcmc.run(x)
    direction = mcmc.get_samples()["direction"]
    assert direction.shape == (10, 3, 3)
    torch.testing.assert_close(direction.norm(dim=-1), torch.ones(10, 3))
