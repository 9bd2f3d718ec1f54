"""Models that are written to files and read from them."""

from pathlib import Path
from typing import Any

from torch import Tensor

from ..ops.checkpoint import CheckpointError, load_checkpoint, save_checkpoint

__all__ = ["Saved"]


class Saved:
    """Mixin of models: the settings travel with the weights, in ``state_dict`` and in files, which are checked before
    they are believed."""

    state_dict: Any
    load_state_dict: Any

    def settings(self) -> dict[str, Any]:
        """Numbers and strings that must agree between a model and weights that are loaded into it."""
        return {}

    def get_extra_state(self) -> dict[str, Any]:
        return dict(self.settings())

    def set_extra_state(self, state: dict[str, Any]) -> None:
        if state != self.settings():
            raise ValueError(
                f"state_dict: was saved from a model with {state}, this one has {self.settings()}; construct "
                f"it alike."
            )

    def save(self, path: str | Path) -> None:
        """Write weights and settings to the file ``path``: plain numbers and tensors, whole or not at all.

        :raises ValueError: where the file cannot be written, naming it.
        """
        save_checkpoint(path, {"model": type(self).__name__, "weights": dict(self.state_dict())}, {})

    def load(self, path: str | Path) -> Any:
        """Read what :meth:`save` wrote into this model, which was constructed alike, and return it. Weights keep
        the dtype and device of this model.

        :raises ValueError: for a file that is damaged, or not of such a model, naming it and what differs.
        :raises FileNotFoundError: if there is none.
        """
        state = load_checkpoint(path)
        name = repr(str(path))
        if not (isinstance(state, dict) and state.keys() == {"model", "weights"}):
            raise CheckpointError(f"path: {name} holds no model; expected a file written by save.")
        if state["model"] != type(self).__name__:
            raise CheckpointError(
                f"path: {name} holds a {state['model']}; expected a {type(self).__name__}. Construct that."
            )
        before = {k: v.clone() for k, v in self.state_dict().items() if isinstance(v, Tensor)}
        try:
            self.load_state_dict(state["weights"])
        except (RuntimeError, ValueError, TypeError, AttributeError) as error:
            self.load_state_dict(before, strict=False)
            raise CheckpointError(f"path: {name} does not fit this model. {error}") from error
        return self
