r"""Simulated diffusion MRI of two crossing bundles of fibres: noisy tensors, and the orientation distribution functions
that they do not determine.

.. math::
    \frac{S(g)}{S_0} = w\,e^{-b\,g^TD_ag} + (1-w)\,e^{-b\,g^TD_bg}, \qquad
    D_a = \lambda_\perp I + (\lambda_\parallel - \lambda_\perp)\,aa^T, \qquad
    \psi = w\,\psi_{D_a} + (1-w)\,\psi_{D_b}

A mirror plane through the longest and the shortest axis of the fitted tensor leaves the tensor as it is and moves the
bundles: given the tensor of one voxel, a crossing and its mirror image are equally likely.
"""

import math
from typing import NamedTuple

import geoopt
import torch
from torch import Tensor

from ..geometry import SpecialOrthogonal, geometry
from ..ops.arguments import checked
from .odf import half_icosphere, odf_to_sphere, tensor_odf

__all__ = ["CrossingBundles", "crossing_bundles"]

_PARALLEL, _ACROSS = 1.7, 0.3  # diffusivities in um^2 / ms
_B = 1.0  # ms / um^2, that is 1000 s / mm^2


class CrossingBundles(NamedTuple):
    """Fields of voxels, one channel each, and the truth behind them.

    :ivar Tensor tensors: fitted to noisy signals, (n, 1, H, W, 3, 3), in um^2/ms.
    :ivar Tensor odfs: square roots of noisy probabilities of axes, points of a sphere, (n, 1, H, W, m).
    :ivar Tensor clean: the same without noise.
    :ivar Tensor mirrored: those of the mirror images, without noise.
    :ivar Tensor directions: of the two bundles, (n, 1, H, W, 2, 3).
    :ivar Tensor weights: w, (n, 1, H, W).
    :ivar Tensor axes: (m, 3).

    >>> crossing_bundles(2, size=1, frequency=2).axes.shape
    torch.Size([21, 3])
    """

    tensors: Tensor
    odfs: Tensor
    clean: Tensor
    mirrored: Tensor
    directions: Tensor
    weights: Tensor
    axes: Tensor


@checked(n=1, size=1, frequency=1, angle=0, noise=0, odf_noise=0, curvature=0, seed=0)
def crossing_bundles(
    n: int,
    *,
    size: int = 8,
    frequency: int = 3,
    angle: float = 60.0,
    noise: float = 0.03,
    odf_noise: float = 0.01,
    curvature: float = 0.5,
    seed: int = 0,
) -> CrossingBundles:
    r"""Fields of ``size`` x ``size`` voxels in which two curved bundles meet at a fixed angle.

    The plane of the bundles and the direction in it are uniform, the side on which b lies is one or the other with
    equal probability, and so is whether w is the same in the whole field, uniform between .2 and .8, or goes across it
    from one bundle to the other. The tensor of a voxel is fitted by weighted least squares to 46 signals, at b = 1000
    s/mm^2, with Rician noise; the ODF is that of the true bundles in closed form, with wrapped normal noise on the
    sphere, so that its density exists.

    :param int n: number of fields.
    :param int frequency: of :func:`half_icosphere`; 3 gives 46 axes, points of :math:`S^{45}`.
    :param float angle: between the bundles, in degrees.
    :param float noise: standard deviation of the signal's two channels, relative to :math:`S_0`.
    :param float odf_noise: standard deviation of each tangent coordinate of the ODF.
    :param float curvature: standard deviation of the turn of a bundle over half the field, in radians.
    :param int seed: of all draws.
    :raises ValueError: for sizes that are not positive.

    >>> bundles = crossing_bundles(2, size=4)
    >>> bundles.tensors.shape, bundles.odfs.shape
    (torch.Size([2, 1, 4, 4, 3, 3]), torch.Size([2, 1, 4, 4, 46]))
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        axes = half_icosphere(frequency, dtype=torch.float64)
        directions, weights = _bundles(n, size, math.radians(angle), curvature)
        tensors = _fitted(_signals(directions, weights, noise))
        clean = _odf(directions, weights, axes)
        mirrored = _odf(_mirrored(directions, weights), weights, axes)
        sphere = geometry(geoopt.Sphere())
        v = odf_noise * torch.randn(*clean.shape[:-1], clean.shape[-1] - 1, dtype=torch.float64)
        odfs = sphere.project(sphere.exp_frame(clean, v))
    parts = (tensors, odfs, clean, mirrored, directions, weights, axes)
    return CrossingBundles(*(t.to(torch.get_default_dtype()) for t in parts))


def _bundles(n: int, size: int, angle: float, curvature: float) -> tuple[Tensor, Tensor]:
    """Directions (n, 1, H, W, 2, 3) and weights (n, 1, H, W)."""
    grid = (torch.arange(size, dtype=torch.float64) - (size - 1) / 2) / max(1.0, (size - 1) / 2)
    place = torch.stack(torch.meshgrid(grid, grid, indexing="ij"), -1)  # in [-1, 1]^2
    way = (
        torch.rand(n, 1, 1, 2, dtype=torch.float64) * 2 * math.pi
    )  # along which a bundle bends, and w changes
    along = [(place * torch.stack([way[..., i].cos(), way[..., i].sin()], -1)).sum(-1) for i in range(2)]
    turn = curvature * torch.randn(n, 1, 1, dtype=torch.float64)
    first = turn * along[0]
    side = torch.where(torch.rand(n, 1, 1) < 0.5, -1.0, 1.0).double()
    second = first + side * angle
    plane = geometry(SpecialOrthogonal(3)).uniform_sample((n,), (3, 3), dtype=torch.float64)[:, None, None]
    both = torch.stack([first, second], -1)
    directions = (
        both.cos().unsqueeze(-1) * plane[..., None, :, 0] + both.sin().unsqueeze(-1) * plane[..., None, :, 1]
    )
    level = torch.special.logit(0.2 + 0.6 * torch.rand(n, 1, 1, dtype=torch.float64))
    slope = torch.where(torch.rand(n, 1, 1) < 0.5, 0.0, 4.0).double()
    return directions.unsqueeze(1), torch.sigmoid(level + slope * along[1]).unsqueeze(1)


def _tensors(directions: Tensor) -> Tensor:
    eye = torch.eye(3, dtype=directions.dtype)
    return _ACROSS * eye + (_PARALLEL - _ACROSS) * directions.unsqueeze(-1) * directions.unsqueeze(-2)


def _signals(directions: Tensor, weights: Tensor, noise: float) -> Tensor:
    g = half_icosphere(3, dtype=torch.float64)
    decay = torch.exp(-_B * torch.einsum("ki,...ij,kj->...k", g, _tensors(directions), g))  # (..., 2, k)
    w = torch.stack([weights, 1 - weights], -1)
    clean = (w.unsqueeze(-1) * decay).sum(-2)
    real, imaginary = (noise * torch.randn_like(clean) for _ in range(2))
    return ((clean + real).square() + imaginary.square()).sqrt()


def _fitted(signals: Tensor) -> Tensor:
    """Tensors by least squares of the logarithm, weighted by squared signals; eigenvalues below .05 um^2/ms are raised
    to that."""
    g = half_icosphere(3, dtype=torch.float64)
    i, j = torch.triu_indices(3, 3)
    design = -_B * g[:, i] * g[:, j] * torch.where(i == j, 1.0, 2.0).double()
    square = signals.square().unsqueeze(-1)
    normal, right = design.mT @ (square * design), design.mT @ (square * signals.log().unsqueeze(-1))
    d = torch.linalg.solve(normal, right).squeeze(-1)
    full = torch.zeros(*d.shape[:-1], 3, 3, dtype=d.dtype)
    full[..., i, j] = d
    full[..., j, i] = d
    values, vectors = torch.linalg.eigh(full)
    spd = (vectors * values.clamp_min(0.05).unsqueeze(-2)) @ vectors.mT
    return 0.5 * (spd + spd.mT)


def _odf(directions: Tensor, weights: Tensor, axes: Tensor) -> Tensor:
    a, b = (tensor_odf(_tensors(directions[..., k, :]), axes) for k in range(2))
    w = weights.unsqueeze(-1)
    return odf_to_sphere(w * a + (1 - w) * b, normalise=True)


def _mirrored(directions: Tensor, weights: Tensor) -> Tensor:
    """The bundles reflected at the plane of the longest and the shortest axis of the mean tensor."""
    w = torch.stack([weights, 1 - weights], -1)[..., None, None]
    middle = torch.linalg.eigh((w * _tensors(directions)).sum(-3)).eigenvectors[..., 1]
    along = (directions * middle.unsqueeze(-2)).sum(-1, keepdim=True)
    return directions - 2 * along * middle.unsqueeze(-2)
