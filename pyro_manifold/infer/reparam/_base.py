"""What the reparametrisers of this package share."""


import pyro
import pyro.distributions as dist
import torch
from pyro.infer.reparam.reparam import Reparam, ReparamMessage, ReparamResult
from torch import Tensor

__all__ = ["LatentReparam", "innermost", "like_of", "standard_normal", "unwrapped"]


class LatentReparam(Reparam):
    """A latent site made a function of noise with a law of its own, ``{name}_{suffix}``; observed sites are left alone."""

    suffix = "noise"

    def draw(self, name: str, fn: dist.TorchDistribution, value: Tensor | None) -> tuple[dist.TorchDistribution, Tensor | None]:
        """The law of the noise, and noise that makes ``value``, if one is given (an initial value).

        :raises ValueError: if the law of the site is not of the right kind.
        """
        raise NotImplementedError

    def push(self, fn: dist.TorchDistribution, noise: Tensor) -> Tensor:
        """The site's value, from the noise."""
        raise NotImplementedError

    def factor(self, fn: dist.TorchDistribution, noise: Tensor, value: Tensor) -> Tensor | None:
        """Log density of the site's law relative to the law of :meth:`push`; ``None`` where they are the same."""
        return None

    def apply(self, msg: ReparamMessage) -> ReparamResult:
        fn, value, name = msg["fn"], msg["value"], msg["name"]
        law, start = self.draw(name, fn, None if msg["is_observed"] else value)
        if msg["is_observed"]:
            return {"fn": fn, "value": value, "is_observed": True}
        noise = pyro.sample(f"{name}_{self.suffix}", law, obs=start, infer={"is_observed": False})
        if noise is not start or start is None:  # not an initial value, or one that was replayed over (Laplace's guide does)
            value = self.push(fn, noise)
        factor = self.factor(fn, noise, value)
        site = dist.Delta(value, 0.0 if factor is None else factor, event_dim=fn.event_dim)
        return {"fn": site.mask(False) if factor is None else site, "value": value, "is_observed": True}


def unwrapped(fn: dist.TorchDistribution) -> dist.TorchDistribution:
    """The law inside ``to_event``."""
    while isinstance(fn, torch.distributions.Independent):
        fn = fn.base_dist
    return fn


def innermost(fn: dist.TorchDistribution) -> dist.TorchDistribution:
    """The law inside ``to_event`` and ``mask``."""
    while isinstance(fn, torch.distributions.Independent | dist.MaskedDistribution):
        fn = fn.base_dist
    return fn


def standard_normal(like: Tensor, shape: torch.Size, event_dim: int) -> dist.TorchDistribution:
    """Independent standard normals, their last ``event_dim`` axes one event."""
    zero = like.new_zeros(shape)
    return dist.Normal(zero, torch.ones_like(zero)).to_event(event_dim)


def like_of(law: dist.TorchDistribution) -> Tensor:
    """Some tensor of the law, for its dtype and device (torch's defaults for a law without parameters or draws)."""
    for x in (getattr(law, "loc", None), *vars(law).values(), *(getattr(law, name, None) for name in law.arg_constraints)):
        if isinstance(x, Tensor):
            return x
    try:
        return law.sample()
    except NotImplementedError:
        return torch.empty(())
