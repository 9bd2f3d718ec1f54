r"""Images of injective maps: the manifold that a chart, fixed or learned, spreads in a larger space.

.. math:: M = \{f(z) : z \in \mathbb R^n\} \subset \mathbb R^d, \qquad T_xM = \mathrm{range}\,J_f(z), \quad x
    = f(z)
"""

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Transform

from ..ops.arguments import checked
from ..ops.newton import PointFunction, householder_basis, newton
from .registry import register_geometry
from .submanifold import NEWTON, Submanifold, SubmanifoldGeometry

__all__ = ["EmbeddedGeometry", "EmbeddedManifold"]


class EmbeddedManifold(Submanifold):
    r"""The image of an injective map :math:`f:\mathbb R^n\to\mathbb R^d`, as a geoopt manifold with the
    induced metric.

    Kernels that know manifolds sample it in the ambient space. Where the density in the chart is at hand,
    plain NUTS on :class:`~pyro_manifold.distributions.Pushforward` costs less per step; this one does not
    feel the chart's distortion.

    :param transform: f, an injective transform with ``dim``; ``transform.inv`` must be its left inverse.
    :param origin: chart coordinates of the origin, shape ``(n,)``; by default zeros in the dtype of f's
        parameters.
    :param str name: for messages.
    :raises ValueError: if f does not map ``origin`` to a longer vector and back, or its Jacobian there loses
        rank.

    >>> from pyro_manifold.transforms import LinearEmbedding
    >>> line = EmbeddedManifold(LinearEmbedding(torch.tensor([[3.0], [4.0]])))
    >>> line.dim, line.projx(torch.tensor([3.0, 4.1]))
    (1, tensor([3.0480, 4.0640]))
    """

    @checked
    def __init__(
        self, transform: Transform, origin: Tensor | None = None, name: str = "EmbeddedManifold"
    ) -> None:
        if origin is None:
            if not hasattr(transform, "dim"):
                raise ValueError(
                    f"origin: {type(transform).__name__} does not say its dimension; give origin, shape (n,)."
                )
            like = next(
                (v for v in getattr(transform, "state_dict", dict)().values() if v.is_floating_point()),
                torch.empty(0),
            )
            origin = torch.zeros(transform.dim, dtype=like.dtype, device=like.device)
        with torch.no_grad():
            point = transform(origin)
            back = transform.inv(point)
        if origin.dim() != 1 or point.dim() != 1 or len(point) <= len(origin):
            raise ValueError(
                f"transform: it maps shape {tuple(origin.shape)} to {tuple(point.shape)}, expected (n,) to "
                f"(d,) with n < d."
            )
        if not torch.allclose(
            back, origin, atol=torch.finfo(origin.dtype).eps ** 0.5 * (1 + float(origin.abs().max()))
        ):
            raise ValueError(
                f"transform: inv gives {back.tolist()} for the image of {origin.tolist()}; expected a left "
                f"inverse."
            )
        super().__init__(point.detach().clone(), len(origin), name)
        self.transform = transform
        self._function = PointFunction(self._at, origin)
        s = torch.linalg.svdvals(self._function.jacobian(origin.unsqueeze(0))[1][0])
        if not bool(s.min() > torch.finfo(s.dtype).eps ** 0.5 * s.max()):
            raise ValueError(
                f"transform: its Jacobian at {origin.tolist()} loses rank; expected rank {self.dim}. Take "
                f"another origin or map."
            )

    def _at(self, z: Tensor) -> Tensor:
        return self.transform(z)


@register_geometry(EmbeddedManifold)
class EmbeddedGeometry(SubmanifoldGeometry):
    r"""Geometry of an image: frames from a QR decomposition of :math:`J_f`, steps by Newton's method in the
    chart.

    The projected step solves :math:`T_p^\top\big(f(z) - p - u\big) = 0` for :math:`z`; :meth:`project` is
    ``f(inv(x))``.

    >>> from pyro_manifold.transforms import Pad
    >>> EmbeddedGeometry(EmbeddedManifold(Pad(1, 3))).project(torch.tensor([1.0, 2.0, 3.0]))
    tensor([1., 0., 0.])
    """

    manifold: EmbeddedManifold

    def depends(self) -> list[Any] | None:
        transform = self.manifold.transform
        return transform.depends() if hasattr(transform, "depends") else None

    def _bases(self, p: Tensor) -> tuple[Tensor, Tensor]:
        _, jac = self.manifold._function.jacobian(self.manifold.transform.inv(p))
        basis = householder_basis(jac)
        n = self.manifold.dim
        return basis[..., n:], basis[..., :n]

    def _retract(self, p: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        _, (flat, move) = self._flat(p, u)
        across = self.bases(p)[1].reshape(len(flat), flat.shape[1], -1).mT
        target, z = flat + move, self.manifold.transform.inv(flat)

        def step(z: Tensor) -> Tensor:
            x, jac = self.manifold._function.jacobian(z)
            return torch.linalg.solve_ex(across @ jac, across @ (x - target).unsqueeze(-1)).result.squeeze(-1)

        z, ok = newton(step, z, NEWTON)
        return self.manifold.transform(z), ok

    def _distance(self, x: Tensor) -> Tensor:
        return (self._project(x)[0] - x).norm(dim=-1)

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        q = self.manifold.transform(self.manifold.transform.inv(x))
        return q, q.isfinite().all(-1)
