"""Backbone torsions of a protein: points on the torus T^2 (Ramachandran angles)."""

import csv
import math
from pathlib import Path

import torch
from torch import Tensor

from ..ops.arguments import checked
from ..ops.circular import wrap
from .split import split_in_three

__all__ = ["torsions", "torsions_split"]

_FILE = "adk.csv"
_COLUMNS = ["frame", "residue", "name", "next", "phi", "psi"]
_CLASSES = ("general", "glycine", "proline", "pre-proline")


def _class_of(name: str, following: str) -> str:
    if name == "GLY":
        return "glycine"
    if name == "PRO":
        return "proline"
    return "pre-proline" if following == "PRO" else "general"


def _read(path: Path) -> tuple[Tensor, list[int], list[str]]:
    """Angles in radians (rows, 2), float64; the residue and the class of each row."""
    angles: list[list[float]] = []
    residues: list[int] = []
    classes: list[str] = []
    with path.open(newline="") as f:
        rows = csv.reader(f)
        if next(rows, None) != _COLUMNS:
            raise ValueError(f"folder: the first line of {path} is not {','.join(_COLUMNS)!r}.")
        for i, row in enumerate(rows, 2):
            try:
                _, residue, name, following, phi, psi = row
                pair = [float(phi), float(psi)]
                number = int(residue)
            except ValueError:
                pair, number = [math.nan, math.nan], 0
            if not all(abs(a) <= 180 for a in pair):
                raise ValueError(
                    f"folder: line {i} of {path} is {','.join(row)!r}; expected {','.join(_COLUMNS)} with "
                    "angles in degrees, at most 180 in size. Correct or remove the line."
                )
            angles.append(pair)
            residues.append(number)
            classes.append(_class_of(name, following))
    return wrap(torch.deg2rad(torch.tensor(angles, dtype=torch.float64).reshape(-1, 2))), residues, classes


def _of_class(residue: str, folder: str | Path) -> tuple[Tensor, Tensor]:
    if residue not in _CLASSES:
        raise ValueError(f"residue: got {residue!r}; expected one of {', '.join(map(repr, _CLASSES))}.")
    path = Path(folder).expanduser() / _FILE
    if not path.is_file():
        what = f"has no file {_FILE}" if path.parent.is_dir() else "is not a folder"
        raise ValueError(
            f"folder: {path.parent} {what}; expected a folder with {_FILE}, whose columns are "
            f"{','.join(_COLUMNS)}; the docstring of torsions() says how to make it."
        )
    angles, residues, classes = _read(path)
    rows = [i for i, c in enumerate(classes) if c == residue]
    if not rows:
        raise ValueError(f"folder: {path} holds no residue of class {residue!r}; expected at least one.")
    return angles[rows].to(torch.get_default_dtype()), torch.tensor([residues[i] for i in rows])


@checked
def torsions(residue: str = "general", *, folder: str | Path) -> Tensor:
    r"""The torsion angles :math:`(\varphi, \psi)` of a protein's backbone at residues of one class.

    =========== ================================ ===== ========
    residue     which                            rows  residues
    =========== ================================ ===== ========
    general     all others                       17052 174
    glycine     GLY                              1862  19
    proline     PRO                              980   10
    pre-proline the next is PRO, itself neither  882   9
    =========== ================================ ===== ========

    The protein is adenylate kinase along a simulated transition between its closed and open form: 98 frames
    of 212 residues. Frames of one residue are strongly correlated, see :func:`torsions_split`. There is
    nothing to download; the file ``adk.csv``, with columns frame, residue, name, next (the next residue's
    name), phi, psi in degrees, is what MDAnalysis' ``dihedrals.Ramachandran`` says of the trajectory
    ``adk_dims.dcd`` of the package MDAnalysisTests. Any other protein's file of that form will do.

    :param residue: "general", "glycine", "proline" or "pre-proline", the classes of Ramachandran plots.
    :param folder: where ``adk.csv`` is.
    :return: shape (n, 2), radians in :math:`[-\pi, \pi)`, in torch's default dtype, in the order of the file.
    :raises ValueError: for another class, a folder without the file, a line that is no row of angles.

    References: Lovell et al., Proteins 50 (2003) (the classes); Seyler & Beckstein, Mol. Simul. 40 (2014)
    (the trajectory).

    >>> import tempfile, pathlib
    >>> here = pathlib.Path(tempfile.mkdtemp())
    >>> rows = "0,2,GLY,ILE,90.0,180.0\n0,3,ILE,PRO,-90.0,0.0"
    >>> _ = (here / "adk.csv").write_text("frame,residue,name,next,phi,psi\n" + rows)
    >>> torsions("glycine", folder=here)
    tensor([[ 1.5708, -3.1416]])
    """
    return _of_class(residue, folder)[0]


@checked(seed=0)
def torsions_split(
    residue: str = "general", *, seed: int = 0, folder: str | Path
) -> tuple[Tensor, Tensor, Tensor]:
    """Training, validation and test angles of one class: about 80, 10 and 10 per cent of its *residues*, at
    random, with all their frames.

    Split by row instead, every test angle has a neighbour of another frame of the same residue in the
    training set.

    :param seed: the split; torch's global generator is not touched.
    :return: three tensors like that of :func:`torsions`, with the frames of ``int(0.8 m)``, half of the rest,
        and the rest of the m residues.
    :raises ValueError: as :func:`torsions`, and for fewer than 4 residues.

    Other parameters: :func:`torsions`.

    >>> import tempfile, pathlib
    >>> here = pathlib.Path(tempfile.mkdtemp())
    >>> rows = "".join(f"{i // 10},{i % 10},ALA,GLY,{i},0\\n" for i in range(30))
    >>> _ = (here / "adk.csv").write_text("frame,residue,name,next,phi,psi\\n" + rows)
    >>> [len(x) for x in torsions_split(folder=here)]
    [24, 3, 3]
    """
    angles, residues = _of_class(residue, folder)
    parts = split_in_three(residues.unique(), seed, f"residues of class {residue!r}")
    return tuple(angles[torch.isin(residues, part)] for part in parts)  # type: ignore[return-value]
