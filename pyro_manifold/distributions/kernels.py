"""Kernel density estimates on spheres and tori."""

import math

import pyro.distributions as dist
import torch
from torch import Tensor

from ..ops.arguments import checked
from ..ops.chunks import slices
from ._components import Components, Parameters, log_sum
from ._indexed_mixture import IndexedMixture
from .fit import HIGHEST, components_of, joined, points_like

__all__ = ["kernel_mixture"]

_ELEMENTS = 1 << 17  # points x kernels at a time
_FAMILIES = ("von_mises_fisher", "von_mises")


@torch.no_grad()
@checked(uniform=0.0)
def kernel_mixture(
    data: Tensor,
    concentration: float | Tensor,
    *,
    family: str = "von_mises_fisher",
    uniform: float = 0.0,
    validation: Tensor | None = None,
) -> dist.MixtureSameFamily:
    r"""A kernel density estimate: one von Mises-Fisher distribution about each point, or several of different
    widths.

    .. math::
        p(x) = \sum_l w_l\,\frac1n\sum_{i=1}^n p(x\mid x_i,\kappa_l) + w_0/\mathrm{vol}(M)

    Without ``validation`` all widths have one weight, and :math:`w_0` is ``uniform``. With it the weights,
    :math:`w_0` too, are those of the greatest likelihood of these points: a concave problem, solved by EM.
    Widths that get less than 1e-4 of the weight are left out.

    :param data: n points, as for :func:`fit_mixture`.
    :param concentration: :math:`\kappa`, one number or a vector of them, at most 1e10.
    :param family: "von_mises_fisher" on spheres, "von_mises" (independent angles) on tori.
    :param uniform: weight of the uniform distribution, in [0, 1), where ``validation`` is not given.
    :return: a ``MixtureSameFamily`` of n components a width, and one for the uniform distribution, whose
        ``log_prob`` takes a part of the points at a time.
    :raises ValueError: for points off the manifold, a concentration that is not positive, a weight outside
        [0, 1).

    Base measure: Riemannian volume. References: Hall, Watson & Cabrera, Biometrika 74 (1987).

    >>> d = kernel_mixture(torch.eye(3), 10.0)
    >>> d.log_prob(torch.eye(3))  # a third of the density at the mode of one, and the tails of two
    tensor([-0.6338, -0.6338, -0.6338])
    """
    if family not in _FAMILIES:
        raise ValueError(f"family: got {family!r}; expected one of {', '.join(map(repr, _FAMILIES))}.")
    k = torch.as_tensor(concentration, dtype=torch.float64, device=data.device).reshape(-1)
    if not bool((k > 0).all() and (k <= HIGHEST).all()) or not len(k):
        raise ValueError(
            f"concentration: got {concentration}; expected positive numbers up to {HIGHEST:.0e}, e.g. 100."
        )
    if not uniform < 1:
        raise ValueError(f"uniform: got {uniform}; expected a weight in [0, 1), e.g. 0.01.")
    c = components_of(family, "full", HIGHEST)
    x = c.prepare("data", data)

    def kernels(one: Tensor) -> Parameters:
        p = c.at(x)
        return p | {"concentration": one.expand_as(p["concentration"])}

    weights = torch.cat([(1 - uniform) * torch.full_like(k, 1 / len(k)), k.new_tensor([uniform])])
    if validation is not None:
        valid = points_like(c, data, validation)
        log = torch.stack([_log_mean(c, kernels(one), valid) for one in k], -1)
        weights = _weights(torch.cat([log, c.log_density(c.uniform(x), valid)], -1))
    used = weights > 0
    p = c.uniform(x) if used[-1] else {}
    w = weights[-1:] if used[-1] else weights[:0]
    for one, share in zip(k[used[:-1]], weights[:-1][used[:-1]], strict=True):
        p = joined(kernels(one), p) if p else kernels(one)
        w = torch.cat([(share / len(x)).expand(len(x)), w])
    return IndexedMixture(c, w, p, data.dtype)


def _log_mean(c: Components, p: Parameters, x: Tensor) -> Tensor:
    """Log density of an equal mixture."""
    n = len(p["loc"])
    p = c.with_norm(p)
    parts = [log_sum(c.log_density(p, x[part])) for part in slices(len(x), n, _ELEMENTS)]
    return torch.cat(parts) - math.log(n)


def _weights(log: Tensor, steps: int = 1000) -> Tensor:
    """The weights of greatest likelihood of distributions with log densities ``log`` (points, distributions):
    EM; those below 1e-4 become 0."""
    w = torch.full_like(log[0], 1 / log.shape[1])
    for _ in range(steps):
        r = (log + w.log()).softmax(-1).mean(0)
        if float((r - w).abs().max()) < 1e-6:
            break
        w = r
    w = torch.where(w < 1e-4, 0.0, w)
    return w / w.sum()
