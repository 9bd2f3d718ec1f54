"""What the guides share: where a site lives, where it starts, and how an ordinary site is sampled."""

from typing import Any

import geoopt
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.distributions.util import sum_rightmost
from pyro.infer.autoguide.utils import helpful_support_errors
from torch import Tensor
from torch.distributions import biject_to

from ...constraints import on
from ...geometry import geometry
from ..positive_definite import sampled_on
from ..reparam.circular import is_unmarked_angle

__all__ = ["FixedOptions", "all_rows", "sample_ordinary", "start_of"]


class FixedOptions:
    """Options of a guide that act when it is made: setting them later raises."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("family", "init_loc_fn", "init_scale") and "prototype_trace" in self.__dict__:
            raise AttributeError(
                f"{name}: acts when the guide is made, and would have no effect now; make a new guide with "
                f"it."
            )
        super().__setattr__(name, value)


def start_of(name: str, site: dict) -> tuple[geoopt.Manifold | None, Tensor, Any, int]:
    """A site's manifold (``None`` for an ordinary one), the initial centre, its constraint and its event
    rank.

    The centre is a point of the manifold, or unconstrained coordinates.

    :raises ValueError: for a distribution of angles whose support says "real".
    """
    fn, value = site["fn"], site["value"].detach()
    if is_unmarked_angle(fn):
        raise ValueError(
            f"{name}: got a distribution of angles whose support says {fn.support}, where a guide would "
            f"spread over the turns. Unwrap it: poutine.reparam(model, config={{{name!r}: "
            f"CircularReparam()}}), from pyro_manifold.infer."
        )
    manifold = sampled_on(fn.support)[0]
    if manifold is not None:
        return manifold, value, on(manifold), geometry(manifold).event_dim
    with helpful_support_errors(site):
        hidden = biject_to(fn.support).inv(value).detach()
    return None, hidden, constraints.real, fn.event_dim + hidden.dim() - value.dim()


def all_rows(site: dict, value: Tensor, event_dim: int) -> Tensor:
    """With subsampling, one row for each of the full data, repeating those at hand."""
    for frame in site["cond_indep_stack"]:
        full = getattr(frame, "full_size", frame.size)
        if full != frame.size:
            axis = value.dim() + frame.dim - event_dim
            value = value.index_select(axis, torch.arange(full, device=value.device) % value.shape[axis])
    return value


def sample_ordinary(name: str, site: dict, hidden: Tensor) -> Tensor:
    """Sample an ordinary site at the image of its unconstrained coordinates, whose distribution is accounted
    for elsewhere."""
    transform = biject_to(site["fn"].support)
    value, density = transform(hidden), 0.0
    if poutine.get_mask() is not False:
        density = transform.inv.log_abs_det_jacobian(value, hidden)
        density = sum_rightmost(density, density.dim() - value.dim() + site["fn"].event_dim)
    return pyro.sample(name, dist.Delta(value, log_density=density, event_dim=site["fn"].event_dim))
