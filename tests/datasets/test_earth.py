"""The catalogues from a small folder, from a server of our own, and, where they lie beside the checkout, the
real ones."""

import functools
import http.server
import math
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pyro_manifold.datasets import earth, earth_split

module = __import__("pyro_manifold.datasets.earth", fromlist=["earth"])
REAL = Path(__file__).parents[3] / "shared" / "data" / "earth"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "volerup.csv").write_text(
        "# somewhere\nLatitude,Longitude\n0,0\n90,17\n30,-180\n30,180\n0,0\n-45,90\n"
    )
    (tmp_path / "fire.csv").write_text(
        "# no names of columns\n" + "".join(f"{i / 10},{i}\r\n" for i in range(100))
    )
    return tmp_path


def test_places_are_where_they_are(folder: Path) -> None:
    x = earth("volcano", folder=folder, distinct=False)
    c, s = math.cos(math.pi / 6), math.sin(math.pi / 4)
    expected = torch.tensor([[1, 0, 0], [0, 0, 1], [-c, 0, 0.5], [-c, 0, 0.5], [1, 0, 0], [0, s, -s]])
    assert torch.allclose(x, expected, atol=1e-7) and x.dtype == torch.get_default_dtype()
    # repeats go, 180 W is 180 E, the order of the file stays
    assert torch.allclose(earth("volcano", folder=str(folder)), expected[[0, 1, 2, 5]], atol=1e-7)


def test_split_is_a_partition_of_distinct_places(folder: Path) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    parts = earth_split("fire", folder=folder, seed=1)
    assert torch.equal(torch.get_rng_state(), before) and [len(p) for p in parts] == [80, 10, 10]
    together = torch.cat(parts)
    assert torch.equal(together[together[:, 2].argsort()], earth("fire", folder=folder))
    assert all(
        torch.equal(a, b) for a, b in zip(parts, earth_split("fire", folder=folder, seed=1), strict=True)
    )
    assert not torch.equal(parts[0], earth_split("fire", folder=folder, seed=2)[0])
    # repeats removed before the split: no test place is in the training set
    (folder / "fire.csv").write_text("".join(f"{i % 20},0\n" for i in range(200)))
    train, valid, test = earth_split("fire", folder=folder)
    assert (
        len(train) == 16 and torch.cdist(test, train).min() > 1e-3 and torch.cdist(valid, test).min() > 1e-3
    )


def test_grouped_split_keeps_all_rows_and_parts_no_place(folder: Path) -> None:
    (folder / "fire.csv").write_text("".join(f"{i % 20},0\n" for i in range(210)))
    parts = earth_split("fire", folder=folder, distinct=False, grouped=True)
    places = [len(p.unique(dim=0)) for p in parts]
    assert sum(map(len, parts)) == 210 and places == [16, 2, 2]
    assert len(torch.cat(parts).unique(dim=0)) == 20
    raw = earth_split("fire", folder=folder, distinct=False)
    assert [len(p) for p in raw] == [168, 21, 21]
    with pytest.raises(ValueError, match="grouped: got True with distinct=True"):
        earth_split("fire", folder=folder, grouped=True)


@pytest.mark.skipif(not REAL.is_dir(), reason="the catalogues do not lie beside this checkout")
@pytest.mark.parametrize(
    "name, rows, places",
    [("volcano", 827, 267), ("earthquake", 6120, 5447), ("flood", 4875, 4861), ("fire", 12809, 12802)],
)
def test_real_catalogues(name: str, rows: int, places: int) -> None:
    import hashlib

    file, digest = module._FILES[name]
    assert hashlib.sha256((REAL / file).read_bytes()).hexdigest() == digest
    x, y = earth(name, folder=REAL, distinct=False), earth(name, folder=REAL)
    assert x.shape == (rows, 3) and y.shape == (places, 3)
    assert torch.allclose(x.norm(dim=-1), torch.ones(rows), atol=1e-6)


@pytest.fixture
def server(folder: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None: ...

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))
    ) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}/"
        httpd.shutdown()
        thread.join()


def test_download_is_checked_and_cached(
    server: str, folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    pooch = pytest.importorskip("pooch")
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(pooch, "os_cache", lambda name: cache)
    monkeypatch.setattr(module, "_SOURCE", server)
    with pytest.raises(ValueError, match=r"earth: http://127.*volerup.*SHA-256 mismatch.*folder="):
        earth("volcano")
    assert not (cache / "volerup.csv").exists()
    monkeypatch.setitem(
        module._FILES, "volcano", ("volerup.csv", pooch.file_hash(str(folder / "volerup.csv")))
    )
    assert torch.equal(earth("volcano"), earth("volcano", folder=folder))
    (folder / "volerup.csv").unlink()
    assert len(earth("volcano")) == 4  # from the cache
    with pytest.raises(ConnectionError, match=r"flood\.csv cannot be fetched.*give folder="):
        earth("flood")


@pytest.mark.parametrize(
    "text, match",
    [
        ("lat,lon\n1,2\n91,0\n", "line 3 of .*'91,0'.*at most 90"),
        ("1,2\n1,nan\n", "line 2 of .*'1,nan'"),
        ("1,2\n1,2,3\n", "line 2 of .*'1,2,3'"),
        ("1,2\nhere\n", "line 2 of .*'here'"),
        ("# nothing\nlat,lon\n", "holds no rows"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "flood.csv").write_text(text)
    with pytest.raises(ValueError, match=match):
        earth("flood", folder=tmp_path)


def test_bad_arguments(folder: Path) -> None:
    with pytest.raises(ValueError, match="name: got 'mars'; expected one of 'volcano'"):
        earth("mars", folder=folder)
    with pytest.raises(ValueError, match="is not a folder; expected a folder with volerup.csv, or None"):
        earth("volcano", folder=folder / "nowhere")
    with pytest.raises(ValueError, match="has no file flood.csv"):
        earth("flood", folder=folder)
    (folder / "flood.csv").write_text("1,2\n3,4\n")
    with pytest.raises(ValueError, match="2 places of 'flood' cannot be split"):
        earth_split("flood", folder=folder)
