r"""Flows of fields of points at several scales: half of the channels of a squeezed field are split off as latent
coordinates, and the flow goes on with the rest.

.. math::
    h_0 = f_0^{-1}(x), \qquad (h_l, z_l) = \mathrm{split}\big(f_l^{-1}(\mathrm{squeeze}(h_{l-1}))\big), \qquad
    z = \tfrac1\tau\big(\phi_\mu^{-1}(z_1), \dots, \phi_\mu^{-1}(h_L)\big)

with :math:`\phi_\mu` the chart of :class:`~pyro_manifold.transforms.ExpChart` at each pixel: z is a vector, of tangent
coordinates in units of :math:`\tau`. References: [1] Dinh et al., *Density estimation using Real NVP*, ICLR 2017, sec.
3.6. [2] Kingma and Dhariwal, *Glow*, NeurIPS 2018, sec. 3.
"""

import math
from collections.abc import Sequence
from typing import Any

import geoopt
import torch
from torch import Tensor
from torch.distributions import constraints

from ..constraints import check_point
from ..geometry import geometry
from ..ops.arguments import checked
from ..ops.checks import as_tensors
from ..transforms.cache import dependencies
from ..transforms.chain import as_map
from ..transforms.exp_chart import ExpChart
from ..transforms.layers import HoldsLayers
from .fields import FieldFlow, field_constraint, squeezed, unsqueezed

__all__ = ["MultiScaleField", "latent_unit", "scale_shapes"]


def latent_unit(manifold: geoopt.Manifold, dim: int) -> float:
    r""":math:`\tau = d^{-1/2}` on curved manifolds of dimension d, 1 on flat ones. Points whose coordinates are
    standard normal in this unit lie at a distance of about 1 from the base point: far from the end of a chart of a
    sphere, where a small rotation moves coordinates far, and from distances that single precision does not hold."""
    return 1.0 if geometry(manifold).is_flat else dim**-0.5


def scale_shapes(shape: Sequence[int], scales: int) -> list[tuple[int, int, int]]:
    """(C, H, W) of the field that each scale works on, the finest first: half of the channels of each squeezed one but
    the last are split off.

    :raises ValueError: for sides that cannot be halved as often.

    >>> scale_shapes((1, 8, 8), 3)
    [(1, 8, 8), (4, 4, 4), (8, 2, 2)]
    """
    c, h, w = shape
    if h % 2 ** (scales - 1) or w % 2 ** (scales - 1):
        raise ValueError(
            f"shape: got fields of {h} x {w} pixels for {scales} scales; expected sides that are multiples of "
            f"{2 ** (scales - 1)}, to be halved {scales - 1} times. Crop or pad the fields, or use fewer scales."
        )
    shapes = [(c, h, w)]
    for scale in range(1, scales):
        c = 4 * (c if scale == 1 else c // 2)
        h, w = h // 2, w // 2
        shapes.append((c, h, w))
    return shapes


class MultiScaleField(HoldsLayers):
    r"""From a vector of latent coordinates to a field of points, through a flow at each scale.

    .. math:: h_0 = f_0^{-1}(x), \qquad (h_l, z_l) = \mathrm{split}\big(f_l^{-1}(\mathrm{squeeze}(h_{l-1}))\big),
        \qquad z = \tfrac1\tau\big(\phi_\mu^{-1}(z_1), \dots, \phi_\mu^{-1}(h_L)\big)

    Between a density of the vector z, w.r.t. Lebesgue measure, and one of the field, w.r.t. the product of the
    Riemannian volumes of its pixels, stands the log volume of this map: that of the layers and of the charts. What Glow
    calls the prior of a part that is split off, given the part that stays, is here the last coupling before the split.

    The unit :math:`\tau` is :math:`d^{-1/2}` on curved manifolds, 1 on flat ones: points with normal z then lie about 1
    from the base point, far from the end of the chart.

    :param geoopt.Manifold manifold: of a pixel, one that :class:`~pyro_manifold.transforms.ExpChart` covers.
    :param shape: (C, H, W), the channels, height and width of the field x.
    :param layers: for each scale, the finest first, bijections of fields of points, from latent to data;
        :func:`glow_scales` makes them.
    :param Tensor loc: base point :math:`\mu` of the charts, shape ``event``.
    :raises ValueError: for sides that cannot be halved as often, layers that do not fit, or a ``loc`` off the manifold.

    >>> import geoopt
    >>> from pyro_manifold.flows import glow_scales
    >>> sphere, loc = geoopt.Sphere(), torch.tensor([1.0, 0.0, 0.0])
    >>> flow = MultiScaleField(sphere, (1, 4, 4), glow_scales(sphere, (1, 4, 4), loc, scales=2), loc)
    >>> flow(torch.zeros(32)).shape, flow.inv(flow(torch.ones(32))).shape
    (torch.Size([1, 4, 4, 3]), torch.Size([32]))
    """

    domain = constraints.real_vector

    @checked
    def __init__(
        self,
        manifold: geoopt.Manifold,
        shape: Sequence[int],
        layers: Sequence[Any],
        loc: Tensor,
        *,
        cache_size: int = 0,
    ) -> None:
        super().__init__(cache_size=cache_size)
        ExpChart(manifold)  # raises for a manifold that has none
        if len(shape) != 3 or not all(n >= 1 for n in shape) or not layers:
            raise ValueError(
                f"shape, layers: got {tuple(shape)} and {len(layers)} scales; expected (channels, height, width) and "
                "at least one scale."
            )
        (loc,) = as_tensors(loc=loc)
        event = check_point(manifold, "loc", loc)
        if loc.shape != event:
            raise ValueError(
                f"loc: got shape {tuple(loc.shape)}; expected one point, of shape {tuple(event)}."
            )
        self.manifold, self.event_shape = manifold, event
        self.pixel_dim = geometry(manifold).dim(event)
        self.unit = latent_unit(manifold, self.pixel_dim)
        self.domain_shapes = scale_shapes(shape, len(layers))
        self.codomain = field_constraint(manifold)
        self.register_buffer("loc", loc.detach().clone())
        self.hold([layer if isinstance(layer, FieldFlow) else FieldFlow(layer) for layer in layers])
        for i, (flow, size) in enumerate(zip(self.layers, self.domain_shapes, strict=True)):
            whole = torch.Size([*size, *event])
            if flow.domain.event_dim != len(whole) or flow.forward_shape(whole) != whole:
                raise ValueError(
                    f"layers: those of scale {i} do not take fields of shape {tuple(whole)} to such."
                )

    @property
    def latent_shapes(self) -> list[tuple[int, int, int, int]]:
        """(C, H, W, d) of the parts that the latent vector consists of, in order."""
        parts = []
        for i, (c, h, w) in enumerate(self.domain_shapes):
            last = i == len(self.domain_shapes) - 1
            if last or i > 0:
                parts.append((c if last else c - c // 2, h, w, self.pixel_dim))
        return parts

    @property
    def latent_dim(self) -> int:
        c, h, w = self.domain_shapes[0]
        return c * h * w * self.pixel_dim

    # --- layers that hold a context -------------------------------------------------------------------------
    def chain_of(self, layers: Any) -> Any:
        return None  # the scales do not follow one another as a chain

    def depends(self) -> list[Any] | None:
        return dependencies([self.layers, self.loc, geometry(self.manifold).depends()])

    def with_context(self, context: Tensor) -> Any:
        """The context is a field of H x W pixels as a vector; each scale gets it squeezed to its own size."""
        layers, h, w = [], *self.domain_shapes[0][1:]
        field = context.unflatten(-1, (-1, h, w))
        for i, flow in enumerate(self.layers):
            field = field if i == 0 else squeezed(field, 0)
            layers.append(flow.with_context(field.flatten(-3)) if flow.context_dim else flow)
        return self._sharing(context=context, layers=layers)

    # --- the map --------------------------------------------------------------------------------------------
    def _chart(self) -> Any:
        return as_map(ExpChart(self.manifold, self.loc, validate_args=False), 4)

    def inverse_and_log_volume(self, y: Tensor) -> tuple[Tensor, Tensor]:
        rank, chart = len(self.event_shape), self._chart()
        parts: list[Tensor] = []
        total: Any = 0.0
        for i, flow in enumerate(self.layers):
            y = y if i == 0 else squeezed(y, rank)
            y, log_volume = flow.inverse_and_log_volume(y)
            total = total + log_volume
            out = None
            if i == len(self.layers) - 1:
                out = y
            elif i > 0:
                c = self.domain_shapes[i][0] // 2
                y, out = y.split([c, self.domain_shapes[i][0] - c], -3 - rank)
            if out is not None:
                z, log_volume = chart.inverse_and_log_volume(out)
                total = total + log_volume
                parts.append(z.flatten(-4) / self.unit)
        total = total + self.latent_dim * math.log(self.unit)
        batch = parts[-1].shape[:-1]
        return torch.cat([z.expand(batch + z.shape[-1:]) for z in parts], -1), total

    def forward_and_log_volume(self, x: Tensor) -> tuple[Tensor, Tensor]:
        rank, chart = len(self.event_shape), self._chart()
        shapes = self.latent_shapes
        sizes = [torch.Size(s).numel() for s in shapes]
        coordinates = [
            self.unit * z.unflatten(-1, s) for z, s in zip(x.split(sizes, -1), shapes, strict=True)
        ]
        points = [chart.forward_and_log_volume(z) for z in coordinates]
        y, total = points[-1]
        total = (
            total + sum(log_volume for _, log_volume in points[:-1]) + self.latent_dim * math.log(self.unit)
        )
        for i in reversed(range(len(self.layers))):
            if 0 < i < len(self.layers) - 1:
                out = points[i - 1][0]
                first = y.dim() - rank - 3
                batch = torch.broadcast_shapes(y.shape[:first], out.shape[: out.dim() - rank - 3])
                y = torch.cat(
                    [y.expand(batch + y.shape[first:]), out.expand(batch + out.shape[-3 - rank :])], -3 - rank
                )
            y, log_volume = self.layers[i].forward_and_log_volume(y)
            total = total + log_volume
            y = unsqueezed(y, rank) if i > 0 else y
        return y, total

    @torch.no_grad()
    def initialise(self, y: Tensor) -> None:
        """Set layers that have an ``initialise`` to a batch of fields ``y``, the finest scale first."""
        self.check_input(y, self.inverse_shape)
        rank = len(self.event_shape)
        for i, flow in enumerate(self.layers):
            y = y if i == 0 else squeezed(y, rank)
            flow.initialise(y)
            y = flow.inv(y)
            if 0 < i < len(self.layers) - 1:
                y = y.narrow(-3 - rank, 0, self.domain_shapes[i][0] // 2)

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        batch = self._resize(shape, self.latent_dim, 1)[:-1]
        return torch.Size([*batch, *self.domain_shapes[0], *self.event_shape])

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        field = torch.Size([*self.domain_shapes[0], *self.event_shape])
        if torch.Size(shape[len(shape) - len(field) :]) != field or len(shape) < len(field):
            raise ValueError(
                f"value: got shape {tuple(shape)}; expected fields of shape {tuple(field)}, (channels, height, width) "
                "+ event, on the last axes."
            )
        return torch.Size([*shape[: len(shape) - len(field)], self.latent_dim])

    def __repr__(self) -> str:
        return f"MultiScaleField({self.manifold.name}, {self.domain_shapes[0]}, scales={len(self.layers)})"
