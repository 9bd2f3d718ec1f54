r"""Checkpoints: plain numbers and tensors in one file, checked before it is believed and never executed.

.. math:: \text{file} = \text{magic} \;\|\; \operatorname{SHA256}(\text{payload}) \;\|\; \text{payload},
    \qquad \text{payload} = \texttt{torch.save}(\{\text{fingerprint}, \text{state}\})

The fingerprint says of which model, data and settings the state is; a file with another one is refused.
"""

import hashlib
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import pyro_manifold

__all__ = ["CheckpointError", "digest", "load_checkpoint", "save_checkpoint", "structure"]

_MAGIC = b"pyro_manifold checkpoint 1\n"
_ABSENT = "absent"
_SCALARS = (bool, int, float, complex, str, bytes, type(None))


class CheckpointError(ValueError):
    """A checkpoint that cannot be written, or that is none, damaged, or of another run.

    >>> issubclass(CheckpointError, ValueError)
    True
    """


def save_checkpoint(path: str | Path, state: Any, fingerprint: Mapping[str, Any]) -> None:
    """Write ``state`` beside ``path`` and rename it, so that a kill at any moment leaves the old file or the
    new one.

    :param path: a file in an existing, writable folder.
    :param state: tensors, numbers, strings and None in dictionaries, lists and tuples.
    :param fingerprint: numbers and strings by name; :func:`digest` makes one of anything.
    :raises CheckpointError: (a ``ValueError``) where the file cannot be written, naming it.
    :raises ValueError: for a state that holds anything else.
    """
    path = Path(path)
    payload = io.BytesIO()
    torch.save({"fingerprint": _plain(_signed(fingerprint)), "state": _plain(state)}, payload)
    data = payload.getvalue()
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb") as file:
            file.write(_MAGIC)
            file.write(hashlib.sha256(data).digest())
            file.write(data)
        os.replace(part, path)
    except OSError as error:
        raise CheckpointError(
            f"checkpoint: cannot write {str(path)!r} ({error.strerror or error}); expected a file in an "
            "existing, writable folder."
        ) from error


def load_checkpoint(path: str | Path, fingerprint: Mapping[str, Any] | None = None) -> Any:
    """The state in the file ``path``, its tensors on the CPU; nothing in the file is executed.

    :param fingerprint: what the file's must be; None to read it whatever it is of.
    :raises CheckpointError: (a ``ValueError``) for a file that is empty, truncated, damaged or no checkpoint,
        or that has another fingerprint; naming the file and, of the fingerprint, the entries that differ.
    :raises FileNotFoundError: if there is none.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "run.pt"
    >>> save_checkpoint(file, {"weight": torch.ones(2)}, {"seed": 1})
    >>> load_checkpoint(file, {"seed": 1})
    {'weight': tensor([1., 1.])}
    >>> load_checkpoint(file, {"seed": 2})
    Traceback (most recent call last):
    pyro_manifold.ops.checkpoint.CheckpointError: checkpoint: ... of another run: seed was 1, is 2...
    """
    name = repr(str(path))
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise CheckpointError(
            f"checkpoint: cannot read {name} ({error.strerror or error}); expected a file."
        ) from error
    start = len(_MAGIC) + hashlib.sha256().digest_size
    if not content.startswith(_MAGIC) or len(content) <= start:
        raise CheckpointError(
            f"checkpoint: {name} is no checkpoint of this package, or is cut short ({len(content)} bytes); "
            "remove the file or give another path."
        )
    if hashlib.sha256(content[start:]).digest() != content[len(_MAGIC) : start]:
        raise CheckpointError(
            f"checkpoint: {name} is damaged (its checksum does not match); remove the file to start again."
        )
    try:
        saved = torch.load(io.BytesIO(content[start:]), map_location="cpu", weights_only=True)
        seen, state = saved["fingerprint"], saved["state"]
    except Exception as error:  # whatever the unpickler says: the content is none that this package writes
        raise CheckpointError(
            f"checkpoint: {name} does not hold plain tensors and numbers; remove the file."
        ) from error
    if fingerprint is not None:
        wanted = _plain(_signed(fingerprint))
        keys = [k for k in sorted({*seen, *wanted}) if seen.get(k, _ABSENT) != wanted.get(k, _ABSENT)]
        differing = [_difference(k, seen, wanted) for k in keys]
        if differing:
            message = "; ".join(differing)
            raise CheckpointError(
                f"checkpoint: {name} is of another run: {message}. Remove the file or give another path."
            )
    return state


def digest(*values: Any) -> str:
    """SHA-256 of tensors (dtype, shape and numbers), scalars, and dictionaries, lists and tuples of them.

    >>> digest(torch.zeros(2)) == digest(torch.zeros(2)), digest(torch.zeros(2)) == digest(torch.zeros(2).double())
    (True, False)
    """
    sha = hashlib.sha256()
    _feed(sha, values)
    return sha.hexdigest()


def structure(module: nn.Module) -> str:
    """Digest of what a module is, whatever its weights: classes, plain attributes, and names, shapes, dtypes
    and ``requires_grad`` of parameters and buffers.

    >>> structure(nn.Linear(2, 3)) == structure(nn.Linear(2, 3))
    True
    >>> structure(nn.Linear(2, 3)) == structure(nn.Linear(2, 4))
    False
    """
    parts: list[Any] = []
    for name, part in module.named_modules():
        own = {
            k: v for k, v in vars(part).items() if not k.startswith("_") and k != "training" and _is_plain(v)
        }
        parts.append((name, f"{type(part).__module__}.{type(part).__qualname__}", own))
    for name, value in (*module.named_parameters(), *module.named_buffers()):
        parts.append((name, tuple(value.shape), str(value.dtype), value.requires_grad))
    return digest(parts)


def _signed(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    return {"version of pyro_manifold": pyro_manifold.__version__, **fingerprint}


def _difference(key: str, seen: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Of digests only that they differ."""
    before, now = seen.get(key, _ABSENT), wanted.get(key, _ABSENT)
    long = any(isinstance(v, str) and len(v) > 40 for v in (before, now))
    return f"{key} differs" if long else f"{key} was {before!r}, is {now!r}"


def _plain(value: Any) -> Any:
    """``value`` with tensors detached from graphs and subclasses, or a ``ValueError``."""
    if isinstance(value, Tensor):
        return value.detach().as_subclass(Tensor)
    if isinstance(value, _SCALARS):
        return value
    if isinstance(value, Mapping):
        return {_plain(k): _plain(v) for k, v in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_plain(v) for v in value)
    raise ValueError(
        f"state: holds a {type(value).__name__}; expected tensors, numbers, strings, None, and dictionaries, "
        f"lists and tuples."
    )


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(_is_plain(v) for kv in value.items() for v in kv)
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return isinstance(value, _SCALARS)


def _feed(sha: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        flat = value.detach().as_subclass(Tensor).cpu().contiguous()
        sha.update(f"tensor {value.dtype} {tuple(value.shape)};".encode())
        if flat.numel():
            sha.update(flat.reshape(-1).view(torch.uint8).numpy().data)
    elif isinstance(value, Mapping):
        sha.update(f"dict {len(value)};".encode())
        for key in sorted(value, key=repr):
            _feed(sha, key)
            _feed(sha, value[key])
    elif isinstance(value, list | tuple):
        sha.update(f"list {len(value)};".encode())
        for part in value:
            _feed(sha, part)
    elif isinstance(value, _SCALARS):
        sha.update(f"{type(value).__name__} {value!r};".encode())
    else:
        raise ValueError(
            f"value: got {type(value).__name__}; expected tensors, numbers, strings and containers of them."
        )
