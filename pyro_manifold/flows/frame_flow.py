r"""Flows of orthonormal frames, rotations of any dimension among them, by flows of single directions.

.. math::
    c = xa \in S^{n-1}, \qquad f(x) = T_{c \to g(c)}\,x, \qquad \log|\det J_f(x)| = \log|\det J_g(c)|

x has orthonormal columns, a is a fixed unit vector, g a flow of the sphere, and :math:`T_{c\to c'}` the rotation
that takes c to c' and leaves alone what is orthogonal to both. f takes the frames over c, those with xa = c, to the
frames over g(c) by an isometry, and the measure of frames is invariant under rotations from the left: what changes
volume is g alone. Layers with different a, one after the other, mix all columns.
"""

from collections.abc import Sequence
from typing import Any

import geoopt
import torch
from torch import Tensor

from ..constraints import on
from ..geometry import geometry
from ..ops.arguments import checked
from ..transforms.layers import HoldsLayers, LayerFlow
from .sphere_flow import SphereFlow

__all__ = ["DirectionLift", "FrameFlow"]


def _frames(manifold: geoopt.Manifold, event_shape: Sequence[int]) -> torch.Size:
    """:raises ValueError: unless points of the manifold with this shape are orthonormal frames."""
    shape = torch.Size(event_shape)
    try:
        geo = geometry(manifold)
        x = geo.base_point(shape)
        fits = (
            geo.event_dim == 2
            and geo.has_finite_volume
            and bool(((x.mT @ x - torch.eye(shape[-1])).abs() < 1e-5).all())
        )
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"manifold, event_shape: got {manifold.name}, {tuple(shape)}; expected orthonormal frames, such as "
            "geoopt.CanonicalStiefel(), (5, 2), or SpecialOrthogonal(4), (4, 4)."
        )
    return shape


class DirectionLift(HoldsLayers):
    r"""One layer of a :class:`FrameFlow`: a flow of the sphere, applied to a combination of the columns, which
    takes the whole frame along.

    :param geoopt.Manifold manifold: Stiefel manifolds and rotations.
    :param Sequence[int] event_shape: shape (n, k) of a frame.
    :param layer: g, a bijection of :math:`S^{n-1}`.
    :param Tensor direction: a, shape ``(k,)``, of any length but 0; drawn at random if omitted.
    :raises ValueError: for a manifold of other points, a layer of other ones, or a zero direction.

    >>> layer = DirectionLift(geoopt.CanonicalStiefel(), (3, 2), SphereFlow(2, 1))
    >>> x = torch.eye(3)[:, :2]
    >>> torch.allclose(layer(x), x, atol=1e-5)
    True
    """

    direction: Tensor

    @checked
    def __init__(
        self,
        manifold: geoopt.Manifold,
        event_shape: Sequence[int],
        layer: Any,
        direction: Tensor | None = None,
        *,
        cache_size: int = 0,
    ) -> None:
        super().__init__(cache_size=cache_size)
        self.event_shape = n, k = _frames(manifold, event_shape)
        if not getattr(layer, "bijective", False) or getattr(layer, "dim", 0) != n:
            raise ValueError(
                f"layer: got {layer!r}; expected a bijection of the sphere of R^{n}, SphereFlow({n - 1})."
            )
        direction = torch.randn(k) if direction is None else direction.detach()
        if direction.shape != (k,) or not bool(direction.isfinite().all() & (direction != 0).any()):
            raise ValueError(f"direction: got {direction}; expected a vector of size {k} that is not zero.")
        self.manifold = manifold
        self.domain = self.codomain = on(manifold)
        self.register_buffer("direction", direction)
        self.hold([layer])

    def depends(self) -> list[Any] | None:
        inner = super().depends()
        return None if inner is None else [*inner, self.direction]

    def _column(self, x: Tensor) -> Tensor:
        c = x @ self.direction
        return c / torch.linalg.vector_norm(c, dim=-1, keepdim=True)

    def forward_and_log_volume(self, x: Tensor) -> tuple[Tensor, Tensor]:
        c = self._column(x)
        image, log_volume = self.chain.forward_and_log_volume(c)
        return _carried(x, c, image), log_volume

    def inverse_and_log_volume(self, y: Tensor) -> tuple[Tensor, Tensor]:
        image = self._column(y)
        c, log_volume = self.chain.inverse_and_log_volume(image)
        return _carried(y, image, c), log_volume

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        if torch.Size(shape[-2:]) != self.event_shape:
            raise ValueError(
                f"value: got shape {tuple(shape)}; expected {tuple(self.event_shape)} on the last axes."
            )
        return torch.Size(shape)

    inverse_shape = forward_shape


def _carried(x: Tensor, c: Tensor, image: Tensor) -> Tensor:
    """x, rotated by the smallest rotation that takes c to its image: two reflections, orthogonal to the last digit
    even where the image is next to -c."""
    middle = c + image
    middle = middle / torch.linalg.vector_norm(middle, dim=-1, keepdim=True)
    for v in (c, middle):
        x = x - 2 * v.unsqueeze(-1) * (v.unsqueeze(-2) @ x)
    return x


class FrameFlow(LayerFlow):
    r"""A flow of orthonormal frames: Stiefel manifolds with either metric, and rotations :math:`SO(n)`;
    :class:`DirectionLift` layers with random directions.

    For rotations of space :class:`RotationFlow` is more expressive at the same cost.

    :param geoopt.Manifold manifold: Stiefel manifolds and rotations.
    :param Sequence[int] event_shape: shape (n, k) of a frame.
    :param int depth: number of layers.
    :param options: those of :class:`CylindricalSpline`.
    :raises ValueError: for a manifold of other points, or sizes that are not positive.

    Volumes are those of the manifold's Riemannian measure. A new flow is the identity.

    >>> import pyro.distributions as dist, pyro_manifold.distributions as mdist
    >>> stiefel = geoopt.CanonicalStiefel()
    >>> flow = FrameFlow(stiefel, (4, 2), depth=3)
    >>> d = dist.TransformedDistribution(mdist.ManifoldUniform(stiefel, (4, 2)), [flow])
    >>> d.sample().shape
    torch.Size([4, 2])
    """

    @checked(depth=1)
    def __init__(
        self,
        manifold: geoopt.Manifold,
        event_shape: Sequence[int],
        depth: int = 8,
        *,
        cache_size: int = 0,
        **options: object,
    ) -> None:
        super().__init__(cache_size=cache_size)
        n = _frames(manifold, event_shape)[0]
        self.event_shape = torch.Size(event_shape)
        self.domain = self.codomain = on(manifold)
        self.hold(
            [
                DirectionLift(manifold, event_shape, SphereFlow(n - 1, 1, **options))  # type: ignore[arg-type]
                for _ in range(depth)
            ]
        )

    forward_shape = DirectionLift.forward_shape
    inverse_shape = DirectionLift.forward_shape

    def __repr__(self) -> str:
        return f"FrameFlow({tuple(self.event_shape)}, depth={len(self.layers)})"
