r"""Orientation distribution functions (ODFs) of water diffusion: probabilities of m axes, and the points of a sphere
that their square roots are.

.. math::
    p_k = \frac{\psi(u_k)}{\sum_l \psi(u_l)}, \qquad \psi_D(u) = \frac{(u^T D^{-1} u)^{-3/2}}{4\pi\sqrt{\det D}}, \qquad
    x = (\sqrt{p_1}, \dots, \sqrt{p_m}) \in S^{m-1}

An axis stands for two opposite directions. The square root of an ODF at 2m directions is a point of
:math:`S^{2m-1}` that lies on the great subsphere :math:`x(u) = x(-u)`; the m axes are that subsphere, isometrically:
all distances are the same, and a density exists. References: Aganj et al., Magn. Reson. Med. 64 (2010), eq. 4 (ODF with
the solid angle); Srivastava et al., CVPR 2007 (square roots).
"""

import math

import geoopt
import torch
from torch import Tensor

from ..constraints import check_point
from ..ops.arguments import checked
from ..ops.checks import check_all
from ..ops.icosphere import icosphere

__all__ = ["half_icosphere", "odf_peaks", "odf_to_sphere", "sphere_to_odf", "tensor_odf"]

_RING = 6  # neighbours that a peak is higher than
_NEIGHBOURS = 9  # axes to which a quadratic is fitted, besides the highest


@checked(frequency=1)
def half_icosphere(frequency: int, *, dtype: torch.dtype | None = None) -> Tensor:
    r"""One of each two opposite vertices of an icosahedron whose edges are divided into f parts: :math:`5f^2+1` unit
    vectors, about evenly spread.

    :param int frequency: f; 2, 3, 4 and 6 give 21, 46, 81 and 181 axes.

    >>> half_icosphere(2).shape
    torch.Size([21, 3])
    """
    v = icosphere(frequency)[0]
    size = torch.tensor([1.0, 1e-3, 1e-6], dtype=torch.float64)  # orders vertices by z, then y, then x
    upper = (v.flip(-1).mul(1e8).round() * 1e-8 * size).sum(-1) > 0
    return v[upper].to(torch.get_default_dtype() if dtype is None else dtype)


@checked
def tensor_odf(tensors: Tensor, axes: Tensor) -> Tensor:
    r"""Probabilities of axes under diffusion tensors, in closed form, :math:`p_k \propto (u_k^T D^{-1} u_k)^{-3/2}`.

    :param Tensor tensors: D, symmetric and positive definite, shape ``batch + (3, 3)``.
    :param Tensor axes: unit vectors u, shape ``(m, 3)``.
    :return: shape ``batch + (m,)``, of sum 1.
    :raises ValueError: for matrices that are not symmetric positive definite, or axes that are no unit vectors.

    >>> tensor_odf(torch.diag(torch.tensor([4.0, 1.0, 1.0])), torch.eye(3))  # 8 : 1 : 1
    tensor([0.8000, 0.1000, 0.1000])
    """
    _check_axes(axes)
    check_point(geoopt.SymmetricPositiveDefinite(), "tensors", tensors)
    quadratic = (axes * torch.linalg.solve(tensors, axes.mT).mT).sum(-1)
    values = (quadratic / quadratic.amin(-1, keepdim=True)) ** -1.5
    return values / values.sum(-1, keepdim=True)


def _check_axes(axes: Tensor) -> None:
    if axes.dim() != 2 or axes.shape[-1] != 3 or not len(axes):
        raise ValueError(f"axes: got shape {tuple(axes.shape)}; expected unit vectors, shape (m, 3).")
    eps = torch.finfo(axes.dtype).eps ** 0.5
    check_all(
        (axes.norm(dim=-1) - 1).abs() <= eps, "axes", axes, "unit vectors", "Divide them by their lengths."
    )


@checked(atol=0)
def odf_to_sphere(odf: Tensor, *, normalise: bool = False, atol: float = 1e-4) -> Tensor:
    r"""The square roots of probabilities of axes, points of :math:`S^{m-1}`.

    :param Tensor odf: values of m axes, not negative, shape ``batch + (m,)``.
    :param bool normalise: take values below 0 as 0 and divide by the sum, as for an ODF in any units; else values must
        be probabilities already.
    :param float atol: of their sum.
    :raises ValueError: for values that are not finite, are negative, do not add up to 1, or, where they are
        normalised, are nowhere positive.

    >>> odf_to_sphere(torch.tensor([3.0, 1.0]), normalise=True)
    tensor([0.8660, 0.5000])
    """
    check_all(odf.isfinite().all(-1), "odf", odf, "finite values", "Mask out voxels without signal.")
    if normalise:
        odf = odf.clamp_min(0)
        positive = odf.amax(-1) > 0
        check_all(positive, "odf", odf, "values of which one is positive", "Mask out voxels without signal.")
        odf = odf / odf.amax(-1, keepdim=True)
        return (odf / odf.sum(-1, keepdim=True)).sqrt()
    check_all(
        (odf >= 0).all(-1),
        "odf",
        odf,
        "probabilities, not negative",
        "Truncated series are negative somewhere: normalise=True takes these values as 0.",
    )
    total = odf.sum(-1)
    check_all(
        (total - 1).abs() <= atol,
        "odf",
        odf,
        "probabilities that add up to 1",
        "Divide them by their sum, or give normalise=True.",
    )
    return (odf / total.unsqueeze(-1)).sqrt()


@checked
def sphere_to_odf(x: Tensor) -> Tensor:
    """The probabilities of axes, squares of the coordinates of a point of a sphere.

    >>> sphere_to_odf(torch.tensor([0.6, -0.8]))
    tensor([0.3600, 0.6400])
    """
    return x.square() / x.square().sum(-1, keepdim=True)


@checked(number=1, threshold=0, separation=0)
def odf_peaks(
    odf: Tensor, axes: Tensor, *, number: int = 2, threshold: float = 0.4, separation: float = 25.0
) -> Tensor:
    """The directions of the highest local maxima, between axes by a quadratic fitted to the logarithm around.

    :param Tensor odf: values of m axes, shape ``batch + (m,)``.
    :param Tensor axes: unit vectors, shape ``(m, 3)``, about evenly spread.
    :param int number: of peaks.
    :param float threshold: least height of a peak above the lowest value, relative to the highest.
    :param float separation: least angle between two peaks, in degrees.
    :return: unit vectors, shape ``batch + (number, 3)``, the highest first; 0 where there are fewer.
    :raises ValueError: for shapes that do not fit, or values that are not finite.

    >>> axes = half_icosphere(4)
    >>> odf = tensor_odf(torch.diag(torch.tensor([1.7, 0.3, 0.3])), axes)
    >>> odf_peaks(odf, axes)[0].abs() > 0.999, odf_peaks(odf, axes)[1]
    (tensor([ True, False, False]), tensor([0., 0., 0.]))
    """
    _check_axes(axes)
    if odf.shape[-1:] != axes.shape[:1] or len(axes) <= _RING:
        raise ValueError(
            f"odf, axes: got shapes {tuple(odf.shape)} and {tuple(axes.shape)}; expected batch + (m,) and (m, 3), m at "
            f"least {_RING + 1}."
        )
    check_all(odf.isfinite().all(-1), "odf", odf, "finite values", "Mask out voxels without signal.")
    axes = axes.to(odf)
    cos = (axes @ axes.mT).abs()
    near = cos.topk(min(len(axes), 1 + _NEIGHBOURS)).indices  # (m, k), the axis itself first
    flat = odf.reshape(-1, odf.shape[-1])
    ring = flat[:, near[:, 1 : 1 + _RING]].amax(-1)
    height, top = flat - flat.amin(-1, keepdim=True), flat.amax(-1, keepdim=True)
    candidate = torch.where(
        (top > 0) & (flat > ring) & (height >= threshold * height.amax(-1, keepdim=True)), flat, -math.inf
    )
    apart = math.cos(math.radians(separation))
    refined = _refined(flat, axes, near)
    out = []
    for _ in range(number):
        value, index = candidate.max(-1)
        peak = refined[torch.arange(len(flat)), index]
        out.append(torch.where((value > -math.inf).unsqueeze(-1), peak, 0.0))
        candidate = torch.where((peak.unsqueeze(1) * axes).sum(-1).abs() > apart, -math.inf, candidate)
    return torch.stack(out, -2).reshape(*odf.shape[:-1], number, 3)


def _refined(flat: Tensor, axes: Tensor, near: Tensor) -> Tensor:
    """For each axis the maximum of the quadratic around it, a unit vector at most one spacing away; (n, m, 3)."""
    around = axes[near]
    around = around * torch.where((around * axes[:, None]).sum(-1, keepdim=True) < 0, -1.0, 1.0)
    helper = torch.eye(3, dtype=axes.dtype)[axes.abs().argmin(-1)]
    first = torch.nn.functional.normalize(torch.linalg.cross(axes, helper), dim=-1)
    second = torch.linalg.cross(axes, first)
    s, t = ((around * e[:, None]).sum(-1) for e in (first, second))  # (m, k)
    design = torch.stack([torch.ones_like(s), s, t, s * s, s * t, t * t], -1)
    values = torch.maximum(flat, 1e-3 * flat.amax(-1, keepdim=True)).log()[:, near]
    c = torch.einsum("mpk,nmk->nmp", torch.linalg.pinv(design), values)
    hessian = torch.stack([2 * c[..., 3], c[..., 4], c[..., 4], 2 * c[..., 5]], -1).unflatten(-1, (2, 2))
    det = torch.linalg.det(hessian)
    concave = (det > 0) & (c[..., 3] < 0)
    step = torch.linalg.solve(
        torch.where(concave[..., None, None], hessian, -torch.eye(2, dtype=axes.dtype)), -c[..., 1:3]
    )
    spacing = s.square().add(t.square()).sqrt()[:, 1].mean()
    step = step * (spacing / step.norm(dim=-1, keepdim=True).clamp_min(1e-12)).clamp_max(1.0)
    step = torch.where(concave.unsqueeze(-1), step, 0.0)
    return torch.nn.functional.normalize(axes + step[..., :1] * first + step[..., 1:] * second, dim=-1)
