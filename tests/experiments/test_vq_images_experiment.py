"""The experiment of VQ-flows on images: it runs, goes on where it stopped, and images survive their way to logits."""

import argparse
import json
from pathlib import Path

import pytest
import torch
from scripts import EXPERIMENTS, load, run

SCRIPT = EXPERIMENTS / "vq_images.py"


@pytest.mark.slow
def test_runs_and_resumes(tmp_path: Path) -> None:
    """Killed after the fourth mark, it goes on from the weights of that mark to the rows of a run in one piece."""
    options = ("--smoke", "--out", tmp_path, "--methods", "VQ-MAF")
    text = run(SCRIPT, *options)
    file = tmp_path / "vq_images.jsonl"
    lines = file.read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [r.get("mark") for r in rows] == [None, 0.0, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0]
    assert text.count("| VQ-MAF |") == 1 and rows[-1]["c2st pixels"] >= 0 and rows[-1]["not finite"] == 0
    assert (tmp_path / "vq_images.png").exists() and (tmp_path / "vq_images_frechet.png").exists()
    file.write_text("\n".join(lines[:5]) + "\n")
    run(SCRIPT, *options)
    again = [json.loads(line) for line in file.read_text().splitlines()]
    assert [{k: v for k, v in r.items() if k != "cpu"} for r in again] == [
        {k: v for k, v in r.items() if k != "cpu"} for r in rows
    ]


def test_images_and_logits() -> None:
    """Bytes come back from logits whatever the noise; the volume is that of autodiff; weights of masked networks that
    are always zero do not count as parameters."""
    experiment = load(SCRIPT)
    g = torch.arange(256.0).reshape(1, 256)
    x = experiment.logits(g, seed=3)
    assert torch.equal(experiment.as_bytes(x), g)
    u = torch.tensor([[0.001, 0.3, 0.99]], dtype=torch.float64)

    def to_logits(v: torch.Tensor) -> torch.Tensor:
        return (experiment.EDGE + (1 - 2 * experiment.EDGE) * v).logit()

    slope = torch.autograd.functional.jacobian(to_logits, u).reshape(3, 3).diagonal()
    torch.testing.assert_close(experiment.log_volume(to_logits(u)), slope.log().sum().reshape(1))
    pixels = torch.zeros(1, 28, 28)
    pixels[0, 2:4, 6:8] = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    halved = experiment.halved(pixels.flatten(1)).reshape(14, 14)
    assert halved[1, 3] == 128 and halved.sum() == 128
    assert experiment.count(experiment.MaskedMLP(2, 1, 1, (2,))) == 2 * 2 - 1 + 2 + 2 * 2 - 3 + 2


def test_methods_have_as_many_parameters() -> None:
    experiment = load(SCRIPT)
    args = argparse.Namespace(width=None, dim=24, charts=4, chart_kind="conformal", chart_depth=3)
    x = torch.randn(600, 196, generator=torch.Generator().manual_seed(0))
    counts = [experiment.count(experiment.built(m, x, 0, args)) for m in experiment.METHODS]
    assert max(counts) < 1.02 * min(counts)
