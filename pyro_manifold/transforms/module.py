"""What transforms with parameters share: torch's modules that can be cached copies of one another."""

import copy
from abc import ABC, abstractmethod
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

from ..ops.tracing import is_concrete
from .cache import CachedTransform, module_tensors

__all__ = ["ModuleBijection", "ModuleTransform", "submodules"]


def submodules(parts: Iterable[Any]) -> nn.ModuleList:
    """Those of ``parts`` that have parameters to register, also inside inverses and chains, which are no
    modules."""
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


class ModuleTransform(CachedTransform, TransformModule):
    """A map of vectors that is a module. ``with_cache`` gives a copy that shares the parameters."""

    domain: Any = constraints.real_vector
    codomain: Any = constraints.real_vector
    dim: int
    codomain_dim: int
    context: Tensor | None = None  # of conditional layers, set by ``condition``

    def with_cache(self, cache_size: int = 1) -> Any:
        if cache_size == self._cache_size:
            return self
        return self._sharing(_cache_size=cache_size, _inv=None)

    def _sharing(self, **changed: Any) -> Any:
        """A copy with other attributes and the same parameters."""
        new = copy.copy(self)
        new.__dict__.update(changed)
        return new

    def _like(self) -> Tensor | None:
        return next((t for t in module_tensors(self) if t is not None and t.is_floating_point()), None)

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

    def needed_context(self, size: int) -> Tensor | None:
        """The context that a conditional layer was given, ``size`` numbers on the last axis.

        :raises ValueError: if it was given none.
        """
        if size and self.context is None:
            raise ValueError(
                f"context: {type(self).__name__} was made with context_dim={size} and has none; use "
                f"Conditional{type(self).__name__}(...).condition(context), which gives the layer for a "
                "context."
            )
        return self.context

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

    def __call__(self, x: Tensor) -> Tensor:
        self.check_input(x, self.forward_shape)
        return super().__call__(x)

    def _inv_call(self, y: Tensor) -> Tensor:
        self.check_input(y, self.inverse_shape)
        return super()._inv_call(y)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and all(
            vars(self)[k] is vars(other)[k] for k in ("_parameters", "_buffers", "_modules")
        )

    def __hash__(self) -> int:
        return id(self._parameters)


class ModuleBijection(ModuleTransform, ABC):
    r"""A learned bijection of :math:`\mathbb R^d`. A subclass gives value and log-determinant together, in
    both directions, and ``jvp`` where it has a closed form; torch's methods follow.

    The log-determinant that comes with a value is remembered, so that torch's ``log_abs_det_jacobian(x, y)``
    of the pair just made costs no second pass.
    """

    bijective = True

    def depends(self) -> list[Any] | None:
        """Parameters, buffers and the context: a subclass that reads more says so."""
        return [*module_tensors(self), self.context]

    @abstractmethod
    def forward_and_log_volume(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """y and :math:`\\log|\\det dy/dx|`, shape ``x.shape[:-1]`` (broadcast with the batch of a
        context)."""

    @abstractmethod
    def inverse_and_log_volume(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """x and :math:`\\log|\\det dy/dx|` there: the log-determinant of the map, not of its inverse."""

    def _call(self, x: Tensor) -> Tensor:
        return self.forward_and_log_volume(x)[0]

    def _inverse(self, y: Tensor) -> Tensor:
        return self.inverse_and_log_volume(y)[0]

    def __call__(self, x: Tensor) -> Tensor:
        self.check_input(x, self.forward_shape)
        y, log_volume = self.forward_and_log_volume(x)
        if is_concrete(x):
            self._made.put([y], self.depends(), [x, log_volume])
        return y

    def _inv_call(self, y: Tensor) -> Tensor:
        self.check_input(y, self.inverse_shape)
        x = self.cached_preimage(y)
        if x is not None:
            return x
        x, log_volume = self.inverse_and_log_volume(y)
        if is_concrete(y):
            self._inverted.put([y], self.depends(), [x, log_volume])
        return x

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        if is_concrete(x) and is_concrete(y):
            for memo in (self._inverted, self._made):
                if not memo.gives(x):
                    continue
                pair = memo.get([y], self.depends())
                if pair is None or pair[1] is None:
                    continue
                if torch.is_grad_enabled() and pair[1].requires_grad:
                    memo.replace([x, None])  # given once: at a second use its graph might be freed
                return pair[1]
        return self.forward_and_log_volume(x)[1]
