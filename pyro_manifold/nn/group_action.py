"""A network head whose output acts on a manifold: an element of its group of isometries for each row."""

from collections.abc import Callable
from typing import Any

import geoopt
from torch import Tensor, nn

from ..geometry import SpecialOrthogonal, geometry
from ..geometry.registry import ClassRegistry
from ..geometry.rotations import SpecialOrthogonalGeometry
from ..geometry.sphere import SphereGeometry
from ..geometry.torus import TorusGeometry
from ..ops.arguments import checked
from ..transforms import LeftMultiplication, Rotation, Translation
from .heads import ManifoldHead
from .sizes import check_size

__all__ = ["GroupActionHead"]

_Make = Callable[[geoopt.Manifold, int], tuple[geoopt.Manifold, Callable[[Tensor], Any]]]
_GROUPS: "ClassRegistry[_Make]" = ClassRegistry()  # the group that acts, and the map that an element is


@_GROUPS.register(SphereGeometry)
def _sphere(manifold: geoopt.Manifold, dim: int) -> tuple[geoopt.Manifold, Callable[[Tensor], Any]]:
    return SpecialOrthogonal(dim + 1), Rotation


@_GROUPS.register(SpecialOrthogonalGeometry)
def _rotations(manifold: geoopt.Manifold, dim: int) -> tuple[geoopt.Manifold, Callable[[Tensor], Any]]:
    return manifold, LeftMultiplication


@_GROUPS.register(TorusGeometry)
def _torus(manifold: geoopt.Manifold, dim: int) -> tuple[geoopt.Manifold, Callable[[Tensor], Any]]:
    return manifold, _Shift(manifold)


class _Shift:
    """Angles as the translation by them."""

    def __init__(self, manifold: geoopt.Manifold) -> None:
        self.manifold = manifold

    def __call__(self, angles: Tensor) -> Translation:
        return Translation(self.manifold, angles)


class GroupActionHead(nn.Module):
    r"""Maps features to an isometry of the manifold, one for each row: a :class:`ManifoldHead`
    gives the group element.

    .. math:: h \mapsto g(W h + b) \in G, \qquad x \mapsto g \cdot x

    G acts transitively, so the uniform distribution of the manifold is the only one it leaves as it is:

    * on the sphere in :math:`\mathbb R^n` SO(n), a :class:`~pyro_manifold.transforms.Rotation`; on the circle the angle
      is that of a vector of the plane, on the sphere in space the rotation is given by six numbers;
    * on rotations SO(n) itself, by :class:`~pyro_manifold.transforms.LeftMultiplication`;
    * on the torus its translations, the angles of d vectors of the plane.

    So g is continuous in h but where a vector vanishes, as no map to the angle as a number could be.

    :param geoopt.Manifold manifold: a sphere, a torus, or rotations.
    :param int in_features: size of h.
    :param int dim: dimension of the manifold.
    :return: a transform of the manifold onto itself of batch shape ``h.shape[:-1]``.
    :raises ValueError: for another manifold, or features of another size.

    References: Falorsi et al., *Explorations in homeomorphic variational auto-encoding*, 2018, sec. 4; Golikov and
    Kretov 2018, sec. 4.

    >>> import torch
    >>> turn = GroupActionHead(geoopt.Sphere(), 8, 2)(torch.ones(5, 8))
    >>> turn(torch.eye(3)[0]).shape
    torch.Size([5, 3])
    """

    @checked(in_features=1, dim=1)
    def __init__(self, manifold: geoopt.Manifold, in_features: int, dim: int) -> None:
        super().__init__()
        make = _GROUPS.find(type(geometry(manifold)))
        if make is None:
            raise ValueError(
                f"manifold: got {manifold.name}, for which no group of isometries is known here; expected one of "
                f"{', '.join(_GROUPS.names())}. Leave the group action out on other manifolds."
            )
        group, self.action = make(manifold, check_size("dim", dim))
        size = dim if group is manifold else dim * (dim + 1) // 2
        self.element = ManifoldHead(group, check_size("in_features", in_features), size)

    def forward(self, h: Tensor) -> Any:
        return self.action(self.element(h))
