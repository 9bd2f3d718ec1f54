"""Layers between vectors of features and points of any manifold."""

import geoopt
from torch import Tensor, nn

from ..geometry import geometry
from ..ops.arguments import checked
from .sizes import check_last, check_size

__all__ = ["ManifoldHead", "PointFeatures"]


class ManifoldHead(nn.Module):
    r"""Maps features to a point of any manifold: a linear layer, followed by the manifold's own map of real numbers
    onto its points.

    .. math:: h \mapsto \pi(W h + b)

    ====================================  ======================================================  =============
    manifold                              :math:`\pi`                                             numbers
    ====================================  ======================================================  =============
    Euclidean, hyperbolic, SPD            exp at the origin                                       d
    sphere :math:`S^d`                    division by the length                                  d + 1
    torus                                 atan2 of two numbers for each angle                     2 d
    SO(n)                                 Gram-Schmidt of n - 1 columns (SO(3): 6 numbers)        n (n - 1)
    Stiefel                               Gram-Schmidt                                            n p
    Grassmann                             the largest eigenvectors of a symmetric matrix          n n
    product                               factor by factor                                        their sum
    ====================================  ======================================================  =============

    :math:`\pi` is onto, and a continuous function of the point undoes it, so a continuous network can give every
    point without a jump; d angles or rotation vectors cannot. Where the numbers name no point (all are 0, columns
    depend on one another) one is chosen and the gradient is finite.

    :param manifold: a manifold with a registered geometry.
    :param in_features: size of h.
    :param dim: dimension of the manifold.
    :raises ValueError: for a manifold that is not determined by its dimension (give its shape by
        ``geoopt.ProductManifold((manifold, shape))``), or features of another size.

    References: Mathieu et al., NeurIPS 2019, section 3.2 (exp); Davidson et al., UAI 2018, section 4 (spheres);
    Zhou et al., CVPR 2019, eq. 15 (rotations).

    >>> head = ManifoldHead(geoopt.Sphere(), in_features=200, dim=2)
    >>> import torch
    >>> head(torch.randn(5, 200)).norm(dim=-1)
    tensor([1.0000, 1.0000, 1.0000, 1.0000, 1.0000], grad_fn=<LinalgVectorNormBackward0>)
    """

    @checked(in_features=1, dim=1)
    def __init__(self, manifold: geoopt.Manifold, in_features: int, dim: int) -> None:
        super().__init__()
        geo = geometry(manifold)
        self.event_shape = geo.point_shape(check_size("dim", dim))
        self.manifold = manifold
        self.linear = nn.Linear(check_size("in_features", in_features), geo.feature_size(self.event_shape))

    def forward(self, h: Tensor) -> Tensor:
        check_last("h", h, self.linear.in_features)
        return geometry(self.manifold).from_features(self.linear(h), self.event_shape)


class PointFeatures(nn.Module):
    r"""Maps a point of any manifold to numbers that any network can take as input, a continuous function on the
    whole manifold: the right inverse of the map of :class:`ManifoldHead`.

    They are normal coordinates at the origin in Euclidean and hyperbolic space and for positive definite matrices,
    the unit vector on a sphere, cosines and sines of angles, the first n - 1 columns of a rotation, the entries of
    other matrices; of a product those of the factors.

    :param manifold: a manifold with a registered geometry.
    :param dim: its dimension.
    :raises ValueError: for a manifold that is not determined by its dimension, or points of another shape.

    >>> import torch
    >>> from pyro_manifold.geometry import Torus
    >>> layer = PointFeatures(Torus(), dim=1)
    >>> layer.out_features, layer(torch.tensor([0.0]))
    (2, tensor([1., 0.]))
    """

    @checked(dim=1)
    def __init__(self, manifold: geoopt.Manifold, dim: int) -> None:
        super().__init__()
        geo = geometry(manifold)
        self.event_shape = geo.point_shape(check_size("dim", dim))
        self.manifold = manifold
        self.out_features = geo.feature_size(self.event_shape)

    def forward(self, z: Tensor) -> Tensor:
        geo = geometry(self.manifold)
        if geo.event_shape(z) != self.event_shape:
            raise ValueError(
                f"z: got shape {tuple(z.shape)}; expected points of shape {tuple(self.event_shape)} behind the batch."
            )
        return geo.to_features(z)
