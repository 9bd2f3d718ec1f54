r"""Draws of charts that are kept where they fall into their regions, and the probability that they do.

.. math:: Z_k = P_{u \sim q_k}\big(u \in D_k,\ g_k(u) \in U_k\big), \qquad
    \nabla \log Z_k = \mathbb E\big[\nabla\log q_k(u) \mid u \in D_k,\ g_k(u) \in U_k\big]
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor

from ..ops.memo import Memo
from ..ops.rejection import exhausted, redraw
from ..ops.tracing import is_concrete
from ..transforms.cache import dependencies
from .pushforward import Pushforward
from .regions import Regions

__all__ = ["Acceptance", "ChartsInRegions"]

_ROUNDS = 10_000


class Acceptance(NamedTuple):
    """The probabilities with which draws of the charts fall into their regions, and their standard errors."""

    mean: Tensor
    error: Tensor


class ChartsInRegions:
    """Mixin of :class:`Atlas`: weights, components and regions."""

    weights: Tensor
    components: list[Pushforward]
    regions: Regions | None
    draws: int
    batch_shape: torch.Size
    event_shape: torch.Size
    _given: Tensor | Callable[[], Tensor] | None
    _source: "ChartsInRegions"
    _memo: Memo
    _one: Any

    def acceptance(self) -> Acceptance:
        """The :math:`Z_k` and their standard errors, both of shape ``batch + (K,)``; 1 and 0 without regions, and
        error 0 where they were given."""
        if self.regions is None:
            return Acceptance(torch.ones_like(self.weights), torch.zeros_like(self.weights))
        if self._given is not None:
            mean = self._given if isinstance(self._given, Tensor) else self._given()
            mean = mean.expand(self.weights.shape)
            return Acceptance(mean, torch.zeros_like(mean))
        own = self._source
        depends = dependencies([[c.base_dist, c.transform] for c in own.components] + [self.regions])
        seen = own._memo.get([], depends)
        mean = own._estimated_acceptance() if seen is None else seen[0]
        if seen is None and not mean.requires_grad:  # a graph serves one backward pass only
            own._memo.put([], depends, [mean])
        mean = mean.expand(self.weights.shape)
        return Acceptance(mean, (mean.detach() * (1 - mean.detach()) / self.draws).sqrt())

    def _estimated_acceptance(self) -> Tensor:
        """Shares of draws that are the same at each call; differentiable by weighting them with ratios of
        densities, which are 1."""
        like, shares = self.weights, []
        if not like.numel():
            return torch.ones_like(like)
        with torch.random.fork_rng([like.device] if like.device.type == "cuda" else []):
            torch.manual_seed(0)
            for k, c in enumerate(self.components):
                with torch.no_grad():
                    u = _spread(c.base_dist, self.draws)
                    ok = self._accepted(u, k)[0].to(u)
                read = dependencies(c.base_dist)
                if torch.is_grad_enabled() and (read is None or any(map(_needs_gradient, read))):
                    log_q = c.base_dist.log_prob(u)
                    ok = ok * (log_q - log_q.detach()).exp()
                shares.append(ok.mean(0))
        mean = torch.stack(shares, -1)
        if is_concrete(mean) and not bool((mean > 0).all()):
            k = int((mean.detach() <= 0).reshape(-1, mean.shape[-1]).any(0).nonzero()[0])
            raise ValueError(
                f"components: none of {self.draws} draws of chart {k} falls into its region; expected a chart that "
                "covers some of it. Leave this chart out, enlarge its region, or give more draws."
            )
        return mean

    def _accepted(self, u: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Whether draws ``u`` of chart k are in its region, and the points."""
        x = self.components[k].transform._call(u)
        if self.regions is None:
            return torch.ones(x.shape[:-1], dtype=torch.bool, device=x.device), x
        return self._inside(self.regions, x)[..., k] & self.regions.domain(u, k), x

    @torch.no_grad()
    def _inside(self, regions: Regions, x: Tensor) -> Tensor:
        """Whether each region contains ``x``."""
        inside = regions(x.detach())  # forward-mode derivatives are dropped too
        if inside.shape != x.shape[:-1] + (len(self.components),):
            raise ValueError(
                f"regions: got a value of shape {tuple(inside.shape)} for points of shape {tuple(x.shape)}; expected "
                f"{tuple(x.shape[:-1]) + (len(self.components),)}, one answer for each chart."
            )
        return inside

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self.sample_with_chart(sample_shape)[0]

    @torch.no_grad()
    def sample_with_chart(self, sample_shape: Any = ()) -> tuple[Tensor, Tensor]:
        """Draws, and the number of the chart that each is from.

        :raises RuntimeError: where the draws of a chart hardly ever fall into its region.
        """
        shape = torch.Size(sample_shape) + self.batch_shape
        if shape.numel() == 0:  # torch's multinomial draws at least one
            return self.weights.new_empty(shape + self.event_shape), self.weights.new_empty(shape).long()
        if self._one is not None:
            return self._one.sample_with_chart(shape)
        which = dist.Categorical(self.weights).sample(torch.Size(sample_shape))
        if len(self.batch_shape):
            return self._draw_all(which), which
        hint = "make its region larger, or leave the chart out."
        x = self.weights.new_empty(shape.numel(), self.event_shape[0])
        accept = self.acceptance().mean
        for k in which.unique().tolist():
            tries = min(64, math.ceil(2 / float(accept[k]))) if self.regions is not None else 1

            def propose(lanes: Tensor, k: int = k, tries: int = tries) -> tuple[Tensor, Tensor]:
                ok, points = self._accepted(self.components[k].base_dist.sample((tries, len(lanes))), k)
                return points, ok

            lanes = (which.reshape(-1) == k).nonzero().squeeze(-1)
            redraw(x, lanes, propose, _ROUNDS, hint)
        return x.reshape(shape + self.event_shape), which

    def _draw_all(self, which: Tensor) -> Tensor:
        """Draws of the charts ``which``, whose shape is that of the sample and the batch: those of all charts are
        repeated until the chosen one is accepted."""
        out = self.weights.new_zeros(which.shape + self.event_shape)
        missing = torch.ones_like(which, dtype=torch.bool)
        sample_shape = which.shape[: which.dim() - len(self.batch_shape)]
        for _ in range(_ROUNDS):
            pairs = [
                self._accepted(c.base_dist.sample(sample_shape), k) for k, c in enumerate(self.components)
            ]
            ok = torch.stack([p[0] for p in pairs], -1).gather(-1, which.unsqueeze(-1)).squeeze(-1)
            points = torch.stack([p[1] for p in pairs], -2)
            index = which[..., None, None].expand(*which.shape, 1, *self.event_shape)
            out = torch.where((ok & missing).unsqueeze(-1), points.gather(-2, index).squeeze(-2), out)
            missing = missing & ~ok
            if not bool(missing.any()):
                return out
        raise exhausted(
            int(missing.sum()), missing.numel(), _ROUNDS, "make the regions of the charts larger."
        )


def _spread(base: Any, n: int) -> Tensor:
    """n draws of ``base``; those of transformed normal vectors from points of a Sobol sequence, which fill space more
    evenly than independent ones."""
    inner: Any = base
    transforms: list[Any] = []
    while isinstance(inner, dist.torch.TransformedDistribution):
        transforms = [*inner.transforms, *transforms]
        inner = inner.base_dist
    normal = getattr(inner, "base_dist", None)
    if inner.batch_shape or not isinstance(normal, torch.distributions.Normal) or len(inner.event_shape) != 1:
        return base.sample((n,))
    points = torch.quasirandom.SobolEngine(inner.event_shape[0], scramble=True, seed=0).draw(
        n, dtype=torch.float64
    )
    tiny = 1e-12
    z = torch.special.ndtri(points.clamp(tiny, 1 - tiny)).to(normal.loc)
    u = normal.loc + normal.scale * z
    for transform in transforms:
        u = transform(u)
    return u


def _needs_gradient(item: Any) -> bool:
    return isinstance(item, Tensor) and item.requires_grad
