r"""Divergence of a vector field with respect to the Riemannian volume, on any geometry.

.. math::
    \operatorname{div} v = \sum_i \langle E_i, \nabla_{E_i} v\rangle = \mathbb E_z\, \langle t_z, \nabla_{t_z}
    v\rangle, \qquad \langle t, \nabla_t v\rangle = \tfrac12 \frac{d}{ds}\Big|_0\, |t + s\,D_tv|^2_{x + sv},
    \qquad t_z = \sum_i z_i E_i,\ \mathbb E\,zz^T = I

with :math:`E_i` an orthonormal frame at x and :math:`D_tv` the plain derivative of v, in ambient coordinates,
along t. The rate at which the flow of v stretches t needs neither a connection nor a derivative of the frame, only
the inner product. Where that is the same at all points (spheres, rotations, flat space) it is :math:`\langle t, D_tv
\rangle`. Reference: Lee, *Introduction to Riemannian manifolds* (2018), prop. 5.36 and prob. 2-21 (the Lie
derivative of the metric).
"""

import torch
from torch import Tensor

from ..geometry import Geometry

__all__ = ["divergence", "probe", "stretching"]


def stretching(geo: Geometry, x: Tensor, v: Tensor, tangents: Tensor, moved: Tensor) -> Tensor:
    r""":math:`\langle t, \nabla_t v\rangle` for each of the tangents, shape ``batch + (k,)``.

    :param Tensor v: the field at x.
    :param Tensor tangents: vectors t at x, shape ``batch + (k,) + event``.
    :param Tensor moved: derivatives of the field along them, of the same shape.
    """
    axis = -1 - geo.event_dim
    points = x.unsqueeze(axis).expand_as(tangents)
    if geo.constant_inner:
        return geo.inner(points, tangents, moved)
    speeds = v.unsqueeze(axis).expand_as(tangents)
    # torch's jvp takes no expanded tensors
    at = points.contiguous(), tangents.contiguous()
    along = speeds.contiguous(), moved.contiguous()
    return 0.5 * torch.func.jvp(lambda p, u: geo.inner(p, u, u), at, along)[1]


def divergence(geo: Geometry, x: Tensor, v: Tensor, tangents: Tensor, moved: Tensor) -> Tensor:
    """Sum over an orthonormal frame, or over probes that have been divided by the root of their number."""
    return stretching(geo, x, v, tangents, moved).sum(-1)


def probe(geo: Geometry, x: Tensor, noise: Tensor) -> Tensor:
    r"""Tangent vectors :math:`t_z` at x, a smooth function of x, shape ``batch + (k,) + event``.

    :param Tensor noise: independent numbers of mean 0 and variance 1, of the same shape.
    """
    parts = zip(geo.factors, geo.split(x), geo.split(noise), strict=True)
    out = []
    for g, p, n in parts:
        own = p.unsqueeze(-1 - g.event_dim).expand_as(n)
        if g.constant_inner and not g.is_flat:  # |t|^2 is a multiple of the ambient one
            t = g.project_tangent(own, n)
            square = t.flatten(-g.event_dim).square().sum(-1)
            none = square == 0  # noise along the normal: the root has no gradient at 0
            ratio = torch.where(none, 1.0, square) / torch.where(none, 1.0, g.inner(own, t, t))
            out.append(t * ratio.sqrt().reshape(ratio.shape + (1,) * g.event_dim))
        else:  # the frame is smooth where there is a global chart
            dim = g.dim(g.event_shape(p))
            out.append(g.to_tangent(own, n.flatten(-g.event_dim)[..., :dim]))
    return geo.pack(out)
