"""MNIST: 70 000 handwritten digits of 28 x 28 pixels, in their original order and split."""

import gzip
import hashlib
import math
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..ops.arguments import checked
from .download import download

__all__ = ["mnist"]

_SOURCE = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_PARTS = {  # array: file, MD5 of the compressed file, shape, SHA-256 of the bytes of the array
    "x_train": ("train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873", (60000, 28, 28), None),
    "y_train": (
        "train-labels-idx1-ubyte.gz",
        "d53e105ee54ea40749a09fcbcd1e9432",
        (60000,),
        "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
    ),
    "x_test": (
        "t10k-images-idx3-ubyte.gz",
        "9fb629c4189551a2d022fa330f9573f3",
        (10000, 28, 28),
        "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
    ),
    "y_test": (
        "t10k-labels-idx1-ubyte.gz",
        "ec29112dd5afa0611ce80d1b7f02629c",
        (10000,),
        "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
    ),
}
_TRAIN_MEAN = 33.3184  # of the 60 000 images; copies in which pixels of 1 are 0 have 33.3179
_MAGIC = {1: b"\x00\x00\x08\x01", 3: b"\x00\x00\x08\x03"}  # unsigned bytes, one or three axes


def _idx(path: Path) -> np.ndarray:
    """The array of an idx file, compressed or not."""
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"folder: {path} is damaged ({error}); get it again from {_SOURCE}.") from error
    axes = next((n for n, magic in _MAGIC.items() if raw[:4] == magic), 0)
    shape = tuple(int.from_bytes(raw[4 * i : 4 * i + 4], "big") for i in range(1, axes + 1))
    if not axes or len(raw) != 4 * (axes + 1) + math.prod(shape):
        raise ValueError(f"folder: {path} is no idx file of unsigned bytes; get it again from {_SOURCE}.")
    return np.frombuffer(raw, np.uint8, offset=4 * (axes + 1)).reshape(shape)


def _from_folder(folder: Path) -> tuple[dict[str, np.ndarray], str]:
    """The four arrays, and the file or files that they were read from."""
    if not folder.is_dir():
        raise ValueError(
            f"folder: {folder} is not a folder; expected one with mnist.npz or the four idx files."
        )
    if (folder / "mnist.npz").is_file():
        try:
            with np.load(folder / "mnist.npz", allow_pickle=False) as file:
                return {name: file[name] for name in _PARTS}, str(folder / "mnist.npz")
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"folder: {folder / 'mnist.npz'} does not hold the arrays {', '.join(_PARTS)} ({error})."
            ) from error
    arrays = {}
    for name, (file, _, _, _) in _PARTS.items():
        found = [path for path in (folder / file, folder / file.removesuffix(".gz")) if path.is_file()]
        if not found:
            raise ValueError(
                f"folder: {folder} has neither mnist.npz nor {file}; expected one or the other (from {_SOURCE})."
            )
        arrays[name] = _idx(found[0])
    return arrays, str(folder)


def _downloaded() -> dict[str, np.ndarray]:
    return {
        name: _idx(download("mnist", _SOURCE + file, f"md5:{md5}", "mnist.npz or the idx files"))
        for name, (file, md5, _, _) in _PARTS.items()
    }


def _check(arrays: dict[str, np.ndarray], where: str) -> None:
    for name, (_, _, shape, digest) in _PARTS.items():
        array = arrays[name]
        if array.shape != shape or array.dtype != np.uint8:
            raise ValueError(
                f"folder: {name} in {where} has shape {array.shape} and type {array.dtype}; expected {shape}, uint8."
            )
        if digest is not None and hashlib.sha256(array.tobytes()).hexdigest() != digest:
            raise ValueError(
                f"folder: {name} in {where} is not MNIST's in its original order (SHA-256 mismatch); get the "
                f"files again from {_SOURCE}."
            )
    mean = float(arrays["x_train"].mean())
    if abs(mean - _TRAIN_MEAN) > 1e-3:
        raise ValueError(
            f"folder: x_train in {where} has mean {mean:.4f}; expected {_TRAIN_MEAN} within 0.001, "
            f"that of MNIST. Get the files again from {_SOURCE}."
        )


@checked(seed=0)
def mnist(
    *, folder: str | Path | None = None, binarize: bool = False, seed: int = 0
) -> list[tuple[Tensor, Tensor]]:
    r"""The MNIST database: 60 000 images to train and 10 000 to test, in the original order and split.

    .. math:: x_{ij} = g_{ij}/255 \quad\text{or, binarised,}\quad x_{ij} \sim \mathrm{Bernoulli}(g_{ij}/255),
        \qquad g_{ij} \in \{0, \dots, 255\}

    Of grey values the Bernoulli cross-entropy is no likelihood; images that are binarised once, with a fixed
    seed, make it one. The two scores are not comparable.

    Source: Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits" (CC BY-SA 3.0).

    :param folder: where ``mnist.npz`` is (arrays ``x_train``, ``y_train``, ``x_test``, ``y_test`` of bytes), or the
        four idx files ``train-images-idx3-ubyte.gz`` and so on, compressed or not. If None, they are downloaded
        once (12 MB) and checked.
    :param binarize: draw the pixels.
    :param seed: seed of that draw; torch's global generator is not touched.
    :return: ``[(x_train, y_train), (x_test, y_test)]``: pixels of shape (n, 784) in torch's default dtype, in [0, 1],
        and digits of shape (n,).
    :raises ValueError: where files are missing, damaged, or not MNIST's: labels and test images are checked
        by SHA-256, training images by their mean, since copies differ in the faintest pixels.
    :raises ConnectionError: where they cannot be downloaded.

    >>> (x, digit), test = mnist()  # doctest: +SKIP
    >>> x.shape, digit[:3]  # doctest: +SKIP
    (torch.Size([60000, 784]), tensor([5, 0, 4]))
    """
    arrays, where = (_downloaded(), _SOURCE) if folder is None else _from_folder(Path(folder).expanduser())
    _check(arrays, where)
    generator = torch.Generator().manual_seed(seed)
    out = []
    for part in ("train", "test"):
        x = torch.tensor(arrays[f"x_{part}"]).flatten(1).to(torch.get_default_dtype()) / 255
        if binarize:
            x = torch.bernoulli(x, generator=generator)
        out.append((x, torch.tensor(arrays[f"y_{part}"]).long()))
    return out
