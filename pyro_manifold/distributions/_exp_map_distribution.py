"""Base class of the distributions that push a distribution of tangent vectors at a centre to the manifold by
the exponential map."""

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

__all__ = ["ExpMapDistribution", "build"]


def with_gradient_of(out: Tensor, other: Tensor) -> Tensor:
    """The values of ``out`` with the gradient of ``other``; both hold the same numbers up to rounding."""
    return out.detach() + torch.where(out.isfinite(), other - other.detach(), 0.0)


def build(
    new: dist.TransformedDistribution,
    base: Any,
    transform: Any,
    event_shape: torch.Size,
    validate_args: bool | None,
) -> None:
    """A faster ``TransformedDistribution.__init__`` for a base with the batch shape of the result: torch's own infers
    the shapes from the transform, which takes longer than the rest of the constructor."""
    new.base_dist = base
    new.transforms = [transform]
    torch.distributions.Distribution.__init__(new, base.batch_shape, event_shape, validate_args=validate_args)


class ExpMapDistribution(ReprMixin, dist.TransformedDistribution):
    """A transformed distribution whose only transform is an :class:`~pyro_manifold.transforms.ExpMap` at
    ``loc``.

    Subclasses set ``manifold``, and list in ``_expand_attributes`` the attributes that :meth:`expand` copies.
    A subclass of a subclass that has its own ``__init__`` must list them again, or torch refuses to expand
    it.
    """

    _expand_attributes: tuple[str, ...]

    @property
    def support(self) -> on:  # type: ignore[override]
        return self.transforms[0].codomain

    @property
    def geometry(self) -> Geometry:
        """The geometry of ``manifold``, looked up once per distribution."""
        return self.transforms[0].geometry

    @property
    def loc(self) -> Tensor:
        """The centre, expanded to ``batch_shape + event_shape``."""
        return self.transforms[0].loc.expand(self.batch_shape + self.event_shape)

    def _remembered(self, value: Tensor) -> Tensor | None:
        """The tangent vector v of which ``value`` is the image, if ``value`` was drawn by this distribution and
        requires a gradient; otherwise ``None``.

        ``log_prob`` takes its value from the stored point, since rounding moves the point away from exp(v), by
        much near a pole or far out in the ball. It takes its gradient from v: the derivatives of exp and log
        cancel exactly there."""
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
        """Check that the dtype can represent the draws ``x = exp(v)``: cheaply, for all at once, if they lie
        within :meth:`Geometry.reach` of the origin, otherwise one by one.

        :raises ValueError: if it cannot represent some of them.
        """
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
                f"scale: {int((~ok).sum())} of {ok.numel()} draws lie farther out than points of "
                f"{self.manifold.name} can be represented in {x.dtype} (about {reach:.3g} from the origin). "
                f"Use {wider}a smaller scale; a normal distribution of chart coordinates (the logarithm at the "
                "origin) has no such bound."
            )

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Any:
        owner = next(c for c in type(self).__mro__ if "_expand_attributes" in vars(c))
        new = self._get_checked_instance(owner, _instance)
        for name in self._expand_attributes:
            setattr(new, name, getattr(self, name))
        return super().expand(batch_shape, _instance=new)
