r"""Glow for fields of points of a manifold: steps of actnorm, invertible 1 x 1 layers and couplings, at several scales.

.. math::
    \text{step} = \text{GroupAction} \circ \phi_\mu \circ
    \big(\text{ChannelMixing} \circ \text{ActNorm} \circ \text{FieldCoupling}\big) \circ \phi_\mu^{-1}

References: [1] Kingma and Dhariwal, *Glow*, NeurIPS 2018. [2] Zhen et al., *Flow-based generative models for learning
manifold to manifold mappings*, AAAI 2021.
"""

from collections.abc import Sequence
from typing import Any

import geoopt
import torch
from torch import Tensor
from torch.distributions import Transform

from ..constraints import check_point
from ..geometry import geometry
from ..ops.arguments import checked
from .actnorm import ActNorm
from .field_coupling import FieldCoupling
from .fields import FieldFlow
from .group_action import ChannelMixing, GroupAction
from .in_chart import InChart
from .multi_scale_field import latent_unit, scale_shapes

__all__ = ["glow_scales", "glow_step"]

_MIXED = 200  # the coordinates of a pixel are mixed with one another where they are not more than that


def glow_step(
    manifold: geoopt.Manifold, shape: Sequence[int], loc: Tensor, number: int, **coupling: Any
) -> list[Transform]:
    """One step at one scale, from latent to data: a coupling, actnorm and a mixing of channels in the chart at ``loc``,
    then the action of a group of isometries on each pixel, where the manifold has one.

    :param shape: (C, H, W).
    :param number: of the step: couplings change one half of the coordinates and the other in turn, then one half of
        the channels and the other.
    :param coupling: options of :class:`FieldCoupling`.
    """
    geo = geometry(manifold)
    event = check_point(manifold, "loc", loc)
    step: list[Transform] = [
        InChart(manifold, FieldFlow(chart_step(manifold, shape, loc, number, **coupling)), loc)
    ]
    if geo.acting_group is not None:
        step.append(GroupAction(manifold, shape[0], event))
    return step


def chart_step(
    manifold: geoopt.Manifold, shape: Sequence[int], loc: Tensor, number: int, **coupling: Any
) -> list[Transform]:
    """What a step does in the chart: a coupling, actnorm and a mixing of channels."""
    d = geometry(manifold).dim(check_point(manifold, "loc", loc))
    whole, unit = (*shape, d), latent_unit(manifold, d)
    coupling = {"unit": unit, **coupling}
    n = shape[0] * d
    layers: list[Transform] = []
    if n > 1:
        by_channel = shape[0] > 1 and (d == 1 or number % 4 >= 2)
        index = torch.arange(n).reshape(shape[0], d)
        half = index[number % 2 :: 2] if by_channel else index[:, number % 2 :: 2]
        layers.append(FieldCoupling(whole, half.flatten().tolist(), **coupling))
    layers.append(ActNorm(whole, spread=unit))
    if n <= _MIXED:
        layers.append(ChannelMixing(whole, coordinates=True))
    elif shape[0] > 1:
        layers.append(ChannelMixing(whole))
    return layers


def _in_one_chart(
    manifold: geoopt.Manifold, shape: Sequence[int], loc: Tensor, depth: int, **coupling: Any
) -> list[Transform]:
    """Steps whose charts cancel, since no action is between them."""
    steps = [layer for i in range(depth) for layer in chart_step(manifold, shape, loc, i, **coupling)]
    layers: list[Transform] = [InChart(manifold, FieldFlow(steps), loc)]
    if geometry(manifold).acting_group is not None:
        layers.append(GroupAction(manifold, shape[0], loc.shape))
    return layers


@checked(scales=1, depth=1)
def glow_scales(
    manifold: geoopt.Manifold,
    shape: Sequence[int],
    loc: Tensor,
    *,
    scales: int = 1,
    depth: int = 4,
    one_chart: bool = False,
    **coupling: Any,
) -> list[FieldFlow]:
    r"""The layers of a :class:`MultiScaleField`: at each scale ``depth`` steps of actnorm, invertible 1 x 1 layers and
    a coupling.

    :param geoopt.Manifold manifold: of a pixel, one that :class:`~pyro_manifold.transforms.ExpChart` covers.
    :param shape: (C, H, W).
    :param Tensor loc: base point of the charts.
    :param int scales: 1 for no halving of the field.
    :param int depth: steps at each scale.
    :param bool one_chart: one action of the group at each scale, behind the last step, in place of one behind each.
        The charts between the steps then cancel, :math:`\phi_\mu^{-1} \circ \phi_\mu`: one exponential map and one
        logarithm at each scale, in place of ``depth`` of both, which take much of the time on spheres.
    :param coupling: options of :class:`FieldCoupling`: ``kind``, ``hidden``, ``depth`` of its network as
        ``layers``, ``kernel``, ``bins``, ``bound``.
    :raises ValueError: for sides that cannot be halved as often.

    >>> scales = glow_scales(geoopt.SymmetricPositiveDefinite(), (1, 8, 8), torch.eye(3), scales=3, depth=2)
    >>> [len(flow.layers) for flow in scales]
    [4, 4, 4]
    """
    if "layers" in coupling:
        coupling["depth"] = coupling.pop("layers")
    flows = []
    for size in scale_shapes(shape, scales):
        if one_chart:
            layers = _in_one_chart(manifold, size, loc, depth, **coupling)
        else:
            layers = [layer for i in range(depth) for layer in glow_step(manifold, size, loc, i, **coupling)]
        flows.append(FieldFlow(layers).to(loc))
    return flows
