"""Guides take the subsample that the model itself gives to a plate,
``pyro.plate(name, size, subsample=indices)``.

A guide is run before the model, and the model is replayed against it: indices that a guide draws for itself
would silently replace the model's, and rows of data would meet latents of other rows.
"""

from collections.abc import Callable, Iterable
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer.autoguide.guides import AutoGuide
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.utils._pytree import tree_flatten

__all__ = ["ModelIndices", "given_indices"]


class _AllSeen(Exception):
    """Raised once every plate in question has been entered."""


class _Record(Messenger):
    """Records the indices that the model gives to the plates ``names``; stops the model once all have been
    entered."""

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__()
        self.names, self.given = set(names), dict[str, Tensor]()

    def _pyro_sample(self, msg: Any) -> None:
        if site_is_subsample(msg) and msg["name"] in self.names:
            self.names.discard(msg["name"])
            if msg["value"] is not None:
                self.given[msg["name"]] = torch.as_tensor(msg["value"]).detach().clone()

    def _pyro_post_sample(self, msg: Any) -> None:
        if not self.names:
            raise _AllSeen


@torch.no_grad()
def given_indices(
    model: Callable[..., Any], names: Iterable[str], args: tuple, kwargs: dict
) -> dict[str, Tensor]:
    """Indices that the model gives to the plates ``names`` with these arguments, found by running it as far
    as their entry."""
    record = _Record(names)
    if record.names:
        with poutine.block(), record:
            try:
                model(*args, **kwargs)
            except _AllSeen:
                pass
    return record.given


def _kind(args: tuple, kwargs: dict) -> tuple:
    """Of a call: which arguments are there and of which types, and the values of switches; not their numbers."""
    leaves, tree = tree_flatten((args, kwargs))
    return str(tree), *(x if isinstance(x, (bool, str)) else type(x) for x in leaves)


class ModelIndices(AutoGuide):
    """A guide whose plates have the model's own indices.

    Which plates are subsampled is found at the first call and at the first one of another kind: a guide that was made
    with all rows may be trained on some.

    :raises ValueError: where the model draws its indices anew in each run, and where ``create_plates`` has
        others.
    """

    _model: Any
    _subsampled: tuple[str, ...] = ()  # plates whose indices may differ between calls
    _kinds: frozenset[tuple] = frozenset()  # of the calls that were looked at
    _explicit: tuple[str, ...] = ()  # those whose indices the model has given so far

    def __getstate__(self) -> dict[str, Any]:
        model = self._model
        state = {**super().__getstate__(), "_model": None}
        self._model = model  # Pyro takes it from the guide that is saved as well
        return state

    def _find_subsampled(self, args: tuple, kwargs: dict) -> None:
        """Add the plates that a call of this kind subsamples."""
        try:
            given = given_indices(self.model, self._prototype_frames, args, kwargs)
        except Exception:
            if not self._kinds:
                raise
            given = {}  # a guide that has been set up is called without what the model needs
        again = given_indices(self.model, given, args, kwargs)
        for name, indices in given.items():
            if name not in again or not torch.equal(indices, again[name]):
                raise ValueError(
                    f"plate {name!r}: its subsample is drawn inside the model, where the guide cannot see "
                    "it. Expected indices that depend on the model's arguments alone: pass them as an "
                    "argument, or give subsample_size and let Pyro draw them."
                )
        known = {*self._subsampled, *given}
        self._subsampled = tuple(
            k for k, f in self._prototype_frames.items() if k in known or (f.full_size or f.size) != f.size
        )

    def _given(self, args: tuple, kwargs: dict) -> dict[str, Tensor]:
        """The model's indices of this call."""
        if not self._prototype_frames:
            return {}
        if self._model is None:  # a guide that was saved and loaded
            if self._explicit and self.master is None and self.create_plates is None:
                raise ValueError(
                    f"plates {list(self._explicit)}: a guide that was saved is loaded without its model, "
                    "which gave their subsample. Make the guide from the model, and load its state_dict."
                )
            return {}
        kind = _kind(args, kwargs)
        if kind not in self._kinds:
            self._find_subsampled(args, kwargs)
            self._kinds |= {kind}
        given = given_indices(self.model, self._subsampled, args, kwargs)
        self._explicit = tuple(sorted({*self._explicit, *given}))
        return given

    def _create_plates(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        given = self._given(args, kwargs)
        if self.master is None and self.create_plates is None:
            self.plates = {}
            for name, frame in sorted(self._prototype_frames.items()):
                indices: dict[str, Any] = (
                    {"subsample": given[name]} if name in given else {"subsample_size": frame.size}
                )
                self.plates[name] = pyro.plate(name, frame.full_size or frame.size, dim=frame.dim, **indices)
            return self.plates
        plates = super()._create_plates(*args, **kwargs)
        for name, expected in given.items():
            found = torch.as_tensor(plates[name]._indices, device=expected.device)
            if not torch.equal(found, expected):
                raise ValueError(
                    f"plate {name!r}: got indices {found[:5].tolist()}... from create_plates (or from the "
                    f"list of guides), expected those that the model gives, {expected[:5].tolist()}.... Give "
                    "subsample=indices there too, or leave it out."
                )
        return plates
