"""A network from points of a manifold to the parameters of the distribution of the data."""

import geoopt
from torch import Tensor, nn

from ..geometry import geometry
from ..ops.arguments import checked
from .charts import LogMapLayer
from .gyroplane import GyroplaneLayer
from .heads import PointFeatures
from .mobius import MobiusLinear
from .row_wise import RowWise
from .sizes import check_size

__all__ = ["ManifoldDecoder"]


class ManifoldDecoder(nn.Module):
    r"""Network from the manifold to :math:`\mathbb R^m` whose first layer respects the geometry.

    .. math:: z \mapsto W\, \mathrm{relu}(\ell(z)) + b

    where :math:`\ell` is one of

    * ``"gyroplane"``: :class:`GyroplaneLayer`, signed distances to gyroplanes; on flat space a linear layer;
    * ``"wrapped"``: :class:`LogMapLayer`, then a linear layer (manifolds with a global chart);
    * ``"features"``: :class:`PointFeatures`, then a linear layer: on any manifold, without a jump;
    * ``"mobius"``: :class:`MobiusLinear`, then :class:`LogMapLayer` (Poincaré ball only);
    * ``"linear"``: a linear layer of the coordinates of the points, which ignores the geometry (and is torn where
      the coordinates of a torus jump).

    For a fair comparison, in hyperbolic and flat space all have as many parameters as a multilayer perceptron with
    one hidden layer (except that ``"linear"`` on the hyperboloid has one more input).

    :param manifold: a manifold with a registered geometry.
    :param dim: its dimension.
    :param hidden: number of hidden units.
    :param out_features: m.
    :param first: name of the first layer, see above; by default ``"gyroplane"`` on flat and hyperbolic space,
        ``"features"`` elsewhere.
    :param network: a network from the ``(n, hidden)`` features :math:`\mathrm{relu}(\ell(z))` to
        ``(n, out_features)``, in place of the last linear layer.
    :raises ValueError: for an unknown name or a manifold on which the layer is not defined.

    Reference: Mathieu et al., NeurIPS 2019, section 3.2 and appendix.

    >>> import torch
    >>> ManifoldDecoder(geoopt.PoincareBall(), 2, 200, 64)(torch.zeros(5, 2)).shape
    torch.Size([5, 64])
    """

    @checked
    def __init__(
        self,
        manifold: geoopt.Manifold,
        dim: int,
        hidden: int,
        out_features: int,
        first: str | None = None,
        *,
        network: nn.Module | None = None,
    ) -> None:
        super().__init__()
        check_size("hidden", hidden)
        layers = first_layers(manifold, check_size("dim", dim), hidden, first)
        out_features = check_size("out_features", out_features)
        last: nn.Module
        if network is None:
            last = nn.Linear(hidden, out_features)
        else:
            last = RowWise(network, (hidden,), (out_features,), "decoder")
        self.net = nn.Sequential(*layers, nn.ReLU(), last)

    def forward(self, z: Tensor) -> Tensor:
        return self.net(z)


def first_layers(manifold: geoopt.Manifold, dim: int, hidden: int, first: str | None) -> list[nn.Module]:
    """Points to ``hidden`` numbers, before any activation."""
    geo = geometry(manifold)
    shape = geo.point_shape(dim)
    if first is None:
        like = geo.origin(dim)
        curved = geo.has_chart and geo.constant_curvature(like) is not None
        first = "gyroplane" if curved else "features"
    if first == "gyroplane":
        return [GyroplaneLayer(manifold, dim, hidden)]
    if first == "wrapped":
        return [LogMapLayer(manifold), nn.Linear(dim, hidden)]
    if first == "features":
        features = PointFeatures(manifold, dim)
        return [features, nn.Linear(features.out_features, hidden)]
    if first == "mobius":
        return [MobiusLinear(manifold, dim, hidden), LogMapLayer(manifold)]
    if first == "linear":
        flat = [nn.Flatten(-len(shape))] if len(shape) > 1 else []
        return [*flat, nn.Linear(shape.numel(), hidden)]
    raise ValueError(
        f"first: got {first!r}; expected 'gyroplane', 'wrapped', 'features', 'mobius' or 'linear'."
    )
