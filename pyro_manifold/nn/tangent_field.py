r"""Learned vector fields on any manifold, which depend on time and, if wanted, on a context.

.. math::
    v(t, x) = P_x\,n(\phi(x), t, c), \qquad v(t, x) = \sum_i n_i(\phi(x), t, c)\,E_i(x), \qquad
    v(t, x) = \sum_k n_k(\phi(x), t, c)\,K_k(x)

n is a network of coordinates :math:`\phi(x)` that are smooth on the whole manifold. Its values are projected on the
tangent space (spheres, rotations, subspaces), or are coordinates in an orthonormal frame that is smooth everywhere
(flat and hyperbolic spaces, positive definite matrices, the torus), or the weights of generators of isometries
:math:`K_k`, so that :math:`\operatorname{div} v = \sum_k K_k \cdot \nabla n_k` has no term without a derivative of n.
"""

import copy
from collections.abc import Sequence
from typing import Any

import geoopt
import torch
from torch import Tensor, nn

from ..geometry import Geometry, geometry
from ..ops.arguments import checked
from ..ops.precision import FullPrecision
from ..transforms.jvp import forward_mode_jvp
from .mlp import MLP

__all__ = ["KillingField", "TangentField"]


class TangentField(FullPrecision, nn.Module):
    r"""A network whose values are tangent vectors, :math:`v(t, x) \in T_xM`, zero when it is new.

    .. math:: v(t, x) = P_x\,n(\phi(x), t, c) \quad\text{or}\quad \sum_i n_i(\phi(x), t, c)\,E_i(x)

    Which of the two, the geometry decides, for each factor of a product: the frame where it is smooth on all of the
    manifold. :math:`\phi(x)` are the coordinates of an isometric embedding in flat space, where one is known, else
    those of the global chart.

    :param geoopt.Manifold manifold: M.
    :param event_shape: shape of a point, or its size.
    :param tuple hidden: units of the hidden layers.
    :param int context_dim: size of the context c; 0 for none.
    :raises ValueError: for a shape that is not that of a point, or sizes that are not positive.

    ``field(t, x, context)`` takes times t, a number or one for each point, points x, shape ``batch + event``, and
    contexts, shape ``batch + (context_dim,)``; its values are ambient vectors, as long in the Riemannian metric as the
    points move in unit time. A subclass may give ``forward`` values of its own; its derivatives are then those of
    autograd, unless it has its own ``jvp`` too. References: [1] Mathieu and Nickel, *Riemannian continuous normalizing
    flows*, NeurIPS 2020, sec. 4. [2] Chen and Lipman, *Flow matching on general geometries*, ICLR 2024, app. F.

    >>> field = TangentField(geoopt.Sphere(), 3)
    >>> field(0.5, torch.tensor([1.0, 0.0, 0.0]))
    tensor([0., 0., 0.], grad_fn=...)
    """

    accepts_context = True
    _exact = ("jvp",)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        if "forward" in vars(cls) and "jvp" not in vars(cls):
            cls.jvp = _jvp_of_forward  # type: ignore[assignment]
        super().__init_subclass__(**kwargs)

    @checked(context_dim=0)
    def __init__(
        self,
        manifold: geoopt.Manifold,
        event_shape: int | Sequence[int],
        hidden: tuple[int, ...] = (64, 64, 64),
        *,
        context_dim: int = 0,
    ) -> None:
        super().__init__()
        shape = torch.Size([event_shape] if isinstance(event_shape, int) else event_shape)
        geo = geometry(manifold)
        if len(shape) != geo.event_dim or geo.dim(shape) < 1:
            raise ValueError(
                f"event_shape: got {tuple(shape)}, expected the shape of one point of {manifold.name}, "
                f"{geo.event_dim} sizes of a manifold of dimension at least 1."
            )
        self.manifold, self.event_shape = manifold, shape
        self.context_dim, self.sizes = context_dim, tuple(hidden)
        origin = geo.base_point(shape)
        with torch.no_grad():
            self.net = MLP(
                self._coordinates(origin).shape[-1], self._outputs(geo, origin), hidden, 1 + context_dim
            )

    def with_context_dim(self, context_dim: int) -> "TangentField":
        """A copy whose network, drawn anew, has a context as further input."""
        new = copy.deepcopy(self)
        new.context_dim = context_dim
        like = self.net.last.weight
        new.net = MLP(self.net.in_dim, len(self.net.last.bias), self.sizes, 1 + context_dim).to(like)
        return new

    def extra_repr(self) -> str:
        return f"{self.manifold.name}, {tuple(self.event_shape)}"

    # --- what the network reads and gives -------------------------------------------------------------------
    def _coordinates(self, x: Tensor) -> Tensor:
        geo = geometry(self.manifold)
        parts = [_coordinates(g, p) for g, p in zip(geo.factors, geo.split(x), strict=True)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def _outputs(self, geo: Geometry, x: Tensor) -> int:
        """Number of outputs at a point x."""
        parts = zip(geo.factors, geo.split(x), strict=True)
        return sum(g.dim(p.shape) if _has_smooth_frame(g) else p.numel() for g, p in parts)

    def _vector(self, x: Tensor, raw: Tensor) -> Tensor:
        """The tangent vector that the outputs of the network stand for."""
        geo = geometry(self.manifold)
        out, start = [], 0
        for g, p in zip(geo.factors, geo.split(x), strict=True):
            event = g.event_shape(p)
            size = g.dim(event) if _has_smooth_frame(g) else event.numel()
            part = raw[..., start : start + size]
            start += size
            if _has_smooth_frame(g):
                out.append(g.to_tangent(p, part))
            else:
                out.append(g.project_tangent(p, part.reshape(part.shape[:-1] + event)))
        return geo.pack(out)

    def _context(self, t: Tensor | float, like: Tensor, context: Tensor | None) -> Tensor:
        """What the network reads besides the coordinates: the time and the context."""
        if (context is None) != (self.context_dim == 0) or (
            context is not None and context.shape[-1:] != (self.context_dim,)
        ):
            seen = "none" if context is None else f"shape {tuple(context.shape)}"
            wanted = f"size {self.context_dim} on the last axis" if self.context_dim else "none"
            raise ValueError(f"context: got {seen}; expected {wanted}, as context_dim says.")
        time = torch.as_tensor(t, dtype=like.dtype, device=like.device).unsqueeze(-1)
        if context is None:
            return time
        batch = torch.broadcast_shapes(time.shape[:-1], context.shape[:-1])
        return torch.cat([time.expand(batch + (1,)), context.expand(batch + context.shape[-1:])], -1)

    # --- the field ------------------------------------------------------------------------------------------
    def forward(self, t: Tensor | float, x: Tensor, context: Tensor | None = None) -> Tensor:
        y = self._coordinates(x)
        raw = self.net(y, self._context(t, y, context))
        return self._vector(x, raw)

    def jvp(
        self, t: Tensor | float, x: Tensor, tangents: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """v(t, x) and its derivatives along ``tangents`` at x, both of shape ``batch + (k,) + event``."""
        event_dim = len(self.event_shape)
        batch = x.shape[: x.dim() - event_dim]
        k = tangents.shape[tangents.dim() - event_dim - 1]
        tangents = tangents.expand(batch + (k,) + self.event_shape).contiguous()
        points = x.unsqueeze(-1 - event_dim).expand_as(tangents).contiguous()
        y = self._coordinates(x)
        if y is x:
            along = tangents
        else:
            along = torch.func.jvp(self._coordinates, (points,), (tangents,))[1]
        h, moved = self.net.hidden_jvp(y, along, self._context(t, y, context))
        raw, change = self.net.last(h), moved @ self.net.last.weight.mT
        each = raw.unsqueeze(-2).expand(change.shape).contiguous()
        return self._vector(x, raw), torch.func.jvp(self._vector, (points, each), (tangents, change))[1]


class KillingField(TangentField):
    r"""A combination of generators of isometries with weights that a network gives.

    .. math:: v(t, x) = \sum_k n_k(\phi(x), t, c)\,K_k(x), \qquad \operatorname{div} v = \sum_k K_k \cdot \nabla n_k

    The :math:`K_k` span every tangent space, so that every field is one of these; constant weights move all points by
    isometries, and change no volume. They are the rotations in the planes of two axes of a sphere, of subspaces and of
    frames, the frame of rotations, translations of flat space, of the torus and of hyperbolic space, and congruences of
    positive definite matrices. The arguments are those of :class:`TangentField`.

    :raises ValueError: for a manifold of which none are known.

    References: [1] Mathieu and Nickel, NeurIPS 2020, sec. 4. [2] Falorsi and Forre, *Neural ordinary differential
    equations on manifolds*, 2020, sec. 4.

    >>> field = KillingField(geoopt.Sphere(), 3)
    >>> _ = torch.nn.init.ones_(field.net.last.bias)  # turns everything about the axis (1, 1, 1)
    >>> field(0.0, torch.tensor([1.0, 0.0, 0.0]))
    tensor([ 0.,  1., -1.], grad_fn=...)
    """

    def _outputs(self, geo: Geometry, x: Tensor) -> int:
        fields = geo.killing_fields(x)
        if fields is None:
            raise ValueError(
                f"manifold: got {self.manifold.name}, of which no isometries are known; expected a sphere, a torus, "
                "rotations or another symmetric manifold. Use TangentField."
            )
        return fields.shape[0]

    def _vector(self, x: Tensor, raw: Tensor) -> Tensor:
        fields = geometry(self.manifold).killing_fields(x)
        assert fields is not None
        weights = raw.reshape(raw.shape + (1,) * len(self.event_shape))
        return (weights * fields).sum(-1 - len(self.event_shape))


def _jvp_of_forward(
    self: TangentField, t: Tensor | float, x: Tensor, tangents: Tensor, context: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Of a subclass with values of its own."""
    rank = len(self.event_shape)
    return forward_mode_jvp(lambda p: self(t, p, context), x, tangents, rank, rank)


def _has_smooth_frame(geo: Geometry) -> bool:
    return geo.has_chart or geo.is_flat


def _coordinates(geo: Geometry, x: Tensor) -> Tensor:
    """Vectors that are smooth functions of the point, on all of the manifold."""
    embedded = geo.ambient_coordinates(x)
    if embedded is not None:
        return embedded
    return geo.chart_inv(x) if geo.has_chart else x.flatten(-geo.event_dim)
