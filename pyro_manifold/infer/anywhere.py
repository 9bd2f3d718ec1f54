"""Points to start from, on any manifold, whether a distribution there can be sampled or not."""

import functools
from collections.abc import Callable
from typing import Any

import geoopt
from pyro.infer.autoguide.initialization import init_to_feasible
from torch import Tensor

from ..geometry import geometry
from .positive_definite import draws_of_wishart, is_positive_definite, sampled_on
from .reparam._base import innermost, like_of

__all__ = ["anywhere", "init_to_draw"]


def anywhere(fn: Any, manifold: geoopt.Manifold) -> Tensor:
    """A value for a site: uniform where there is such a distribution, scattered about the origin
    elsewhere; in the dtype of the distribution's parameters or draws."""
    like = like_of(innermost(fn))
    geo = geometry(manifold)
    # batch axes, and those that to_event made part of the event
    plates = len(fn.batch_shape + fn.event_shape) - geo.event_dim
    batch, event = (fn.batch_shape + fn.event_shape)[:plates], (fn.batch_shape + fn.event_shape)[plates:]
    return geo.scatter(batch, event, dtype=like.dtype, device=like.device)


def init_to_draw(site: dict | None = None, *, fallback: Callable[..., Any] = init_to_feasible) -> Any:
    """Initialise manifold sites at a draw from their prior, or at a scattered point where the prior has no
    sampler; other sites by ``fallback``.

    If all sites started at one point, the origin say, distances between them would be 0 and have no gradient.
    """
    if site is None:
        return functools.partial(init_to_draw, fallback=fallback)
    manifold = sampled_on(site["fn"].support)[0]
    if manifold is None:
        return fallback(site)
    try:
        with draws_of_wishart():
            value = site["fn"].sample().detach()
    except NotImplementedError:
        value = anywhere(site["fn"], manifold)
    if is_positive_definite(site["fn"].support) and not bool(geometry(manifold).contains(value).all()):
        value = anywhere(site["fn"], manifold)  # Pyro's Wishart draws matrices that are singular in float32
    value._pyro_custom_init = False
    return value
