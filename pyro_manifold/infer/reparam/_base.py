r"""Base class of the reparametrisers: a latent site x becomes a function f of noise y.

.. math:: y \sim p(y) = n(y)\,\frac{p(f(y))}{q(f(y))}, \qquad x = f(y)

Here p is the distribution of the site, n a normal base and q the distribution of f(y) for y ~ n. The site y
carries the whole density and x becomes a deterministic site. Since y is drawn by lifting a draw of p, prior and
posterior predictive draws are exact.

Where ``poutine.mask`` or ``obs_mask`` drops a row of x, its y has the density n, which is proper and does not
depend on x.
"""

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.torch_distribution import ExpandedDistribution
from pyro.infer.reparam.reparam import Reparam, ReparamMessage, ReparamResult
from pyro.poutine.mask_messenger import MaskMessenger
from pyro.poutine.messenger import block_messengers
from torch import Tensor

from .noise import Determined, Noise

__all__ = ["LatentReparam", "bare", "innermost", "is_masked", "like_of", "standard_normal"]


class LatentReparam(Reparam):
    """Makes a latent site a function of noise, a new site ``{name}_{suffix}``; observed sites are unchanged.

    A subclass defines :meth:`base`, :meth:`push` and :meth:`lift`. If the image of the base is not exactly the
    site's distribution (``exact = False``), it also defines :meth:`sample_noise` and :meth:`log_weight`.
    """

    suffix = "noise"
    exact = True

    def base(self, name: str, fn: dist.TorchDistribution) -> dist.TorchDistribution:
        """The normal base n of the noise, with the batch shape of ``fn``.

        :raises ValueError: if this reparametriser does not apply to the distribution of the site.
        """
        raise NotImplementedError

    def push(self, fn: dist.TorchDistribution, noise: Tensor) -> Tensor:
        """The site's value f(y) for the noise y."""
        raise NotImplementedError

    def lift(self, fn: dist.TorchDistribution, value: Tensor) -> Tensor:
        """A typical y with f(y) = ``value``, from which inference starts."""
        raise NotImplementedError

    def sample_noise(
        self, fn: dist.TorchDistribution, base: dist.TorchDistribution, shape: torch.Size
    ) -> Tensor:
        """Draws y whose images f(y) are draws of ``fn``."""
        return base.sample(shape)

    def log_weight(self, fn: dist.TorchDistribution, noise: Tensor, value: Tensor) -> Tensor:
        r""":math:`\log p(x)/q(x)`; with an exact base, q is the site's distribution without its mask."""
        return fn.log_prob(value) - bare(fn).log_prob(value)

    def noise(self, name: str, fn: dist.TorchDistribution) -> dist.TorchDistribution:
        """The distribution of the noise: the base itself if its image is the site's distribution."""
        base = self.base(name, fn)
        return base if self.exact and not is_masked(fn) else Noise(self, fn, base)

    def apply(self, msg: ReparamMessage) -> ReparamResult:
        fn, value, name = msg["fn"], msg["value"], msg["name"]
        if msg["is_observed"]:
            return {"fn": fn, "value": value, "is_observed": True}
        noise_fn, mask = self.noise(name, fn), poutine.get_mask()
        if isinstance(noise_fn, Noise) and isinstance(mask, Tensor):
            noise_fn.keep = mask
        start = None if value is None else self.lift(fn, value)
        # a masked noise site would have an improper flat density, on which NUTS diverges
        with block_messengers(_masks_rows):
            noise = pyro.sample(f"{name}_{self.suffix}", noise_fn, obs=start, infer={"is_observed": False})
        # keep an initial value, unless a handler replaced its noise (AutoLaplaceApproximation does)
        if noise is not start or start is None:
            value = self.push(fn, noise)
        return {"fn": Determined(value, fn), "value": value, "is_observed": True}


def _masks_rows(messenger: Any) -> bool:
    return isinstance(messenger, MaskMessenger) and isinstance(messenger.mask, Tensor)


def innermost(fn: dist.TorchDistribution) -> dist.TorchDistribution:
    """The distribution inside ``to_event``, ``mask`` and Pyro's generic ``expand``."""
    while isinstance(fn, torch.distributions.Independent | dist.MaskedDistribution | ExpandedDistribution):
        fn = fn.base_dist
    return fn


def is_masked(fn: dist.TorchDistribution) -> bool:
    """Whether ``fn`` contains a mask at any depth."""
    while isinstance(fn, torch.distributions.Independent | ExpandedDistribution):
        fn = fn.base_dist
    return isinstance(fn, dist.MaskedDistribution)


def bare(fn: dist.TorchDistribution) -> dist.TorchDistribution:
    """``fn`` without its masks."""
    inner = innermost(fn)
    inner = inner.expand(fn.shape()[: len(fn.shape()) - inner.event_dim])
    return inner.to_event(fn.event_dim - inner.event_dim)


def standard_normal(like: Tensor, shape: torch.Size, event_dim: int) -> dist.TorchDistribution:
    """Independent standard normals of the given shape; the last ``event_dim`` axes are the event."""
    zero = like.new_zeros(shape)
    return dist.Normal(zero, torch.ones_like(zero)).to_event(event_dim)


def like_of(fn: dist.TorchDistribution) -> Tensor:
    """A tensor with the dtype and device of the distribution (torch's defaults if it has neither parameters nor
    draws)."""
    for x in (
        getattr(fn, "loc", None),
        *vars(fn).values(),
        *(getattr(fn, name, None) for name in fn.arg_constraints),
    ):
        if isinstance(x, Tensor):
            return x
    try:
        return fn.sample()
    except NotImplementedError:
        return torch.empty(())
