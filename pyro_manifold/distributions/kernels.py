"""Kernel density estimates on spheres and tori."""

import math
from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor

from ..ops.arguments import checked
from ..ops.chunks import slices
from ._components import Components, Parameters, log_sum
from ._indexed_mixture import IndexedMixture
from ._local_kernels import local_kernels
from .fit import HIGHEST, components_of, joined, points_like

__all__ = ["kernel_mixture"]

_ELEMENTS = 1 << 17  # points x kernels at a time
_FAMILIES = ("von_mises_fisher", "von_mises", "kent")


@torch.no_grad()
@checked(uniform=0.0)
def kernel_mixture(
    data: Tensor,
    concentration: float | Tensor,
    *,
    family: str = "von_mises_fisher",
    neighbours: Sequence[int] = (),
    uniform: float = 0.0,
    validation: Tensor | None = None,
) -> dist.MixtureSameFamily:
    r"""A kernel density estimate: one distribution about each point, or several of different widths and shapes.

    .. math::
        p(x) = \sum_l w_l\,\frac1n\sum_{i=1}^n p(x\mid x_i,\theta_{li}) + w_0/\mathrm{vol}(M)

    Kernels of one concentration :math:`\kappa_l` are round and equally wide. Those of the family "kent" may also
    be shaped, each by the places of its k nearest neighbours: narrow where points are dense, and long along
    arcs (four for each k: of .4 and .8 times the neighbours' spread, nearly round and not).

    Without ``validation`` all kinds have one weight, and :math:`w_0` is ``uniform``. With it the weights,
    :math:`w_0` too, are those of the greatest likelihood of these points and of one more that all kinds share, so
    that few points do not rule out a wide kernel: a concave problem, solved by EM.
    Kinds that get less than 1e-4 of the weight are left out.

    :param data: n points, as for :func:`fit_mixture`.
    :param concentration: :math:`\kappa`, one number or a vector of them, at most 1e10.
    :param family: "von_mises_fisher" on spheres, "von_mises" (independent angles) on tori, "kent" on S^2.
    :param neighbours: numbers of neighbours k, for "kent"; the largest concentration bounds these kernels too.
    :param uniform: weight of the uniform distribution, in [0, 1), where ``validation`` is not given.
    :return: a ``MixtureSameFamily`` of n components a kind, and one for the uniform distribution, whose
        ``log_prob`` takes a part of the points at a time.
    :raises ValueError: for points off the manifold, a concentration that is not positive, a weight outside
        [0, 1), neighbours of another family, or as many as points.

    Base measure: Riemannian volume. References: Hall, Watson & Cabrera, Biometrika 74 (1987); Vincent & Bengio,
    NeurIPS 2003 (kernels shaped by neighbours).

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
    if neighbours and (family != "kent" or not 1 <= min(neighbours) <= max(neighbours) < len(x)):
        raise ValueError(
            f"neighbours: got {list(neighbours)} for {len(x)} points and family {family!r}; expected numbers from 1 "
            f"to {len(x) - 1}, and family 'kent'."
        )
    start = c.at(x)
    kinds = [start | {"concentration": one.expand_as(start["concentration"])} for one in k]
    kinds += local_kernels(x, neighbours, float(k.max())) if neighbours else []
    weights = torch.cat([k.new_full((len(kinds),), (1 - uniform) / len(kinds)), k.new_tensor([uniform])])
    if validation is not None:
        valid = points_like(c, data, validation)
        log = torch.stack([_log_mean(c, p, valid) for p in kinds], -1)
        weights = _weights(torch.cat([log, c.log_density(c.uniform(x), valid)], -1))
    shares = weights[:-1].tolist()
    used = [(p, share / len(x)) for p, share in zip(kinds, shares, strict=True) if share > 0]
    p = used[0][0]
    for other, _ in used[1:]:
        p = joined(p, other)
    w = torch.cat([k.new_full((len(x),), share) for _, share in used])
    if weights[-1] > 0:
        p, w = joined(p, c.uniform(x)), torch.cat([w, weights[-1:]])
    return IndexedMixture(c, w, p, data.dtype, uniform=bool(weights[-1] > 0))


def _log_mean(c: Components, p: Parameters, x: Tensor) -> Tensor:
    """Log density of an equal mixture."""
    n = len(p["concentration"])
    p = c.with_norm(p)
    parts = [log_sum(c.log_density(p, x[part])) for part in slices(len(x), n, _ELEMENTS)]
    return torch.cat(parts) - math.log(n)


def _weights(log: Tensor, steps: int = 1000) -> Tensor:
    """The weights of greatest likelihood of distributions with log densities ``log`` (points, distributions), and
    of one more point that is shared among all of them: EM; those below 1e-4 become 0."""
    n, share = len(log), 1 / log.shape[1]
    w = torch.full_like(log[0], 1 / log.shape[1])
    for _ in range(steps):
        r = ((log + w.log()).softmax(-1).sum(0) + share) / (n + 1)
        if float((r - w).abs().max()) < 1e-6:
            break
        w = r
    w = torch.where(w < 1e-4, 0.0, w)
    return w / w.sum()
