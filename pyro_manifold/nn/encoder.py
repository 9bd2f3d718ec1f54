"""A network from data to the centre and the scale of a distribution on a manifold."""

from collections.abc import Sequence

import geoopt
from torch import Tensor, nn

from ..geometry import geometry
from ..ops.arguments import checked
from .heads import ManifoldHead
from .row_wise import RowWise
from .sizes import check_last, check_size

__all__ = ["FeatureNetwork", "ManifoldEncoder"]


class FeatureNetwork(nn.Sequential):
    r"""One hidden layer, :math:`h = \mathrm{relu}(W x + b)`."""

    def __init__(self, in_features: int, hidden: int) -> None:
        super().__init__(nn.Linear(in_features, check_size("hidden", hidden)), nn.ReLU())


def feature_network(network: nn.Module | None, in_shape: Sequence[int], hidden: int) -> nn.Module:
    """Data to ``hidden`` features: by one hidden layer, or by the user's ``network``."""
    if network is not None:
        return RowWise(network, in_shape, (hidden,), "encoder")
    if len(in_shape) == 1:
        return FeatureNetwork(in_shape[0], hidden)
    return nn.Sequential(nn.Flatten(-len(in_shape)), *FeatureNetwork(_numel(in_shape), hidden))


def _numel(shape: Sequence[int]) -> int:
    n = 1
    for size in shape:
        n *= size
    return n


class ManifoldEncoder(nn.Module):
    r"""Network with one hidden layer and two heads: a point of the manifold, and standard deviations in
    geodesic length.

    .. math:: h = \mathrm{relu}(W x + b), \qquad \mu = \pi(W_\mu h + b_\mu), \qquad
              \sigma = \mathrm{softplus}(W_\sigma h + b_\sigma) + 10^{-5}

    with the map :math:`\pi` of :class:`ManifoldHead`, exp at the origin on flat and hyperbolic space.

    :param manifold: a manifold with a registered geometry.
    :param in_features: size of x, or its shape.
    :param hidden: number of hidden units.
    :param dim: dimension of the manifold.
    :param isotropic: return one standard deviation instead of one per tangent coordinate.
    :param scales: how many standard deviations to return, in place of both.
    :param network: a network from rows ``(n,) + shape of x`` to ``(n, hidden)`` features, in place of the hidden
        layer.
    :return: :math:`\mu` of shape ``batch + event`` and :math:`\sigma` of shape ``batch + (dim,)``,
        ``batch + (1,)`` or ``batch + (scales,)``.
    :raises ValueError: for a manifold without a geometry, or data of another size.

    Reference: Mathieu et al., NeurIPS 2019, section 3.2 and appendix.

    >>> import torch
    >>> loc, scale = ManifoldEncoder(geoopt.PoincareBall(), 64, 200, 2)(torch.zeros(5, 64))
    >>> loc.shape, scale.shape
    (torch.Size([5, 2]), torch.Size([5, 2]))
    """

    @checked(hidden=1, dim=1, scales=1)
    def __init__(
        self,
        manifold: geoopt.Manifold,
        in_features: int | Sequence[int],
        hidden: int,
        dim: int,
        *,
        isotropic: bool = False,
        scales: int | None = None,
        network: nn.Module | None = None,
    ) -> None:
        super().__init__()
        shape = (in_features,) if isinstance(in_features, int) else tuple(in_features)
        for size in shape:
            check_size("in_features", size)
        geometry(manifold).point_shape(check_size("dim", dim))
        self.in_shape = shape
        self.hidden = feature_network(network, shape, hidden)
        self.loc = ManifoldHead(manifold, hidden, dim)
        scales = scales or (1 if isotropic else dim)
        self.scale = nn.Sequential(nn.Linear(hidden, scales), nn.Softplus())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if len(self.in_shape) == 1:
            check_last("x", x, self.in_shape[0])
        h = self.hidden(x)
        return self.loc(h), self.scale(h) + 1e-5
