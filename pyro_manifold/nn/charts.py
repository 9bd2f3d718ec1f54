"""Layers made of the exponential map at the origin and its inverse."""

import geoopt
from torch import Tensor, nn

from ..geometry import Geometry, geometry
from ..ops.arguments import checked

__all__ = ["ExpMapHead", "LogMapLayer", "chart_geometry", "check_last", "check_size"]


def chart_geometry(manifold: geoopt.Manifold) -> Geometry:
    """The geometry of ``manifold``.

    :raises ValueError: if the manifold has no global chart (spheres, for example).
    """
    geo = geometry(manifold)
    if not geo.has_chart:
        raise ValueError(
            f"manifold: got {manifold.name}, which has no global chart, so features cannot parametrise its "
            "points one to one; expected Euclidean, PoincareBall, Lorentz or a product of these. On a sphere "
            "normalise the features instead."
        )
    return geo


def check_size(name: str, size: int) -> int:
    """``size`` itself.

    :raises ValueError: if it is not a positive integer.
    """
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise ValueError(f"{name}: got {size!r}; expected a positive integer.")
    return size


def check_last(name: str, x: Tensor, size: int) -> None:
    """
    :raises ValueError: unless the last axis of ``x`` has ``size`` elements.
    """
    if x.dim() == 0 or x.shape[-1] != size:
        raise ValueError(f"{name}: got shape {tuple(x.shape)}; expected a last axis of size {size}.")


class ExpMapHead(nn.Module):
    r"""Maps features to a point of the manifold: a linear layer, followed by the chart.

    .. math:: h \mapsto \exp_o(W h + b)

    The linear layer's output is a tangent vector in the orthonormal frame at the origin o, so its length is the
    geodesic distance of the point from o.

    :param manifold: a manifold with a global chart (Euclidean, hyperbolic, products).
    :param in_features: size of h.
    :param dim: dimension of the manifold.
    :raises ValueError: for a manifold without a chart, or features of another size.

    Reference: Mathieu et al., NeurIPS 2019, section 3.2 (encoder).

    >>> import geoopt, torch
    >>> head = ExpMapHead(geoopt.PoincareBall(), in_features=200, dim=2)
    >>> head(torch.ones(5, 200)).shape
    torch.Size([5, 2])
    """

    @checked(in_features=1, dim=1)
    def __init__(self, manifold: geoopt.Manifold, in_features: int, dim: int) -> None:
        super().__init__()
        chart_geometry(manifold).point_shape(dim)
        self.manifold = manifold
        self.linear = nn.Linear(check_size("in_features", in_features), check_size("dim", dim))

    def forward(self, h: Tensor) -> Tensor:
        check_last("h", h, self.linear.in_features)
        return geometry(self.manifold).chart(self.linear(h))


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
