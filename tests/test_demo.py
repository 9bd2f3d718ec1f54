"""The demo as a user meets it: killed in a process of its own and resumed, and given nonsense."""

import itertools
import json
import re
import runpy
import signal
from pathlib import Path

import pytest
import torch
from scripts import python

from pyro_manifold.demo import cli as demo
from pyro_manifold.training import load_checkpoint, save_checkpoint

SMALL = ["--epochs", "2", "--splits", "2", "--samples", "3", "--quiet"]


def test_table_pictures_and_resumption_after_a_kill(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert demo.main([*SMALL, "--out", str(whole)]) == 0
    for name in ("latent.png", "samples.png", "interpolation.png"):
        assert (whole / name).read_bytes().startswith(b"\x89PNG") and (whole / name).stat().st_size > 10_000
    assert not list(whole.glob("checkpoint*"))
    results = json.loads((whole / "results.json").read_text())
    assert [len(v) for v in results["scores"].values()] == [2, 2]
    assert all(-64 * 0.694 < s < -10 for v in results["scores"].values() for s in v)  # better than fair coins

    # kill it in the middle of its second model, as abruptly as can be
    script = (
        "import os, signal, pyro_manifold.demo.cli as d, pyro_manifold.training.run as r\n"
        "save = r.RunFile.save\n"
        "def dying(self, run):\n"
        "    save(self, run)\n"
        "    if 'P-VAE' in self.path.name and run.done: os.kill(os.getpid(), signal.SIGKILL)\n"
        "r.RunFile.save = dying\n"
        "d.SECONDS_BETWEEN_CHECKPOINTS = 0.0\n"  # a checkpoint after every epoch
        f"d.main({[*SMALL, '--out', str(broken)]!r})\n"
    )
    killed = python("-c", script)
    assert killed.returncode == -signal.SIGKILL and (broken / "checkpoint-P-VAE-1.pt").exists()
    state = load_checkpoint(broken / "checkpoint.pt")
    assert list(map(len, state["scores"].values())) == [1, 0] and not (broken / "results.json").exists()
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", ["demo", *SMALL, "--out", str(broken)])
    with pytest.raises(SystemExit) as exit_:  # as python -m pyro_manifold.demo
        runpy.run_module("pyro_manifold.demo", run_name="__main__")
    printed = capsys.readouterr().out
    assert not exit_.value.code and "Resuming from" in printed
    assert "standard error over 2 paired splits" in printed and demo.READ_ON in printed
    assert "samples.png: digits drawn from the two models" in printed
    assert json.loads((broken / "results.json").read_text()) == results  # to the last bit


def test_pages_to_read_on_exist() -> None:
    pages = re.findall(r"docs/[\w/]+\.md", demo.READ_ON)
    assert len(pages) == 3 and all((Path(__file__).parents[1] / page).exists() for page in pages)


def test_resumes_in_the_middle_of_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = demo.parse_arguments(
        ["--epochs", "3", "--splits", "2", "--samples", "2", "--quiet", "--out", str(tmp_path)]
    )
    torch.set_default_dtype(torch.float64)
    try:
        run = demo.Run(
            args, clock=lambda: 0.0
        )  # a clock that stands still: nothing is written between passes
        (x, _), _ = run.data(0)
        whole = run.train(0, "P-VAE", x).state_dict()
        run.file(0, "P-VAE").unlink()
        steps, step = itertools.count(), torch.optim.Adam.step

        def dying(self: torch.optim.Adam, *args: object, **kwargs: object) -> object:
            if next(steps) == 15:  # ten batches a pass
                raise InterruptedError
            return step(self, *args, **kwargs)  # type: ignore[arg-type]

        with monkeypatch.context() as patch, pytest.raises(InterruptedError):
            patch.setattr(torch.optim.Adam, "step", dying)
            run = demo.Run(args, clock=itertools.count(0.0, 10.0).__next__)  # due after every pass
            run.train(0, "P-VAE", x)
        assert load_checkpoint(run.file(0, "P-VAE"))["run"]["done"] == 1
        resumed = demo.Run(args, clock=lambda: 0.0).train(0, "P-VAE", x).state_dict()
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(whole[k], resumed[k]) for k in whole if k != "_extra_state")


def test_a_damaged_checkpoint_of_a_model_is_not_used(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = demo.Run(demo.parse_arguments([*SMALL, "--epochs", "1", "--out", str(tmp_path)]))
    run.file(0, "N-VAE").write_bytes(b"half a file")
    run.train(0, "N-VAE", run.pixels[:50])
    assert "Starting this model afresh" in capsys.readouterr().out


def test_checkpoint_of_other_settings_or_in_pieces_is_not_used(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / "checkpoint.pt"

    def fresh(*args: str) -> demo.Run:
        return demo.Run(demo.parse_arguments([*SMALL, *args, "--out", str(tmp_path)]))

    run = fresh()
    run.scores["N-VAE"] = [-20.0]
    run.kept["N-VAE"] = demo.build("N-VAE", 1.0, run.pixels).state_dict()
    run.save()
    again = fresh()
    again.load()
    assert again.scores["N-VAE"] == [-20.0]
    other = fresh("--seed", "1")
    other.load()
    assert other.scores["N-VAE"] == [] and "seed was 0, is 1. Remove" in capsys.readouterr().out
    whole = path.read_bytes()
    for content in (b"", b"half a file", whole[:1000], whole[:500] + bytes([whole[500] ^ 4]) + whole[501:]):
        path.write_bytes(content)
        again = fresh()
        again.load()
        assert again.scores["N-VAE"] == [] and "Starting afresh" in capsys.readouterr().out


def test_odd_but_readable_checkpoints_are_not_used(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = demo.Run(demo.parse_arguments([*SMALL, "--out", str(tmp_path)]))
    weights = demo.build("N-VAE", 1.0, run.pixels).state_dict()
    none = {name: [] for name in demo.MODELS}
    scores = {"N-VAE": [-20.0], "P-VAE": []}
    odd = [
        3,
        {},
        {"scores": 3, "kept": {}},
        {"scores": {}, "kept": {}},
        {"scores": scores, "kept": {}},
        {"scores": scores, "kept": {"N-VAE": {}}},
        {"scores": {**none, "N-VAE": ["good"]}, "kept": {"N-VAE": weights}},
        {"scores": {**none, "N-VAE": [-20.0] * 3}, "kept": {"N-VAE": weights}},
    ]
    for state in odd:
        save_checkpoint(run.path, state, run.fingerprint())
        run.load()
        assert run.scores == none and run.kept == {}
        assert "does not hold what this run would have saved" in capsys.readouterr().out


def test_a_checkpoint_that_cannot_be_written_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "checkpoint.pt.part").mkdir()
    assert demo.main([*SMALL, "--epochs", "1", "--out", str(tmp_path)]) == 1
    assert "error: checkpoint: cannot write" in capsys.readouterr().err


def test_both_models_have_the_same_number_of_weights() -> None:
    x = torch.ones(10, 64)
    counts = [
        sum(p.numel() for p in demo.build(n, 1.0, x).parameters() if p.requires_grad) for n in demo.MODELS
    ]
    assert counts[0] == counts[1]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--epochs", "0"],
        ["--epochs", "ten"],
        ["--seed", "-1"],
        ["--curvature", "-1"],
        ["--curvature", "nan"],
        ["--splits", "1"],
        ["--samples", "1.5"],
        ["--colour", "red"],
        ["--out", "/dev/null/demo"],
    ],
)
def test_bad_arguments_get_one_line_and_exit_code_2(
    arguments, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    if "--out" not in arguments:
        arguments = [*arguments, "--out", str(tmp_path)]
    with pytest.raises(SystemExit) as exit_:
        demo.main(arguments)
    error = capsys.readouterr().err
    assert (
        exit_.value.code == 2 and error.count("\n") == 1 and error.startswith("pyro-manifold-demo: error: ")
    )
    assert arguments[0] in error


def test_help_and_interrupt(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit) as exit_:
        demo.main(["--help"])
    text = capsys.readouterr().out
    assert exit_.value.code == 0 and all(
        f"--{o}" in text for o in ("seed", "epochs", "curvature", "out", "quiet")
    )

    def interrupt(self: demo.Run) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo.Run, "finish", interrupt)
    assert demo.main([*SMALL, "--out", str(tmp_path)]) == 130
    assert "resumes" in capsys.readouterr().err
