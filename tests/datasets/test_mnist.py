"""MNIST from small files of its forms and, where it lies beside the checkout, the real one."""

import gzip
import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_manifold.datasets import mnist

module = sys.modules["pyro_manifold.datasets.mnist"]
REAL = Path(__file__).parents[3] / "shared" / "data" / "mnist"


def idx(array: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return head + array.tobytes()


@pytest.fixture
def arrays(monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """Few random images and labels, which the loader is told to take for MNIST's."""
    rng = np.random.default_rng(0)
    parts, out = {}, {}
    for name, (file, md5, shape, digest) in module._PARTS.items():
        shape = ({60000: 12, 10000: 5}[shape[0]], *shape[1:])
        out[name] = rng.integers(0, 10 if name[0] == "y" else 256, shape).astype(np.uint8)
        digest = digest and hashlib.sha256(out[name].tobytes()).hexdigest()
        parts[name] = (file, md5, shape, digest)
    monkeypatch.setattr(module, "_PARTS", parts)
    monkeypatch.setattr(module, "_TRAIN_MEAN", float(out["x_train"].mean()))
    return out


def write(folder: Path, arrays: dict[str, np.ndarray], form: str) -> Path:
    if form == "npz":
        np.savez(folder / "mnist.npz", **arrays)
        return folder
    for name, (file, *_) in module._PARTS.items():
        raw = idx(arrays[name])
        if form == "gz":
            (folder / file).write_bytes(gzip.compress(raw))
        else:
            (folder / file.removesuffix(".gz")).write_bytes(raw)
    return folder


@pytest.mark.parametrize("form", ["npz", "gz", "idx"])
def test_forms(arrays: dict[str, np.ndarray], tmp_path: Path, form: str) -> None:
    (x, y), (test_x, test_y) = mnist(folder=str(write(tmp_path, arrays, form)))
    assert x.dtype == torch.get_default_dtype() and y.dtype == torch.int64
    torch.testing.assert_close(
        x * 255, torch.tensor(arrays["x_train"].reshape(12, 784)).to(x), atol=1e-3, rtol=0
    )
    assert y.tolist() == arrays["y_train"].tolist() and test_y.tolist() == arrays["y_test"].tolist()
    assert test_x.shape == (5, 784)


def test_binarised_once(arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    folder, before = write(tmp_path, arrays, "npz"), torch.get_rng_state()
    (grey, _), _ = mnist(folder=folder)
    (x, _), (test, _) = mnist(folder=folder, binarize=True, seed=1)
    (again, _), _ = mnist(folder=folder, binarize=True, seed=1)
    (other, _), _ = mnist(folder=folder, binarize=True, seed=2)
    assert torch.equal(before, torch.get_rng_state()) and torch.equal(x, again) and not torch.equal(x, other)
    assert x.unique().tolist() == test.unique().tolist() == [0, 1]
    assert bool((x[grey == 0] == 0).all() and (x[grey == 1] == 1).all())
    # 9408 pixels: their mean is that of the grey values within 5 standard errors, false alarm 6e-7
    error = (grey * (1 - grey)).sum().sqrt() / grey.numel()
    assert abs(float(x.mean() - grey.mean())) < 5 * float(error)


def test_bad_folders(arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="is not a folder; expected one with mnist.npz or the four idx files"
    ):
        mnist(folder=tmp_path / "none")
    with pytest.raises(ValueError, match="has neither mnist.npz nor train-images-idx3-ubyte.gz"):
        mnist(folder=tmp_path)
    write(tmp_path, arrays, "gz")
    file = tmp_path / "t10k-labels-idx1-ubyte.gz"
    whole = file.read_bytes()
    file.write_bytes(whole[:-9])
    with pytest.raises(ValueError, match="t10k-labels.* is damaged"):
        mnist(folder=tmp_path)
    file.write_bytes(gzip.compress(b"an idx file this is not"))
    with pytest.raises(ValueError, match="t10k-labels.* is no idx file of unsigned bytes"):
        mnist(folder=tmp_path)
    file.write_bytes(gzip.compress(idx(arrays["y_test"])[:-1]))
    with pytest.raises(ValueError, match="t10k-labels.* is no idx file of unsigned bytes"):
        mnist(folder=tmp_path)
    (tmp_path / "mnist.npz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match="does not hold the arrays x_train, y_train, x_test, y_test"):
        mnist(folder=tmp_path)


@pytest.mark.parametrize(
    "name, value, match",
    [
        ("y_test", lambda a: a[::-1], "y_test in .*mnist.npz is not MNIST's in its original order"),
        ("x_test", lambda a: a[:, :14], r"x_test in .* has shape \(5, 14, 28\) and type uint8"),
        ("x_train", lambda a: a / 255, r"x_train in .* type float64; expected \(12, 28, 28\), uint8"),
        ("x_train", lambda a: a // 2, "x_train in .* has mean .*; expected .* within 0.001"),
    ],
)
def test_other_numbers(arrays: dict, tmp_path: Path, name: str, value: object, match: str) -> None:
    folder = write(tmp_path, {**arrays, name: value(arrays[name])}, "npz")
    with pytest.raises(ValueError, match=match):
        mnist(folder=folder)


@pytest.mark.skipif(not REAL.is_dir(), reason="MNIST does not lie beside this checkout")
def test_the_real_files() -> None:
    (x, y), (test, _) = mnist(folder=REAL)
    assert x.shape == (60000, 784) and test.shape == (10000, 784)
    assert float(x.mean()) == pytest.approx(0.1307, abs=1e-4) and float(x.std()) == pytest.approx(
        0.3081, abs=1e-4
    )
    assert y[:5].tolist() == [5, 0, 4, 1, 9]
