r"""Maximum likelihood for the wrapped Cauchy distribution.

.. math:: \sum_i w_i\,\frac{z_i - \psi}{1 - \bar\psi z_i} = 0, \qquad \psi = \rho e^{i\mu}, \quad z = e^{ix}

The left side is the mean of the data after the Möbius map that takes :math:`\psi` to 0; each step moves
:math:`\psi` to where that map takes this mean from. Reference: Kent & Tyler, J. Appl. Stat. 15 (1988); McCullagh,
Biometrika 83 (1996).
"""

import torch
from torch import Tensor

from .sample import Sample

__all__ = ["wrapped_cauchy"]

_STEPS = 1000


def _check_heaviest(s: Sample) -> None:
    """
    :raises ValueError: if one angle has half of the weight, so that the likelihood has no maximum.
    """
    z = torch.polar(torch.ones_like(s.points), s.points)
    order = z.angle().argsort(0)
    angle, share = z.angle().gather(0, order), s.shares.gather(0, order)
    new = torch.cat([torch.ones_like(angle[:1]), (angle.diff(dim=0) > 8 * s.rounding).to(angle)])
    group = new.cumsum(0).long() - 1
    total = torch.zeros_like(share).scatter_add_(0, group, share)
    first, last = z.angle().amin(0), z.angle().amax(0)
    wraps = (last - first) > 2 * torch.pi - 8 * s.rounding
    heaviest = torch.maximum(
        total.amax(0), torch.where(wraps, total[0] + total.gather(0, group[-1:])[0], 0.0)
    )
    if bool((heaviest >= 0.5 - 1e-12).any()):
        raise ValueError(
            f"x: one angle has {float(heaviest.max()):.3g} of the weight; with half or more the likelihood of a "
            "wrapped Cauchy distribution has no maximum (its concentration tends to 1), expected less. Give "
            "more data, or fit VonMisesFisher."
        )


def wrapped_cauchy(s: Sample) -> tuple[Tensor, Tensor]:
    """``loc`` (B,) and ``concentration`` (B,).

    :raises ValueError: see :meth:`WrappedCauchy.fit`.
    """
    _check_heaviest(s)
    z = torch.polar(torch.ones_like(s.points), s.points)
    psi = 0.9 * (s.shares * z).sum(0)
    for _ in range(_STEPS):
        u = (s.shares * (z - psi) / (1 - psi.conj() * z)).sum(0)
        psi = (psi + u) / (1 + psi.conj() * u)
        if bool((u.abs() < 1e-15).all()):
            break
    return psi.angle(), psi.abs()
