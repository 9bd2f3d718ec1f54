"""What models made of flows share, on a manifold or in the whole space."""

from typing import Any

import pyro
from pyro.nn import PyroModule
from torch import Tensor, nn

from ..flows import LatentFlow, coupling_chain

__all__ = ["FlowModel", "check_dim", "latent_flow"]


class FlowModel(PyroModule):
    """A model of rows given contexts, and what training asks of it."""

    @property
    def context_dim(self) -> int:
        """Size of the context, 0 if the model has none."""
        return 0

    def condition(self, context: Tensor | None = None) -> Any:
        raise NotImplementedError

    def coordinates(self, x: Tensor) -> Tensor:
        """What the density that is trained with a fixed manifold is a density of."""
        return x

    def relative_log_prob(self, u: Tensor, context: Tensor | None = None) -> Tensor:
        """Log density of :meth:`coordinates`, up to a term that depends neither on the context nor on
        :meth:`density_parameters`."""
        return self.condition(context).log_prob(u)

    def standardise(self, u: Tensor) -> None:
        """Fit fixed layers of the density to coordinates of rows, before it is trained."""

    def manifold_parameters(self) -> list[nn.Parameter]:
        """Those that reconstruction trains."""
        return []

    def density_parameters(self) -> list[nn.Parameter]:
        """Those that the likelihood trains."""
        return list(self.parameters())

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        r""":math:`\log p(x \mid \theta)`."""
        return self.condition(context).log_prob(x)

    def model(self, x: Tensor, context: Tensor | None = None) -> None:
        """Rows of ``x`` observed, for Pyro's SVI and MCMC; ``context`` of one row or as many as ``x``."""
        with pyro.plate("rows", len(x)):
            pyro.sample("x", self.condition(context), obs=x)


def check_dim(x: Tensor, dim: int) -> None:
    if x.dim() != 2 or not 1 <= dim < x.shape[1]:
        raise ValueError(
            f"dim: got {dim} for x of shape {tuple(x.shape)}; expected 1 <= dim < d and x of shape (rows, "
            "d). A flow in all of R^d is AmbientFlow.from_data(x, d)."
        )


def latent_flow(dim: int, context_dim: int, depth: int, hidden: tuple[int, ...]) -> LatentFlow:
    return LatentFlow(dim, coupling_chain(dim, depth, context_dim, hidden=hidden), context_dim)
