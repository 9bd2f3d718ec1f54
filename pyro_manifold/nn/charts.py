"""Layers made of the exponential map at the origin and its inverse."""

import geoopt
from torch import Tensor, nn

from ..geometry import Geometry, geometry
from ..ops.arguments import checked
from .heads import ManifoldHead

__all__ = ["ExpMapHead", "LogMapLayer", "chart_geometry"]


def chart_geometry(manifold: geoopt.Manifold) -> Geometry:
    """The geometry of ``manifold``.

    :raises ValueError: if the manifold has no global chart (spheres, for example).
    """
    geo = geometry(manifold)
    if not geo.has_chart:
        raise ValueError(
            f"manifold: got {manifold.name}, which has no global chart, so features cannot parametrise its "
            "points one to one; expected Euclidean, PoincareBall, Lorentz or a product of these. On other "
            "manifolds use ManifoldHead and PointFeatures."
        )
    return geo


class ExpMapHead(ManifoldHead):
    r"""Maps features to a point of a manifold with a global chart: a linear layer, followed by the chart.

    .. math:: h \mapsto \exp_o(W h + b)

    The linear layer's output is a tangent vector in the orthonormal frame at the origin o, so its length is the
    geodesic distance of the point from o.

    :param manifold: a manifold with a global chart (Euclidean, hyperbolic, SPD, products).
    :param in_features: size of h.
    :param dim: dimension of the manifold.
    :raises ValueError: for a manifold without a chart (use :class:`ManifoldHead`), or features of another size.

    Reference: Mathieu et al., NeurIPS 2019, section 3.2 (encoder).

    >>> import geoopt, torch
    >>> head = ExpMapHead(geoopt.PoincareBall(), in_features=200, dim=2)
    >>> head(torch.ones(5, 200)).shape
    torch.Size([5, 2])
    """

    def __init__(self, manifold: geoopt.Manifold, in_features: int, dim: int) -> None:
        chart_geometry(manifold)
        super().__init__(manifold, in_features, dim)


class LogMapLayer(nn.Module):
    r"""Maps a point to its chart coordinates, which any network can take as input.

    .. math:: z \mapsto \log_o(z) \in \mathbb R^{d}

    :param manifold: a manifold with a global chart.
    :raises ValueError: for a manifold without a chart.

    Reference: Mathieu et al., NeurIPS 2019, section 3.2 (the decoder without gyroplanes).

    >>> import geoopt, torch
    >>> LogMapLayer(geoopt.PoincareBall())(torch.tensor([0.7616, 0.0]))
    tensor([2.0000, 0.0000])
    """

    @checked
    def __init__(self, manifold: geoopt.Manifold) -> None:
        super().__init__()
        chart_geometry(manifold)
        self.manifold = manifold

    def forward(self, z: Tensor) -> Tensor:
        return geometry(self.manifold).chart_inv(z)
