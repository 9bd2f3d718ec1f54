"""Files of data sets that are fetched once, checked by their digest and kept in the user's cache."""

from pathlib import Path

__all__ = ["download"]


def download(loader: str, url: str, digest: str, instead: str) -> Path:
    """Where the file behind ``url`` lies on this machine.

    :param loader: the public function that asks, as errors name it, such as ``"mnist"``.
    :param digest: of the file, such as ``"md5:f68b..."`` or ``"sha256:f7bb..."``.
    :param instead: what a folder of the user's must hold, as errors say it.
    :raises ImportError: without pooch.
    :raises ValueError: for a file of another digest.
    :raises ConnectionError: where the file cannot be fetched.
    """
    try:
        import pooch
    except ImportError as error:
        raise ImportError(
            f"{loader}() downloads with pooch: pip install pooch (extra pyro-manifold[tutorials]), or give folder="
        ) from error
    try:
        cache = pooch.os_cache("pyro-manifold")
        return Path(pooch.retrieve(url, digest, url.rsplit("/", 1)[-1], cache, progressbar=False))
    except ValueError as error:
        kind = {"md5": "MD5", "sha256": "SHA-256"}[digest.split(":")[0]]
        raise ValueError(
            f"{loader}: {url} is not the file that this loader knows ({kind} mismatch: {error}). Get it "
            f"elsewhere and give folder= with {instead}."
        ) from error
    except OSError as error:  # requests' errors are among these
        raise ConnectionError(f"{url} cannot be fetched ({error}); give folder= with {instead}.") from error
