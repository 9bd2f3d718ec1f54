"""The potential energy of a Pyro model for many chains at once."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import Transform

from .systems import rows

__all__ = ["ChainBatch", "ModelPotential", "warn_of_loop"]

Positions = dict[str, Tensor]
_COMPARED = 8  # chains that a batch is compared with


class ModelPotential:
    r"""Minus log joint density of a model without enumerated sites, :math:`U(z) = -\log p(z, x)`.

    Manifold sites enter as points, with no Jacobian: the density is with respect to the Riemannian measure
    that geodesic flows preserve. Ordinary sites enter unconstrained, with that of their transform, as in
    Pyro.

    :param transforms: from each site's support to the space that is sampled (Pyro's convention).
    :param nesting: maximal number of nested plates.
    :param ranks: number of batch axes of each site.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        args: tuple,
        kwargs: dict,
        transforms: Mapping[str, Transform],
        nesting: int,
        ranks: Mapping[str, int],
    ) -> None:
        self.model, self.args, self.kwargs, self.transforms, self.nesting = (
            model,
            args,
            kwargs,
            transforms,
            nesting,
        )
        self._batch_rank = ranks

    def __call__(self, z: Positions) -> Tensor:
        """One chain: shapes as the model has them; a scalar."""
        return self._evaluate(z, None)

    def plates(self, z: Positions) -> Tensor:
        """Chains as an outermost plate: right if the model broadcasts on the left of its plates, as
        vectorised particles need."""
        n = next(iter(z.values())).shape[0]
        lifted = {
            k: v.reshape((n,) + (1,) * (self.nesting - self._batch_rank[k]) + v.shape[1:])
            for k, v in z.items()
        }
        return self._evaluate(lifted, n)

    def _evaluate(self, z: Positions, chains: int | None) -> Tensor:
        def total(x: Tensor) -> Tensor:  # over everything but the chains
            return x.sum() if chains is None or x.dim() <= self.nesting else rows(x).sum(-1)

        values = {k: self.transforms[k].inv(v) for k, v in z.items()}
        trace = poutine.trace(poutine.condition(self.model, values)).get_trace(*self.args, **self.kwargs)
        trace.compute_log_prob()
        out: Any = 0.0
        for node in trace.nodes.values():
            if node["type"] == "sample" and torch.is_tensor(node.get("log_prob")):
                out = out - total(node["log_prob"])
        for name, t in self.transforms.items():
            if getattr(t, "parts", True):  # the identity has an empty list
                out = out + total(t.log_abs_det_jacobian(values[name], z[name]))
        return out if chains is None else out.expand(chains)


class ChainBatch:
    """One potential for a batch of chains, by the fastest way that gives what the chains give one by one.

    Tried in this order at the starting points, and compared there with some chains one by one, at most eight, evenly
    spread: chains as an outer plate (of a user's own ``potential_fn``: as a first axis of its argument),
    ``torch.func.vmap``, a loop (right for any model; a warning says why it was needed).
    """

    def __init__(self, single: Callable[[Positions], Tensor], z: Positions, how: str = "auto") -> None:
        self._single = single
        self.how = how
        n = next(iter(z.values())).shape[0]
        if n == 1:
            self.how = "single"
        elif how == "auto":
            with pyro.validation_enabled(False):
                self.how = self._choose(z)

    def _choose(self, z: Positions) -> str:
        n = next(iter(z.values())).shape[0]
        some = torch.linspace(0, n - 1, min(n, _COMPARED)).round().long()
        expected, reasons = self._loop({k: v[some.to(v.device)] for k, v in z.items()}), []
        for how in ("plates", "vmap"):
            if how == "plates" and not (isinstance(self._single, ModelPotential) or _distinct(z)):
                continue  # a function that mixes chains up could agree by chance
            try:
                seen = self._by(how, z)
            except (
                Exception
            ) as error:  # whatever a model does with a batch it was not written for, the loop below is right
                reasons.append(
                    f"{how}: {type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
                )
                continue
            if seen.shape == (n,) and torch.allclose(
                seen[some.to(seen.device)], expected, rtol=1e-4, atol=1e-4, equal_nan=True
            ):
                return how
            reasons.append(f"{how}: not the values of one chain at a time")
        warn_of_loop(n, "; ".join(reasons))
        return "loop"

    def _loop(self, z: Positions) -> Tensor:
        n = next(iter(z.values())).shape[0]
        return torch.stack([self._single({k: v[i] for k, v in z.items()}) for i in range(n)])

    def _by(self, how: str, z: Positions) -> Tensor:
        if how == "plates":
            return self._single.plates(z) if isinstance(self._single, ModelPotential) else self._single(z)
        if how == "vmap":
            return torch.func.vmap(self._single)(z)
        if how == "single":
            return self._single({k: v[0] for k, v in z.items()}).reshape(1)
        return self._loop(z)

    def __call__(self, z: Positions) -> Tensor:
        with pyro.validation_enabled(False):
            return self._by(self.how, z)


def warn_of_loop(chains: int, reason: str) -> None:
    """Warn that chains cannot share a gradient, and say what would let them."""
    warnings.warn(
        f"vectorize: the {chains} chains are evaluated one after another, {chains} times the cost of one "
        f"({reason}). Write the "
        "model so that it broadcasts on the left of its plates (as vectorised particles need) or under "
        "torch.func.vmap; "
        'vectorize="loop" says that the loop is meant.',
        UserWarning,
        stacklevel=2,
    )


def _distinct(z: Positions) -> bool:
    return all(len(rows(v).unique(dim=0)) == len(v) for v in z.values() if v.numel())
