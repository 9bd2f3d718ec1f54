"""Places on Earth as points of the sphere: volcanic eruptions, earthquakes, floods and fires."""

from pathlib import Path

import torch
from torch import Tensor

from ..ops.arguments import checked
from ..ops.lon_lat import from_lon_lat
from .download import download
from .split import split_in_three

__all__ = ["earth", "earth_split"]

_SOURCE = "https://raw.githubusercontent.com/oxcsml/riemannian-score-sde/5b48a7f7e175894afb6933f5e5f367b5a0eb65d7/data/"
_FILES = {  # name: file and SHA-256
    "volcano": ("volerup.csv", "f7bbaf32a412f5fe82350f48e0c55100be260803969c16557343f687fd0593fc"),
    "earthquake": ("quakes_all.csv", "3e5e1a10fb2faf1899106264289334037d039f00f5265d13dad388a93d8ff2f7"),
    "flood": ("flood.csv", "ffb1e3182c3053afcdeceec4727c262a29da10255d20747c08144da5b0963486"),
    "fire": ("fire.csv", "c5c6c9490b1d8c58ba9eb78d9e2f82d1c1e62694ca5cff917c54600d3d83f459"),
}


def _read(path: Path) -> Tensor:
    """Rows (latitude, longitude) in degrees, float64; comments and a line of column names come first and are
    left out."""
    rows: list[list[float]] = []
    for i, line in enumerate(path.read_text().splitlines(), 1):
        cells = line.strip()
        if not cells or cells.startswith("#") or (not rows and cells[0].isalpha()):
            continue
        try:
            lat, lon = map(float, cells.split(","))
        except ValueError:
            lat = lon = torch.nan
        if not (abs(lat) <= 90 and abs(lon) <= 360):
            raise ValueError(
                f"folder: line {i} of {path} is {line!r}; expected 'latitude,longitude' in degrees, "
                "at most 90 and 360 in size. Correct or remove the line."
            )
        rows.append([lat, lon])
    if not rows:
        raise ValueError(f"folder: {path} holds no rows; expected lines 'latitude,longitude' in degrees.")
    return torch.tensor(rows, dtype=torch.float64)


def _places(degrees: Tensor) -> Tensor:
    """The number of each row's place; 180 W is 180 E."""
    key = torch.stack([degrees[:, 0], degrees[:, 1].remainder(360)], -1)
    return key.unique(dim=0, return_inverse=True)[1]


def _distinct(degrees: Tensor) -> Tensor:
    """The first row of each place."""
    group = _places(degrees)
    first = torch.full((int(group.max()) + 1,), len(group)).scatter_reduce(
        0, group, torch.arange(len(group)), "amin"
    )
    return degrees[first.sort().values]


@checked
def earth(name: str = "volcano", *, folder: str | Path | None = None, distinct: bool = True) -> Tensor:
    r"""A public catalogue of places on Earth, as unit vectors.

    .. math:: x = (\cos\varphi\cos\lambda,\ \cos\varphi\sin\lambda,\ \sin\varphi), \; \varphi\text{ north},\
        \lambda\text{ east}

    ============ ======================================== ======= ========
    name         what (file)                              rows    distinct
    ============ ======================================== ======= ========
    volcano      eruptions, NOAA (volerup.csv)            827     267
    earthquake   significant ones, NOAA (quakes_all.csv)  6120    5447
    flood        Dartmouth Flood Observatory (flood.csv)  4875    4861
    fire         active ones, NASA FIRMS (fire.csv)       12809   12802
    ============ ======================================== ======= ========

    Many rows repeat a place exactly. A random split then puts copies of training points in the test set, and
    the likelihood has no upper bound: hence ``distinct``, which keeps the first row of each place.

    The files are those that the literature on densities on the sphere uses. Without ``folder`` they come from
    the repository of De Bortoli et al. (github.com/oxcsml/riemannian-score-sde, folder ``data``, commit
    5b48a7f), are checked against the SHA-256 written in this module and kept in pooch's cache. A file in
    ``folder`` is read as it is, so that it may be a part of one, or newer.

    :param name: "volcano", "earthquake", "flood" or "fire".
    :param folder: where the file of the table is; else it is downloaded.
    :param distinct: one row for each place.
    :return: shape (n, 3), unit vectors in torch's default dtype, in the order of the file.
    :raises ValueError: for another name, a folder without the file, a line that is no place, a download whose
        checksum differs.
    :raises ConnectionError: if the file cannot be downloaded.

    References: Mathieu & Nickel, NeurIPS 2020, sec. 5 (first use of the four); De Bortoli et al., NeurIPS
    2022.

    >>> import tempfile, pathlib
    >>> here = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (here / "fire.csv").write_text("lat,lon\n0.0,90.0\n90.0,0.0\n0.0,90.0")
    >>> earth("fire", folder=here).round()
    tensor([[0., 1., 0.],
            [0., 0., 1.]])
    """
    degrees = _catalogue(name, folder)
    return _points(_distinct(degrees) if distinct else degrees)


def _points(degrees: Tensor) -> Tensor:
    lat, lon = torch.deg2rad(degrees).unbind(-1)
    return from_lon_lat(lon, lat).to(torch.get_default_dtype())


def _catalogue(name: str, folder: str | Path | None) -> Tensor:
    """Rows (latitude, longitude) in degrees."""
    if name not in _FILES:
        raise ValueError(f"name: got {name!r}; expected one of {', '.join(map(repr, _FILES))}.")
    if folder is None:
        file, digest = _FILES[name]
        path = download("earth", _SOURCE + file, f"sha256:{digest}", file)
    else:
        path = Path(folder).expanduser() / _FILES[name][0]
        if not path.is_file():
            what = f"has no file {path.name}" if path.parent.is_dir() else "is not a folder"
            raise ValueError(
                f"folder: {path.parent} {what}; expected a folder with {path.name}, or None to download it."
            )
    return _read(path)


@checked(seed=0)
def earth_split(
    name: str = "volcano",
    *,
    seed: int = 0,
    folder: str | Path | None = None,
    distinct: bool = True,
    grouped: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Training, validation and test places of a catalogue, 80, 10 and 10 per cent, at random.

    Three protocols. By default repeated places are removed *before* the split. ``distinct=False`` keeps all
    rows, as published figures do, whose splits are of the same sizes but of other generators; 82 per cent of
    the volcanoes' test rows are then copies of training rows. With ``grouped`` all rows are kept and those of
    one place stay together.

    :param seed: the split; torch's global generator is not touched.
    :param distinct: remove repeated places before the split.
    :param grouped: split places instead of rows (with ``distinct=False``).
    :return: three tensors like that of :func:`earth`, with ``int(0.8 n)``, half of the rest, and the rest of
        the n rows, or places.
    :raises ValueError: as :func:`earth`, for fewer than 4 places, and for ``grouped`` with ``distinct``.

    Other parameters: :func:`earth`.

    >>> import tempfile, pathlib
    >>> here = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (here / "fire.csv").write_text("".join(f"{i},0\\n" for i in range(50)))
    >>> [len(x) for x in earth_split("fire", folder=here)]
    [40, 5, 5]
    """
    if grouped and distinct:
        raise ValueError(
            "grouped: got True with distinct=True, which leaves one row of each place; give distinct=False."
        )
    degrees = _catalogue(name, folder)
    degrees = _distinct(degrees) if distinct else degrees
    x = _points(degrees)
    group = _places(degrees) if grouped else torch.arange(len(x))
    train, valid, test = split_in_three(group.unique(), seed, f"places of {name!r}")
    if not grouped:
        return x[train], x[valid], x[test]
    return tuple(x[torch.isin(group, part)] for part in (train, valid, test))  # type: ignore[return-value]
