r"""A learned manifold in several pieces, each the image of its own injective map.

.. math::
    p(x) = w_k\, p_k(x), \qquad k = k(x) = \arg\min_k |x - g_k(g_k^{-1}(x))|
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..distributions import Atlas
from ..ops.arguments import checked
from ..ops.clusters import k_means
from .flow_model import FlowModel
from .manifold_flow import ManifoldFlow

__all__ = ["ManifoldMixture"]


class ManifoldMixture(FlowModel):
    r"""Several manifold flows of one dimension: for data on disconnected pieces, or on a manifold that no one
    chart covers.

    .. math:: \log p(x) = \log w_k + \log p_k(x), \qquad k = \text{the chart nearest to } x

    Base measure: Hausdorff measure of the union of the images :math:`M_k`. Only where images coincide do the
    densities of charts add up, see :class:`~pyro_manifold.distributions.Atlas`; ``atol`` is how
    far, relative to 1 + its length, a value may be from its chart, for flows with ``off_manifold``
    ``"reject"`` or ``"error"``. Learned images go on beyond their data and may cross. Train it with
    :func:`~pyro_manifold.training.fit_charts`.

    :param flows: k manifold flows.
    :param Tensor centres: a point near each piece, shape ``(k, d)``; before training, rows are assigned to the
        nearest one.
    :raises ValueError: for flows of different dimensions, or as many centres as there are flows.

    >>> x = torch.cat([torch.randn(50, 3), 9 + torch.randn(50, 3)])
    >>> mixture = ManifoldMixture.from_data(x, dim=2, charts=2, hidden=(8,))
    >>> mixture.log_prob(x).shape, mixture.assign(x).bincount()
    (torch.Size([100]), tensor([50, 50]))
    """

    weights: Tensor
    centres: Tensor
    atol: Tensor

    @checked
    def __init__(self, flows: Sequence[ManifoldFlow], centres: Tensor) -> None:
        super().__init__()
        sizes = {(f.transform.dim, f.transform.codomain_dim) for f in flows}
        if len(sizes) != 1 or centres.shape != (len(flows), flows[0].transform.codomain_dim):
            raise ValueError(
                f"flows, centres: got flows of dimensions {sorted(sizes)} and centres of shape "
                f"{tuple(centres.shape)}; expected flows of one dimension and a centre for each."
            )
        self.flows = nn.ModuleList(flows)
        self.register_buffer("centres", centres)
        self.register_buffer("weights", centres.new_full((len(flows),), 1 / len(flows)))
        self.register_buffer("atol", centres.new_tensor(torch.finfo(centres.dtype).eps ** 0.5))

    @classmethod
    @checked(dim=1, charts=1)
    def from_data(
        cls, x: Tensor, dim: int, charts: int, *, seed: int = 0, **kwargs: Any
    ) -> "ManifoldMixture":
        """An M-flow for each of ``charts`` clusters of the rows ``x`` (k-means); ``kwargs`` go to
        :meth:`ManifoldFlow.from_data`.

        :raises ValueError: where a cluster has fewer than ``dim + 2`` rows.
        """
        centres, which = k_means(x, charts, seed)
        rows = which.bincount(minlength=charts)
        if int(rows.min()) < dim + 2:
            raise ValueError(
                f"charts: got {charts}, of which one has {int(rows.min())} rows; expected at least {dim + 2} "
                "in each. Use fewer charts, more data or another seed."
            )
        return cls([ManifoldFlow.from_data(x[which == k], dim, **kwargs) for k in range(charts)], centres)

    @property
    def context_dim(self) -> int:
        return max(int(f.context_dim) for f in self.flows)  # type: ignore[arg-type]

    def condition(self, context: Tensor | None = None) -> Atlas:
        r""":math:`p(\cdot \mid \theta)`, a distribution on the union."""
        parts = [f.condition(context) for f in self.flows]  # type: ignore[operator]
        return Atlas(self.weights, parts, atol=float(self.atol))

    def _projections(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The projections of ``x`` by each chart, shape ``batch + (k, d)``, and their distances from ``x``."""
        there = torch.stack([f.denoise(x) for f in self.flows], -2)  # type: ignore[operator]
        return there, torch.linalg.vector_norm(x.unsqueeze(-2) - there, dim=-1).nan_to_num(torch.inf)

    def assign(self, x: Tensor) -> Tensor:
        """The chart that is nearest to ``x``."""
        return self._projections(x)[1].argmin(-1)

    def denoise(self, x: Tensor) -> Tensor:
        """The projection of ``x`` onto the nearest chart."""
        there, error = self._projections(x)
        nearest = error.argmin(-1)[..., None, None]
        return there.gather(-2, nearest.expand(nearest.shape[:-1] + x.shape[-1:])).squeeze(-2)

    def ood_score(self, x: Tensor) -> Tensor:
        """How far ``x`` is from the nearest chart."""
        return self._projections(x)[1].amin(-1)
