"""A network from points of a manifold to the parameters of the distribution of the data."""

import geoopt
from torch import Tensor, nn

from ..ops.arguments import checked
from .charts import LogMapLayer, chart_geometry, check_size
from .gyroplane import GyroplaneLayer
from .mobius import MobiusLinear

__all__ = ["ManifoldDecoder"]


class ManifoldDecoder(nn.Module):
    r"""Network from the manifold to :math:`\mathbb R^m` whose first layer respects the geometry.

    .. math:: z \mapsto W\, \mathrm{relu}(\ell(z)) + b

    where :math:`\ell` is one of

    * ``"gyroplane"``: :class:`GyroplaneLayer`, signed distances to gyroplanes; on flat space a linear layer;
    * ``"wrapped"``: :class:`LogMapLayer`, then a linear layer;
    * ``"mobius"``: :class:`MobiusLinear`, then :class:`LogMapLayer` (Poincaré ball only);
    * ``"linear"``: a linear layer of the ambient coordinates, which ignores the geometry.

    For a fair comparison, all four have as many parameters as a multilayer perceptron with one hidden layer
    (except that ``"linear"`` on the hyperboloid has one more input).

    :param manifold: a manifold with a global chart.
    :param dim: its dimension.
    :param hidden: number of hidden units.
    :param out_features: m.
    :param first: name of the first layer, see above.
    :raises ValueError: for an unknown name or a manifold on which the layer is not defined.

    Reference: Mathieu et al., NeurIPS 2019, section 3.2 and appendix.

    >>> import torch
    >>> ManifoldDecoder(geoopt.PoincareBall(), 2, 200, 64)(torch.zeros(5, 2)).shape
    torch.Size([5, 64])
    """

    @checked
    def __init__(
        self, manifold: geoopt.Manifold, dim: int, hidden: int, out_features: int, first: str = "gyroplane"
    ) -> None:
        super().__init__()
        geo = chart_geometry(manifold)
        check_size("hidden", hidden)
        if first == "gyroplane":
            ell: list[nn.Module] = [GyroplaneLayer(manifold, dim, hidden)]
        elif first == "wrapped":
            ell = [LogMapLayer(manifold), nn.Linear(dim, hidden)]
        elif first == "mobius":
            ell = [MobiusLinear(manifold, dim, hidden), LogMapLayer(manifold)]
        elif first == "linear":
            ell = [nn.Linear(geo.point_shape(dim).numel(), hidden)]
        else:
            raise ValueError(f"first: got {first!r}; expected 'gyroplane', 'wrapped', 'mobius' or 'linear'.")
        self.net = nn.Sequential(*ell, nn.ReLU(), nn.Linear(hidden, check_size("out_features", out_features)))

    def forward(self, z: Tensor) -> Tensor:
        return self.net(z)
