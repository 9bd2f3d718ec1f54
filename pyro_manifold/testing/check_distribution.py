"""Does a distribution on a manifold keep Pyro's contract, and is its density the density of its draws?"""

from collections.abc import Callable, Collection

import torch

from . import _autocast, _broadcasting, _density, _functional, _masked, _protocol, _support, _validation
from ._tools import finite
from ._types import Make, Params
from .not_applicable import run_checks

__all__ = ["DISTRIBUTION_CHECKS", "check_distribution", "check_stress"]

DISTRIBUTION_CHECKS: dict[str, Callable[[Make, Params], None]] = {
    f.__name__: f
    for f in (
        _protocol.shapes,
        _protocol.infer_shapes,
        _protocol.expansion,
        _broadcasting.broadcasting,
        _broadcasting.empty_batches,
        _protocol.copies,
        _validation.validation,
        _masked.masked_rows,
        _protocol.pyro_site,
        _protocol.changed_values,
        _protocol.changed_parameters,
        _protocol.compilation,
        _protocol.one_graph,
        _support.support_of_draws,
        _functional.mapping,
        _functional.derivatives,
        _autocast.autocast,
        _density.total_mass,
        _density.moments,
        _density.goodness_of_fit,
        _density.pushforward,
        _density.gradients_of_log_prob,
        _density.pathwise_gradient,
    )
}


def check_distribution(make: Make, params: Params, skip: Collection[str] = ()) -> dict[str, str]:
    """Run every check of :data:`DISTRIBUTION_CHECKS`; quadrature applies up to dimension 3.

    :param make: called with the parameters as keywords, returns the distribution; put the manifold and
        options in it.
    :param params: its tensors by name, unbatched, such that leading axes added to all of them make a batch.
        One named ``loc`` must be a point of the manifold. Their dtype and device are those of the check.
    :param skip: names of checks to leave out.
    :returns: the checks that do not apply, each with its reason.
    :raises AssertionError: naming what does not hold and by how much.

    >>> from pyro_manifold.distributions import WrappedNormal
    >>> make = lambda loc, scale: WrappedNormal(geoopt.Euclidean(ndim=1), loc, scale)
    >>> params = dict(loc=torch.zeros(2), scale=torch.ones(1))
    >>> check_distribution(make, {k: x.double() for k, x in params.items()}, skip=["pathwise_gradient"])
    {}
    """
    return run_checks(DISTRIBUTION_CHECKS, skip, make, params)


def check_stress(make: Make, params: Params) -> None:
    """Finite draws in the support, finite log_prob and finite gradients at one corner of the parameter space.

    :raises AssertionError: naming what is not finite.
    """
    leaves = {k: v.detach().clone().requires_grad_() for k, v in params.items()}
    d = make(**leaves)
    x = d.rsample((256,)) if d.has_rsample else d.sample((256,))
    finite(x, "draws")
    assert bool(d.support.check(x.detach()).all()), "a draw lies outside the support"
    _density.gradients_of_log_prob(make, params)
    lp = d.log_prob(x.detach())
    finite(lp, "log_prob of draws")
    if x.requires_grad:
        grads = torch.autograd.grad(x.sum(), list(leaves.values()), allow_unused=True)
        for name, g in zip(leaves, grads, strict=True):
            if g is not None:
                finite(g, f"pathwise gradient in {name}")
