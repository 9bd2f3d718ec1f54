"""What the laws share that are a law of tangent vectors at a centre, pushed to the manifold by the exponential map."""

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
from torch import Tensor

from ..constraints import on
from .shown import Shown

__all__ = ["ExpMapLaw"]


class ExpMapLaw(Shown, dist.TransformedDistribution):
    """A transformed distribution whose only transform is an :class:`~pyro_manifold.transforms.ExpMap` at ``loc``.

    Subclasses set ``manifold``, and name in ``_kept`` the attributes that an expanded copy takes along (a further subclass with
    an ``__init__`` of its own must do so too, or torch refuses to expand it).
    """

    _kept: tuple[str, ...]

    @property
    def support(self) -> on:  # type: ignore[override]
        return on(self.manifold)

    @property
    def loc(self) -> Tensor:
        """The centre, expanded to ``batch_shape + event_shape``."""
        return self.transforms[0].loc.expand(self.batch_shape + self.event_shape)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Any:
        owner = next(c for c in type(self).__mro__ if "_kept" in vars(c))
        new = self._get_checked_instance(owner, _instance)
        for name in self._kept:
            setattr(new, name, getattr(self, name))
        return super().expand(batch_shape, _instance=new)
