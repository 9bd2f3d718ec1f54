"""What the distributions share that are a distribution of tangent vectors at a centre, pushed to the manifold
by the exponential map."""

import math
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from ..constraints import on
from ..geometry import Geometry
from ..ops.components import extremes
from ..ops.numerics import norm
from ..ops.tracing import is_concrete
from ._repr import ReprMixin

__all__ = ["ExpMapDistribution"]


def with_gradient_of(out: Tensor, other: Tensor) -> Tensor:
    """``out``, a number, with the gradient of ``other``, the same number up to rounding."""
    return out.detach() + torch.where(out.isfinite(), other - other.detach(), 0.0)


class ExpMapDistribution(ReprMixin, dist.TransformedDistribution):
    """A transformed distribution whose only transform is an :class:`~pyro_manifold.transforms.ExpMap` at
    ``loc``.

    Subclasses set ``manifold``, and name in ``_expand_attributes`` the attributes that an expanded copy takes
    along (a further subclass with an ``__init__`` of its own must do so too, or torch refuses to expand it).
    """

    _expand_attributes: tuple[str, ...]

    def _build(self, base: Any, transform: Any, event_shape: torch.Size, validate_args: bool | None) -> None:
        """``TransformedDistribution.__init__`` for a base whose batch shape is that of the result: torch finds
        the shapes through the transform, which takes longer than the rest of a constructor."""
        self.base_dist = base
        self.transforms = [transform]
        torch.distributions.Distribution.__init__(
            self, base.batch_shape, event_shape, validate_args=validate_args
        )

    @property
    def support(self) -> on:  # type: ignore[override]
        return self.transforms[0].codomain

    @property
    def geometry(self) -> Geometry:
        """The geometry of ``manifold``, made once for the distribution."""
        return self.transforms[0].geometry

    @property
    def loc(self) -> Tensor:
        """The centre, expanded to ``batch_shape + event_shape``."""
        return self.transforms[0].loc.expand(self.batch_shape + self.event_shape)

    def _remembered(self, value: Tensor) -> Tensor | None:
        """The tangent vector that ``value`` was drawn as, where a gradient through it is asked for.

        A density is that of the point as it is stored, which differs from the one drawn by rounding: near a
        pole, or far out in the ball, by much. But the vector has the better gradient, since slopes of the map
        and its inverse cancel in it."""
        return (
            self.transforms[0].cached_preimage(value)
            if torch.is_grad_enabled() and value.requires_grad
            else None
        )

    def rsample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        v = self.base_dist.rsample(torch.Size(sample_shape))
        x = self.transforms[0](v)
        self._check_held(x, v)
        return x

    def sample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        with torch.no_grad():
            v = self.base_dist.sample(torch.Size(sample_shape))
            x = self.transforms[0](v)
        self._check_held(x, v)
        return x

    def _check_held(self, x: Tensor, v: Tensor) -> None:
        """That the dtype of draws ``x = exp(v)`` holds them: within :meth:`Geometry.reach` at a glance,
        beyond one by one."""
        if not is_concrete(x) or not x.numel():
            return
        geo, x = self.geometry, x.detach()
        reach = geo.reach(self.event_shape, x)
        if math.isinf(reach):
            return
        loc = self.transforms[0].loc.detach()
        if geo.farthest(loc) + extremes(norm(v.detach()))[1] <= reach:
            return
        loc = loc.expand_as(x)
        ok = geo.contains(x) & geo.dist(loc, x).isfinite() & geo.log_frame(loc, x).isfinite().all(-1)
        if not bool(ok.all()):
            wider = "float64 or " if x.dtype != torch.float64 else ""
            raise ValueError(
                f"scale: {int((~ok).sum())} of {ok.numel()} draws lie beyond what points of "
                f"{self.manifold.name} hold in {x.dtype} (about {reach:.3g} from the origin). Use {wider}a "
                "smaller scale; a normal distribution of chart coordinates (the logarithm at the origin) "
                "has no such bound."
            )

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Any:
        owner = next(c for c in type(self).__mro__ if "_expand_attributes" in vars(c))
        new = self._get_checked_instance(owner, _instance)
        for name in self._expand_attributes:
            setattr(new, name, getattr(self, name))
        return super().expand(batch_shape, _instance=new)
