r"""``cdf`` and ``icdf`` of distributions of the circle that are symmetric about their centre.

Angles are measured counterclockwise from the direction opposite to the centre, :math:`\mu - \pi`: there the cdf is
0, at the centre 1/2, and it rises to 1 after a whole turn (SciPy's ``vonmises`` with ``loc`` 0 does so too). Points
that differ by whole turns have the same cdf."""

import torch
from torch import Tensor

from ..ops.checks import check_all
from ..ops.circular import difference, plane_angle, short, wrap
from ..ops.circular_cdf import CircularFamily, circular_cdf, circular_icdf

__all__ = ["angle_cdf", "angle_icdf", "check_probability", "vector_cdf", "vector_icdf"]


def check_probability(q: Tensor) -> None:
    """:raises ValueError: for numbers outside [0, 1]."""
    remedy = "Give probabilities, such as torch.rand makes."
    check_all((q >= 0) & (q <= 1), "value", q, "a probability in [0, 1]", remedy)


def angle_cdf(family: CircularFamily, x: Tensor, loc: Tensor, parameter: Tensor) -> Tensor:
    """The cdf at the angles ``x``."""
    return circular_cdf(wrap(difference(x, loc)), parameter, family).to(x.dtype)


def angle_icdf(family: CircularFamily, q: Tensor, loc: Tensor, parameter: Tensor) -> Tensor:
    r"""The angle in :math:`[-\pi, \pi)` where the cdf is q."""
    offset = circular_icdf(q, parameter, family).to(q.dtype)
    return wrap(short(loc) + offset)


def vector_cdf(family: CircularFamily, x: Tensor, loc: Tensor, parameter: Tensor) -> Tensor:
    """The cdf at the unit vectors ``x``, ``batch + (2,)``."""
    y, mu = x.double(), loc.double()
    sine = mu[..., 0] * y[..., 1] - mu[..., 1] * y[..., 0]
    return circular_cdf(plane_angle((mu * y).sum(-1), sine), parameter, family).to(x.dtype)


def vector_icdf(family: CircularFamily, q: Tensor, loc: Tensor, parameter: Tensor) -> Tensor:
    """The unit vector where the cdf is q."""
    offset = circular_icdf(q, parameter, family).unsqueeze(-1)
    mu = loc.double()
    across = torch.stack([-mu[..., 1], mu[..., 0]], -1)
    return (offset.cos() * mu + offset.sin() * across).to(q.dtype)
