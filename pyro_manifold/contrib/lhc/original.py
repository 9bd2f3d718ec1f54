"""Reader of the M-flow paper's own LHC arrays, for those who hold a copy."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ["OriginalEvents", "load_original"]

_SPLITS = ("train", "test", "test1", "test2")


class OriginalEvents(NamedTuple):
    """x (n, 40) in GeV, not standardised; theta (n, 2); joint score t_xz (n, 2), or None where there is no
    such file."""

    x: Tensor
    theta: Tensor
    t_xz: Tensor | None


def _array(path: Path, columns: int) -> Tensor:
    if not path.is_file():
        raise ValueError(
            f"folder: {path} is not there. The arrays were shared on Google Drive only and nothing is "
            "downloaded here; put your copy there under this name, or use pyro_manifold.contrib.lhc.LHC, "
            "which simulates a similar process."
        )
    with path.open("rb") as file:
        head = file.read(64)
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise ValueError(
            f"folder: {path} is an HTML page, not an array: the reference's downloader saves Google Drive's "
            "virus-scan notice under the array's name (its issue 11). Delete it and fetch the file in a "
            "browser."
        )
    if not head.startswith(b"\x93NUMPY"):
        raise ValueError(f"folder: {path} begins with {head[:8]!r}; expected a .npy file. Fetch it again.")
    a = np.load(path, allow_pickle=False)
    if a.ndim != 2 or a.shape[1] != columns:
        raise ValueError(
            f"folder: {path} has shape {a.shape}; expected (n, {columns}). Is it another of the paper's data "
            f"sets?"
        )
    if not np.isfinite(a).all():
        raise ValueError(
            f"folder: {path} has a value that is not finite in row {int((~np.isfinite(a)).any(1).argmax())}."
        )
    return torch.as_tensor(a).to(torch.get_default_dtype())


def load_original(folder: str | Path, split: str = "train") -> OriginalEvents:
    r"""The arrays of arXiv:2003.13913's LHC experiment, ``x_<split>.npy``, ``theta_<split>.npy`` and
    ``t_xz_<split>.npy``.

    They hold the 40 observables in the order of :class:`LHC`'s. Never tested on the
    originals, which cannot be had any more; tested on files of that form.

    :param folder: where the files are.
    :param split: "train"; or "test", "test1", "test2", events at (0, 0), (0.5, 0), (-1, -1), which have no
        joint score.
    :raises ValueError: for a file that is absent, is a saved HTML page, has the wrong shape or a value that
        is not finite.
    """
    if split not in _SPLITS:
        raise ValueError(f"split: got {split!r}; expected one of {_SPLITS}.")
    folder = Path(folder)
    x, theta = _array(folder / f"x_{split}.npy", 40), _array(folder / f"theta_{split}.npy", 2)
    scores = folder / f"t_xz_{split}.npy"
    t = _array(scores, 2) if scores.exists() or split == "train" else None
    sizes = [len(a) for a in (x, theta, t) if a is not None]
    if len(set(sizes)) > 1:
        raise ValueError(
            f"folder: {folder} holds {sizes} rows of x, theta, t_xz; expected one number. Are they of one "
            f"version?"
        )
    return OriginalEvents(x, theta, t)
