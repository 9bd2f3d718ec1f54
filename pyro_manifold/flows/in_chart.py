r"""Learned maps of a manifold onto itself, by way of a chart.

.. math::
    f = \phi_\mu \circ h \circ \phi_\mu^{-1}, \qquad
    \log|\det J_f(x)| = \log|\det d\phi_\mu(w)| + \log|\det J_h(v)| - \log|\det d\phi_\mu(v)|, \quad
    v = \phi_\mu^{-1}(x),\; w = h(v)

with J_f in orthonormal frames and :math:`\phi_\mu` the exponential map at :math:`\mu` or, on spheres and rotations,
:class:`~pyro_manifold.transforms.ExpChart`. Reference: Bose et al., *Latent variable modelling with
hyperbolic normalizing flows*, ICML 2020 (tangent coupling).
"""

from typing import Any

import geoopt
import torch
from torch import Tensor, nn
from torch.distributions import Transform, constraints

from ..constraints import check_point, on
from ..geometry import geometry
from ..ops.arguments import checked
from ..ops.checks import as_tensors
from ..transforms.base import Inverse
from ..transforms.cache import dependencies
from ..transforms.chain import Chain, as_map
from ..transforms.exp_chart import ExpChart
from ..transforms.layers import HoldsLayers

__all__ = ["InChart"]


class InChart(HoldsLayers):
    r"""A layer of vectors, applied to the tangent coordinates at ``loc``: a bijection of a manifold with a
    global chart (positive definite matrices, hyperbolic and flat spaces), of a sphere, SO(2) or SO(3), or of a
    product of these. On the last three the coordinates are those of
    :class:`~pyro_manifold.transforms.ExpChart`, which leaves out a set of measure 0.

    A layer with more event axes acts on fields of points: one of ``(C, dim)`` coordinates gives a map of C
    points at once, with ``independent(on(manifold), 1)`` as domain and the product of the Riemannian
    measures.

    :param geoopt.Manifold manifold: one of these.
    :param layer: a bijection of vectors of tangent coordinates, size ``dim``, or of fields of them, ours or
        any of torch and Pyro.
    :param Tensor loc: the base point :math:`\mu` of the chart, shape ``event``, or ``field + event``; a
        ``Parameter`` is learned. The origin if omitted.
    :raises ValueError: for another manifold, a layer that is no such bijection, or a ``loc``
        that is not on the manifold.

    >>> from pyro_manifold.flows import Coupling
    >>> f = InChart(geoopt.SymmetricPositiveDefinite(), Coupling(3, [0]))
    >>> x = torch.tensor([[2.0, 0.5], [0.5, 1.0]])
    >>> f(x).shape, torch.allclose(f.inv(f(x)), x, atol=1e-5)
    (torch.Size([2, 2]), True)
    """

    @checked
    def __init__(
        self, manifold: geoopt.Manifold, layer: Transform, loc: Tensor | None = None, *, cache_size: int = 0
    ) -> None:
        super().__init__(cache_size=cache_size)
        ExpChart(manifold)  # raises for a manifold without
        if not layer.bijective or layer.domain.event_dim != layer.codomain.event_dim:
            raise ValueError(
                f"layer: got {layer!r}; expected a bijection of vectors of tangent coordinates, or of fields "
                "of such vectors, that keeps their shape."
            )
        if loc is not None:
            learned = isinstance(loc, nn.Parameter)
            (point,) = as_tensors(loc=loc)
            check_point(manifold, "loc", point)
            loc = loc if learned else point
        self.manifold = manifold
        if isinstance(loc, nn.Parameter):
            self.loc: Tensor | None = loc
        else:
            self.register_buffer("loc", loc)
        self.hold([layer])
        axes = self.chain.rank - 1
        point_of = on(manifold)
        self.domain = self.codomain = constraints.independent(point_of, axes) if axes else point_of

    def depends(self) -> list[Any] | None:
        return dependencies([self.layers, self.loc, geometry(self.manifold).depends()])

    def _through_chart(self) -> Chain:
        chart = as_map(ExpChart(self.manifold, self.loc, validate_args=False), self.chain.rank)
        return Chain([Inverse(chart), self.chain, chart])

    @torch.no_grad()
    def initialise(self, y: Tensor) -> None:
        """Set the layer, where it has an ``initialise``, to the coordinates of points ``y``."""
        if hasattr(self.layers[0], "initialise"):
            chart = as_map(ExpChart(self.manifold, self.loc, validate_args=False), self.chain.rank)
            self.layers[0].initialise(chart.inv(y))

    def forward_and_log_volume(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._through_chart().forward_and_log_volume(x)

    def inverse_and_log_volume(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return self._through_chart().inverse_and_log_volume(y)

    def jvp(self, x: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
        """The value at ``x`` and the derivative along ``tangents``, shape ``batch + (k,) + event``, in
        ambient coordinates."""
        return self._through_chart().jvp(x, tangents)

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        return self._through_chart().forward_shape(shape)

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        return self._through_chart().inverse_shape(shape)

    def __repr__(self) -> str:
        return f"InChart({self.manifold.name}, {self.layers[0]!r})"
