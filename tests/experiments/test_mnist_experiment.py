"""The MNIST experiment: it runs on images that are like digits, goes on from its files, and pairs what it reports."""

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from scripts import EXPERIMENTS, load


@pytest.fixture
def experiment(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, given 256 random images in place of the 70 000."""
    module = load(EXPERIMENTS / "mnist.py")

    def images(*, folder: object, binarize: bool) -> list[tuple[torch.Tensor, torch.Tensor]]:
        generator = torch.Generator().manual_seed(0)
        label = torch.randint(10, (256,), generator=generator)
        x = torch.rand(10, 784, generator=generator)[label].to(torch.get_default_dtype())
        return [((x > 0.5).to(x) if binarize else x, label)] * 2

    monkeypatch.setattr(module, "mnist", images)
    return module


def run(module: ModuleType, monkeypatch: pytest.MonkeyPatch, *args: object) -> None:
    monkeypatch.setattr(sys, "argv", ["mnist.py", *map(str, args)])
    dtype = torch.get_default_dtype()
    try:
        module.main()
    finally:
        torch.set_default_dtype(dtype)


def test_quick(
    experiment: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    cells = ["grey/N/2/0", "grey/riemannian-1.4/2/0", "binary/riemannian-1.4/20/1"]
    command = ["run", "--quick", "--quiet", "--out", tmp_path, "--cells", *cells]
    run(experiment, monkeypatch, *command)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [(r["images"], r["model"], r["dim"], r["seed"]) for r in rows] == [
        ("grey", "N", 2, 0), ("grey", "riemannian-1.4", 2, 0), ("binary", "riemannian-1.4", 20, 1),
    ]  # fmt: skip
    flat, ball = rows[0]["parameters"], rows[1]["parameters"]
    assert flat - ball == 17  # the Riemannian posterior has one scale, not two, of 16 hidden units
    assert all(0 < r["nll"] < 1000 and 0 < r["nll_5000"] < 1000 for r in rows)
    run(experiment, monkeypatch, *command)  # nothing is left to do
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 3
    (tmp_path / "rows.jsonl").unlink()
    run(experiment, monkeypatch, *command)  # the trained models are there: the scores are the same
    again = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [r["nll"] for r in again] == [r["nll"] for r in rows]
    picture = tmp_path / "codes.png"
    run(experiment, monkeypatch, "draw", "--quick", "--out", tmp_path, "--picture", picture)
    assert picture.stat().st_size > 10_000
    capsys.readouterr()
    run(experiment, monkeypatch, "report", "--out", tmp_path)
    printed = capsys.readouterr().out
    assert "| riemannian-1.4 | 2 | 142.5 |" in printed and "| riemannian-1.4 | 20 |  |" in printed


def test_differences_are_paired(experiment: ModuleType) -> None:
    def row(model: str, seed: int, nll: float) -> dict:
        return {
            "images": "grey", "model": model, "dim": 2, "seed": seed, "epochs": 80, "nll": nll, "nll_5000": nll,
            "minus_elbo": nll, "train_seconds": 60.0, "rows": 10000,
        }  # fmt: skip

    rows = [row("N", s, 144.0 + s) for s in range(3)]
    rows += [row("riemannian-1.4", s, 142.0 + s) for s in range(2)] + [row("wrapped-1.4", 7, 140.0)]
    table = experiment.report(rows, "grey")
    assert "| N | 2 | 144.5 | 145.00 ± 0.58 (3) |  |" in table
    assert "| riemannian-1.4 | 2 | 142.5 | 142.50 ± 0.50 (2) | -2.00 ± 0.00 (2) |" in table
    assert "| wrapped-1.4 | 2 | 144.0 | 140.00 (1) |  |" in table  # no N of that seed


def test_a_cell_that_is_not_in_the_table(experiment: ModuleType) -> None:
    with pytest.raises(
        experiment.argparse.ArgumentTypeError, match="expected grey or binary, one of N, wrapped"
    ):
        experiment.Cell.parse("colour/N/2/0")
