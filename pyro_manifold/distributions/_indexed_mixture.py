"""Mixtures of many components of one family: densities by matrix products, draws of the chosen component
alone."""

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from ..ops.chunks import slices
from ._components import Components, Parameters, log_sum

__all__ = ["IndexedMixture"]

_ELEMENTS = 1 << 17  # points x components at a time


class IndexedMixture(dist.MixtureSameFamily):
    """Torch's ``MixtureSameFamily`` for tens of thousands of components: same density, same distribution of
    the draws, in time and memory that a loop over them could not have.

    ``log_prob`` works in float64, a part of the points at a time; ``sample`` draws the component first, then
    a point of it. Both are torch's own once the mixture is expanded to a batch.

    :param uniform: is the last component the uniform one?
    :param scores: by number of components, what the number was chosen by.
    """

    def __init__(
        self,
        components: Components,
        weights: Tensor,
        parameters: Parameters,
        dtype: torch.dtype,
        validate_args: bool | None = None,
        *,
        uniform: bool = False,
        scores: dict[int, float] | None = None,
    ) -> None:
        self._uniform = uniform
        self.scores = {} if scores is None else scores
        self._components = components
        self._parameters = components.with_norm(parameters)
        self._log_weights = weights.log()
        logits = self._log_weights.clamp_min(torch.finfo(dtype).min / 2).to(dtype)
        super().__init__(
            dist.Categorical(logits=logits), components.build(parameters, dtype), validate_args=validate_args
        )

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Any:
        new = self._get_checked_instance(IndexedMixture, _instance)
        for name in ("_components", "_parameters", "_log_weights", "_uniform", "scores"):
            setattr(new, name, getattr(self, name))
        return super().expand(batch_shape, new)

    @property
    def support(self) -> Any:
        return self._components.support

    @property
    def manifold(self) -> Any:
        return self._components.manifold

    def start(self, uniform: bool = False) -> dict[str, Tensor]:
        """The ``weights`` (K,) and the parameters of the components, K first, by name of the argument of their
        distribution: values for ``init_to_value`` or ``pyro.param`` in a Pyro model of such a mixture.

        :param uniform: with the uniform component, if there is one? Else its weight is shared by the others.
        """
        out = {
            "weights": self.mixture_distribution.probs,
            **self._components.values(self.component_distribution),
        }
        if self._uniform and not uniform:
            out = {name: v[:-1] for name, v in out.items()}
            out["weights"] = out["weights"] / out["weights"].sum()
        return {name: v.detach().clone() for name, v in out.items()}

    def log_prob(self, value: Tensor) -> Tensor:
        if self.batch_shape:
            return super().log_prob(value)
        if self._validate_args:
            self._validate_sample(value)
        x = value.reshape(-1, value.shape[-1]).double()
        parts = [
            log_sum(self._components.log_density(self._parameters, x[part]) + self._log_weights)
            for part in slices(len(x), len(self._log_weights), _ELEMENTS)
        ]
        return torch.cat(parts).to(value.dtype).reshape(value.shape[:-1])

    def sample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        if self.batch_shape:
            return super().sample(sample_shape)
        with torch.no_grad():
            logits = self.mixture_distribution.logits
            chosen = self.mixture_distribution.sample(sample_shape)
            one = {name: v[chosen.flatten()] for name, v in self._parameters.items()}
            x = self._components.build(one, logits.dtype).sample()
            return x.reshape(torch.Size(sample_shape) + self.event_shape)
