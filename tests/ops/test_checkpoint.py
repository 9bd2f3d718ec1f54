"""A checkpoint is believed only if it is whole, of this run, and holds plain data; nothing in one is
executed."""

import hashlib
import io
import os
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from pyro_manifold.ops.checkpoint import _MAGIC
from pyro_manifold.training import CheckpointError, digest, load_checkpoint, save_checkpoint, structure

TENSORS = {"w": torch.randn(3, 2), "count": torch.tensor(7)}
REST = {"name": "run", "losses": [1.0, float("inf")], "none": None, "pair": (1, True)}
STATE = {**TENSORS, **REST}


def test_round_trip(tmp_path: Path) -> None:
    file = tmp_path / "run.pt"
    save_checkpoint(file, STATE, {"seed": 0, "data": digest(TENSORS["w"])})
    back = load_checkpoint(file, {"seed": 0, "data": digest(TENSORS["w"])})
    assert all(torch.equal(back.pop(name), value) for name, value in TENSORS.items()) and back == REST
    assert os.listdir(tmp_path) == ["run.pt"]  # nothing is left beside it


def test_every_damage_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "run.pt"
    save_checkpoint(file, STATE, {"seed": 0})
    whole = file.read_bytes()
    rng = random.Random(0)
    places = [*range(64), *(rng.randrange(len(whole)) for _ in range(150))]
    flipped = [whole[:i] + bytes([whole[i] ^ (1 << rng.randrange(8))]) + whole[i + 1 :] for i in places]
    cut = [whole[:n] for n in (0, 1, 26, 27, 58, 59, 60, len(whole) // 2, len(whole) - 1)]
    other = io.BytesIO()
    torch.save(STATE, other)
    for content in (*flipped, *cut, whole + b"x", other.getvalue(), b"half a file", b"\x80\x04N."):
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"checkpoint: '.*run\.pt'"):
            load_checkpoint(file, {"seed": 0})
    folder = tmp_path / "folder.pt"
    folder.mkdir()
    with pytest.raises(ValueError, match=r"folder\.pt"):
        load_checkpoint(folder)


class _Touch:
    """Pickled, this writes a file where it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (str(self.path), "w"))


def test_nothing_is_executed(tmp_path: Path) -> None:
    file, proof = tmp_path / "run.pt", tmp_path / "executed"
    payload = io.BytesIO()
    torch.save({"fingerprint": {}, "state": _Touch(proof)}, payload)
    file.write_bytes(_MAGIC + hashlib.sha256(payload.getvalue()).digest() + payload.getvalue())
    with pytest.raises(CheckpointError, match="does not hold plain tensors"):
        load_checkpoint(file)
    assert not proof.exists()
    with pytest.raises(ValueError, match="state: holds a _Touch"):
        save_checkpoint(file, {"a": [_Touch(proof)]}, {})


def test_another_run_is_named(tmp_path: Path) -> None:
    file = tmp_path / "run.pt"
    save_checkpoint(file, STATE, {"seed": 0, "lr": (1e-2, 5e-3), "data": digest(1)})
    for other, match in (
        ({"seed": 1, "lr": (1e-2, 5e-3), "data": digest(1)}, "of another run: seed was 0, is 1. Remove"),
        (
            {"seed": 0, "lr": (1e-2, 4e-3), "data": digest(2)},
            r"data differs; lr was \(0.01, 0.005\), is \(0.01, 0.004\)",
        ),
        ({"seed": 0, "data": digest(1)}, "lr was .*, is 'absent'"),
    ):
        with pytest.raises(CheckpointError, match=match):
            load_checkpoint(file, other)


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"cannot write '.*missing/run\.pt' \(No such file or directory\)"
    ):
        save_checkpoint(tmp_path / "missing" / "run.pt", STATE, {})


def test_digests_tell_numbers_shapes_and_dtypes_apart() -> None:
    x = torch.arange(6.0)
    variants = [x, x.reshape(2, 3), x.reshape(3, 2), x.double(), x.long(), x + 1, x[:0], [x]]
    variants += [[0.0, 1.0], (), None, "None", True, 1, 1.0]
    assert len({digest(v) for v in variants}) == len(variants) and digest(x) == digest(
        x.clone().requires_grad_()
    )
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 2, "b": 1})
    assert digest(torch.randn(4).bfloat16()) and digest(torch.tensor(1.0)) != digest(torch.ones(1))


def test_structure_is_all_but_the_weights() -> None:
    def net(width: int = 3, **kwargs: Any) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(2, width), torch.nn.LeakyReLU(**kwargs))

    frozen = net().requires_grad_(False)
    variants = [net(), net(4), net(negative_slope=0.5), frozen, net().double(), torch.nn.Sequential(net())]
    assert structure(net()) == structure(net()) and len({structure(v) for v in variants}) == len(variants)
