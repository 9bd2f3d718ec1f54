"""What a case is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import geoopt
import torch
from torch import Tensor

from pyro_manifold.geometry import geometry


@dataclass(frozen=True)
class GeometryCase:
    """``manifold()`` is a family, ``dim`` picks the member.

    :param bool inference: do samplers, guides, optimisers and diagnostics run on it too? One member for each kind of manifold.
    """

    name: str
    manifold: Callable[[], geoopt.Manifold]
    dim: int
    skip: Mapping[str, str] = field(default_factory=dict)
    inference: bool = False

    def event_shape(self) -> torch.Size:
        return geometry(self.manifold()).point_shape(self.dim)


@dataclass(frozen=True)
class TransformCase:
    """``make`` takes the parameters as tensors; ``inputs`` are points of the domain, ``(n,) + event``."""

    name: str
    make: Callable[..., Any]
    params: Mapping[str, Any]
    inputs: Any
    skip: Mapping[str, str] = field(default_factory=dict)

    def build(self, **like: Any) -> tuple[Any, Tensor]:
        transform = self.make(**tensors(self.params, **like))
        if isinstance(transform, torch.nn.Module):
            transform.to(**like)
        return transform, torch.tensor(self.inputs, dtype=torch.float64).to(**like)


@dataclass(frozen=True)
class DistributionCase:
    """``make`` takes the parameters as tensors, unbatched; ``stress`` and ``extremes`` list parameters that
    replace some of them: where everything is to be finite, and where float32 is to be as good as its rounding
    besides."""

    name: str
    make: Callable[..., Any]
    params: Mapping[str, Any]
    stress: tuple[Mapping[str, Any], ...] = ()
    extremes: tuple[Mapping[str, Any], ...] = ()
    skip: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ModuleCase:
    """``make()`` is a fresh module; ``call`` is what to do with it and a batch of inputs."""

    name: str
    make: Callable[[], torch.nn.Module]
    inputs: Any
    call: Callable[[Any, Tensor], Any] = lambda module, x: module(x)
    skip: Mapping[str, str] = field(default_factory=dict)


def tensors(params: Mapping[str, Any], **like: Any) -> dict[str, Tensor]:
    """Parameters as tensors, rounded once from float64."""
    return {k: torch.as_tensor(x, dtype=torch.float64).to(**like) for k, x in params.items()}
