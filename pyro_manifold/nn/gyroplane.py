"""The hyperbolic counterpart of a linear layer: signed distances to gyroplanes."""

import math

import geoopt
import torch
from torch import Tensor, nn

from ..geometry import geometry
from ..ops.arguments import checked
from ..ops.arsinh import scaled_arsinh
from ..ops.signed_trig import arcsinc_sqrt, cos_sqrt, sinc_sqrt
from .sizes import check_last, check_size

__all__ = ["GyroplaneLayer"]


class GyroplaneLayer(nn.Module):
    r"""Signed geodesic distances of a point to learned gyroplanes (totally geodesic hypersurfaces), each
    multiplied by the norm of its normal vector.

    .. math::
        f_j(z) = \|a_j\|_{p_j}\, \mathrm{sign}\langle a_j, \log_{p_j} z\rangle_{p_j}\; d(z, H_{a_j, p_j}),
        \qquad H_{a,p} = \exp_p(a^\perp)

    H is determined by the foot of the perpendicular from the origin o. So the parameters are
    :math:`w_j \in \mathbb R^d` and an offset :math:`r_j`: :math:`p_j = \exp_o(r_j w_j/|w_j|)`, and
    :math:`a_j` is :math:`w_j` transported from o to :math:`p_j`. The *Riemannian* norm of :math:`a_j` is
    :math:`|w_j|` for every curvature K. With :math:`s(t) = \sin(\sqrt K t)/\sqrt K`,
    :math:`c(t) = \cos(\sqrt K t)`, :math:`v = \log_o z` and :math:`n = w/|w|`,

    .. math:: f(z) = |w|\; s^{-1}\Big( c(r)\,\tfrac{s(|v|)}{|v|}\langle n, v\rangle - s(r)\, c(|v|) \Big).

    At K = 0 this is the linear layer :math:`\langle w, z\rangle - |w| r`, and it has as many parameters as one.
    It needs one matrix product, whereas geoopt's ``dist2plane`` forms every point-plane difference and scales
    by the Euclidean norm of a.

    :param manifold: a manifold of constant curvature (Euclidean, PoincareBall, Lorentz, Stereographic).
    :param dim: its dimension.
    :param out_features: number of gyroplanes.
    :raises ValueError: for a manifold without constant curvature, or points of another size.

    References: Ganea et al., NeurIPS 2018, eq. 24 to 26; Mathieu et al., NeurIPS 2019, eq. 10 (the norm);
    Shimizu et al., ICLR 2021, eq. 6 (the foot on the normal).

    >>> layer = GyroplaneLayer(geoopt.PoincareBall(), dim=2, out_features=200)
    >>> layer(torch.zeros(5, 2)).shape
    torch.Size([5, 200])
    """

    @checked
    def __init__(self, manifold: geoopt.Manifold, dim: int, out_features: int) -> None:
        super().__init__()
        if geometry(manifold).constant_curvature(torch.zeros(())) is None:
            raise ValueError(
                f"manifold: got {manifold.name}; expected a manifold of constant curvature (Euclidean, "
                "PoincareBall, Lorentz or Stereographic), on which gyroplanes are defined. Use LogMapLayer "
                "followed by torch.nn.Linear instead."
            )
        self.manifold, self.dim = manifold, check_size("dim", dim)
        self.weight = nn.Parameter(torch.empty(check_size("out_features", out_features), dim))
        self.offset = nn.Parameter(torch.empty(out_features))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))  # as torch.nn.Linear
        nn.init.uniform_(self.offset, -1, 1)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, out_features={len(self.offset)}"

    def forward(self, z: Tensor) -> Tensor:
        geo = geometry(self.manifold)
        check_last("z", z, geo.point_shape(self.dim)[-1])
        curvature, r = geo.curvature(z), self.offset
        length = torch.linalg.vector_norm(self.weight, dim=-1)
        normal = self.weight / length.clamp_min(torch.finfo(length.dtype).tiny).unsqueeze(-1)
        space, time = geo.lift(z)
        if isinstance(self.manifold, (geoopt.PoincareBall, geoopt.Lorentz)):  # K < 0
            root = (-curvature).sqrt()
            turn = root * r
            planes = (root * turn.cosh()).unsqueeze(-1) * normal
            planes = torch.cat([planes, -turn.sinh().unsqueeze(-1)], -1)
            return scaled_arsinh(torch.cat([space, time], -1) @ planes.mT, length / root)
        kr = curvature * r.square()
        side = space @ (cos_sqrt(kr).unsqueeze(-1) * normal).mT - time * (r * sinc_sqrt(kr))
        return length * side * arcsinc_sqrt(curvature * side.square())
