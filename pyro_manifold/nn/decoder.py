"""From a point of the manifold to the parameters of the data's distribution."""

import geoopt
from torch import Tensor, nn

from ..ops.arguments import checked
from .charts import LogMapLayer, chart_geometry, check_size
from .gyroplane import GyroplaneLayer
from .mobius import MobiusLinear

__all__ = ["ManifoldDecoder"]


class ManifoldDecoder(nn.Module):
    r"""Network from the manifold to :math:`\mathbb R^m` whose first layer knows the geometry.

    .. math:: z \mapsto W\, \mathrm{relu}(\ell(z)) + b

    with :math:`\ell` one of

    * ``"gyroplane"``: :class:`GyroplaneLayer`, signed distances to gyroplanes; on flat space a linear layer;
    * ``"wrapped"``: :class:`LogMapLayer`, then a linear layer;
    * ``"mobius"``: :class:`MobiusLinear`, then :class:`LogMapLayer` (Poincaré ball only);
    * ``"linear"``: a linear layer of the ambient coordinates, which ignores the geometry.

    All four have as many parameters as a multilayer perceptron with one hidden layer (``"linear"`` on the
    hyperboloid has one more input), so they can be compared.

    :param manifold: a manifold with a global chart.
    :param dim: its dimension.
    :param hidden: units of the hidden layer.
    :param out_features: m.
    :param first: the first layer, by name.
    :raises ValueError: for an unknown name or a manifold the layer does not exist on.

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
