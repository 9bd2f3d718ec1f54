"""A network from data to the centre and the scale of a distribution on a manifold."""

import geoopt
from torch import Tensor, nn

from ..ops.arguments import checked
from .charts import ExpMapHead, check_last, check_size

__all__ = ["ManifoldEncoder"]


class ManifoldEncoder(nn.Module):
    r"""Network with one hidden layer and two heads: a point of the manifold, and standard deviations in
    geodesic length.

    .. math:: h = \mathrm{relu}(W x + b), \qquad \mu = \exp_o(W_\mu h + b_\mu), \qquad
              \sigma = \mathrm{softplus}(W_\sigma h + b_\sigma) + 10^{-5}

    :param manifold: a manifold with a global chart.
    :param in_features: size of x.
    :param hidden: number of hidden units.
    :param dim: dimension of the manifold.
    :param isotropic: return one standard deviation instead of one per tangent coordinate.
    :return: :math:`\mu` of shape ``batch + event`` and :math:`\sigma` of shape ``batch + (dim,)``, or
        ``batch + (1,)``.
    :raises ValueError: for a manifold without a chart, or data of another size.

    Reference: Mathieu et al., NeurIPS 2019, section 3.2 and appendix.

    >>> import torch
    >>> loc, scale = ManifoldEncoder(geoopt.PoincareBall(), 64, 200, 2)(torch.zeros(5, 64))
    >>> loc.shape, scale.shape
    (torch.Size([5, 2]), torch.Size([5, 2]))
    """

    @checked
    def __init__(
        self, manifold: geoopt.Manifold, in_features: int, hidden: int, dim: int, *, isotropic: bool = False
    ) -> None:
        super().__init__()
        self.in_features = check_size("in_features", in_features)
        self.hidden = nn.Sequential(nn.Linear(in_features, check_size("hidden", hidden)), nn.ReLU())
        self.loc = ExpMapHead(manifold, hidden, dim)
        self.scale = nn.Sequential(nn.Linear(hidden, 1 if isotropic else dim), nn.Softplus())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        check_last("x", x, self.in_features)
        h = self.hidden(x)
        return self.loc(h), self.scale(h) + 1e-5
