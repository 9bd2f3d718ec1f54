"""What transforms with parameters share: torch's modules that can be cached copies of one another."""

import copy
from collections.abc import Iterable
from typing import Any

import torch
from pyro.distributions.torch_transform import TransformModule
from torch import Tensor, nn
from torch.distributions import constraints

from .cache import DrawnCache, versions

__all__ = ["ModuleTransform", "modules_of"]


def modules_of(parts: Iterable[Any]) -> nn.ModuleList:
    """Those of ``parts`` that have parameters to register: not every transform or distribution is a module."""
    return nn.ModuleList(p for p in parts if isinstance(p, nn.Module))


class ModuleTransform(DrawnCache, TransformModule):
    """A bijection (onto its image) of vectors that is a module. ``with_cache`` gives a copy that shares the parameters."""

    domain: Any = constraints.real_vector
    codomain: Any = constraints.real_vector
    bijective = True
    dim: int
    codomain_dim: int

    def with_cache(self, cache_size: int = 1) -> Any:
        if cache_size == self._cache_size:
            return self
        return self._sharing(_cache_size=cache_size, _cached_x_y=(None, None), _inv=None)

    def _sharing(self, **changed: Any) -> Any:
        """A copy with other attributes and the same parameters."""
        new = copy.copy(self)
        new.__dict__.update(changed)
        return new

    def _state(self, y: Tensor) -> Any:
        return versions(y, self)

    def _resize(self, shape: torch.Size, seen: int, made: int) -> torch.Size:
        if len(shape) < 1 or shape[-1] != seen:
            raise ValueError(f"value: got shape {tuple(shape)}; expected vectors of size {seen} on the last axis.")
        return torch.Size(shape[:-1]) + torch.Size([made])

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        return self._resize(shape, self.dim, self.codomain_dim)

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        return self._resize(shape, self.codomain_dim, self.dim)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and all(vars(self)[k] is vars(other)[k] for k in ("_parameters", "_buffers", "_modules"))

    def __hash__(self) -> int:
        return id(self._parameters)
