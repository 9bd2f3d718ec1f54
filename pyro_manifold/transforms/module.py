"""The base of maps with parameters and buffers."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from pyro.distributions.torch_transform import TransformModule
from torch import Tensor, nn
from torch.distributions import (
    CatTransform,
    ComposeTransform,
    IndependentTransform,
    StackTransform,
    constraints,
)
from torch.distributions.transforms import _InverseTransform

from ..ops.memo import module_tensors
from .base import MapTransform

__all__ = ["ModuleTransform", "submodules"]


def submodules(parts: Iterable[Any]) -> nn.ModuleList:
    """The modules among ``parts`` and inside their inverses and chains, which are no modules themselves: a
    holder registers them, so that its ``parameters()`` include theirs."""
    return nn.ModuleList(m for p in parts for m in _modules_in(p))


def _modules_in(part: Any) -> list[nn.Module]:
    if isinstance(part, nn.Module):
        return [part]
    if isinstance(part, _InverseTransform):
        return _modules_in(part.inv)
    if isinstance(part, ComposeTransform | CatTransform | StackTransform):
        parts = part.parts if isinstance(part, ComposeTransform) else part.transforms
        return [m for p in parts for m in _modules_in(p)]
    return _modules_in(part.base_transform) if isinstance(part, IndependentTransform) else []


class ModuleTransform(MapTransform, TransformModule):
    """A map with parameters and buffers. Unless it says otherwise, by ``domain``, ``codomain`` and the shape
    methods, it takes vectors of size ``dim`` to vectors of size ``codomain_dim``.

    A map that can depend on a context says so by ``accepts_context`` and gives
    ``with_context_dim(context_dim)``, a copy that reads a context of this size, from
    :meth:`needed_context`; users get it by :class:`~pyro_manifold.flows.Conditional`.

    :ivar int context_dim: size of the context that the map needs, 0 for none.
    :ivar Tensor context: the context it was given.
    """

    domain: Any = constraints.real_vector
    codomain: Any = constraints.real_vector
    dim: int
    codomain_dim: int
    accepts_context = False
    context_dim: int = 0
    context: Tensor | None = None

    def depends(self) -> list[Any] | None:
        """Parameters, buffers and the context: a subclass that reads more says so."""
        return [*module_tensors(self), self.context]

    def _like(self) -> Tensor | None:
        for t in module_tensors(self):
            if t is not None and t.is_floating_point():
                return t
        return None

    def in_own_dtype(self, x: Tensor) -> Tensor:
        """``x``, made by autocast in half precision, in the dtype of the parameters."""
        like = self._like()
        return x.to(torch.get_default_dtype() if like is None else like.dtype)

    def check_dtype(self, x: Tensor, name: str = "value") -> None:
        """:raises ValueError: unless ``x`` has the dtype of the parameters, single or double precision, and
        their device."""
        if x.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"{name}: got dtype {x.dtype}; {type(self).__name__} computes in torch.float32 or "
                "torch.float64 (half precision does not hold log-determinants). Convert it with .float() or "
                ".double()."
            )
        like = self._like()
        for what in ("dtype", "device"):
            own, seen = (None, None) if like is None else (getattr(like, what), getattr(x, what))
            if own != seen:
                raise ValueError(
                    f"{name}: got {what} {seen}, but the parameters of {type(self).__name__} have {own}; "
                    f"convert one of them: {name}.to({own!r}), or transform.to({seen!r})."
                )

    def needed_context(self) -> Tensor | None:
        """The context, or None for a map that needs none.

        :raises ValueError: for one that needs a context and was given none.
        """
        if self.context_dim and self.context is None:
            raise ValueError(
                f"context: this {type(self).__name__} depends on a context of size {self.context_dim} and "
                "was given none; use .condition(context) of the Conditional that holds it, which gives the "
                "layer with that context."
            )
        return self.context

    def with_context(self, context: Tensor) -> Any:
        """This map with ``context``, sharing its parameters."""
        return self._sharing(context=context)

    def _resize(self, shape: torch.Size, seen: int, made: int) -> torch.Size:
        if len(shape) < 1 or shape[-1] != seen:
            raise ValueError(
                f"value: got shape {tuple(shape)}; expected vectors of size {seen} on the last axis."
            )
        return torch.Size(shape[:-1]) + torch.Size([made])

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        return self._resize(shape, self.dim, self.codomain_dim)

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        return self._resize(shape, self.codomain_dim, self.dim)

    def check_input(self, x: Tensor, shape: Callable[[torch.Size], torch.Size]) -> None:
        """:raises ValueError: unless ``x`` is a tensor of vectors of the right size and dtype."""
        if not isinstance(x, Tensor):
            raise ValueError(
                f"value: got {type(x).__name__}; expected a tensor. Convert it with torch.as_tensor(value)."
            )
        shape(x.shape)
        self.check_dtype(x)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and all(
            vars(self)[k] is vars(other)[k] for k in ("_parameters", "_buffers", "_modules")
        )

    def __hash__(self) -> int:
        return id(self._parameters)
