"""The analogue of a linear layer in gyrovector spaces."""

import math

import geoopt
import torch
from torch import Tensor, nn

from ..ops.arguments import checked
from .sizes import check_last, check_size

__all__ = ["MobiusLinear"]


class MobiusLinear(nn.Module):
    r"""Möbius matrix product and Möbius bias: maps a point of the d-dimensional ball to one of the
    m-dimensional ball.

    .. math:: z \mapsto (W \otimes_c z) \oplus_c \exp_o(b), \qquad W \otimes_c z = \exp_o(W \log_o z)

    The operations are geoopt's (``mobius_matvec``, ``mobius_add``), including its projection into the ball.

    :param manifold: a :class:`geoopt.PoincareBall` or another stereographic model.
    :param in_features: dimension d.
    :param out_features: dimension m.
    :raises ValueError: for another manifold, or points of another size.

    Reference: Ganea et al., NeurIPS 2018, definition 3.2 and eq. 27.

    >>> layer = MobiusLinear(geoopt.PoincareBall(), 2, 200)
    >>> bool((layer(torch.zeros(5, 2)).norm(dim=-1) < 1).all())
    True
    """

    @checked
    def __init__(self, manifold: geoopt.Stereographic, in_features: int, out_features: int) -> None:
        super().__init__()
        if not isinstance(manifold, geoopt.Stereographic):
            raise ValueError(
                f"manifold: got {type(manifold).__name__}; expected geoopt.PoincareBall or Stereographic, "
                "on which Möbius addition is defined. Use GyroplaneLayer for other manifolds of constant "
                "curvature."
            )
        self.manifold = manifold
        self.in_features = check_size("in_features", in_features)
        self.out_features = check_size("out_features", out_features)
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))  # as torch.nn.Linear

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"

    def forward(self, z: Tensor) -> Tensor:
        check_last("z", z, self.in_features)
        return self.manifold.mobius_add(
            self.manifold.mobius_matvec(self.weight, z), self.manifold.expmap0(self.bias)
        )
