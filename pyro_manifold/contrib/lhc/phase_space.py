r"""The 14-dimensional final state (photons a1, a2, jets j1, j2): its density without the matrix element, and
a map onto it.

.. math::
    b(y)\,d^{14}y = \frac{x_1u(x_1)\,x_2d(x_2) + x_1d(x_1)\,x_2u(x_2)}{x_1x_2\;2\hat s}\;
    g(k_T)\,\rho(m_{j1}^2)\rho(m_{j2}^2)B(m_{aa}^2)\;
    d^4j_1\,d^4j_2\,\frac{d^3a_1}{2E_1}\frac{d^3a_2}{2E_2}\;\frac2s

The total momentum :math:`P = (m_T\cosh Y, k_T, m_T\sinh Y)` fixes the partons:
:math:`x_{1,2} = (M/\sqrt s)e^{\pm Y}`, and :math:`p_{1,2}` is :math:`(m_T/2, k_T/2, \pm M/2)` boosted by
:math:`Y`: massless, with :math:`p_1 + p_2 = P` exactly. Because :math:`d^4P = (s/2)\,dx_1dx_2\,d^2k_T`,
nothing is integrated out. Five nuisances do not depend on theta:
    :math:`m_j \sim
\mathrm{Gamma}(4, 3\,\mathrm{GeV})` twice, :math:`k_T \sim N(0, (25\,\mathrm{GeV})^2 I_2)` and :math:`m_{aa}
\sim N(125, 2^2)` GeV. In the variables of :func:`final_state`

.. math::
    d^{14}y = \prod_{j}\tfrac12 p_T\,dp_T\,dy_j\,d\phi_j\,dm_j^2\;\cdot\;
    \tfrac12dy_h\;\tfrac18d\cos\vartheta\,d\varphi\;dm_{aa}^2\,d^2k_T.

The parton densities are a toy fit at the scale of the W mass. Cuts: jets p_T > 20 GeV, \|eta\| < 5,
separation > 0.4; photons p_T > 10 GeV, \|eta\| < 2.5; 115 < m_aa < 135 GeV (the reference's analysis cuts).
"""

import math

import torch
from torch import Tensor

from .matrix_element import dot

__all__ = [
    "ROOT_S",
    "final_state",
    "four_vectors",
    "inside_cuts",
    "log_base",
    "log_weight",
    "partons",
    "pdf",
    "pseudorapidity",
]

ROOT_S = 13_000.0
JET_SHAPE, JET_SCALE, KT_SCALE, HIGGS, WIDTH = 4.0, 3.0, 25.0, 125.0, 2.0
JET_PT, JET_ETA, JET_DISTANCE, PHOTON_PT, PHOTON_ETA, MASS_WINDOW = 20.0, 5.0, 0.4, 10.0, 2.5, (115.0, 135.0)


def four_vectors(y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """a1, a2, j1, j2 of shape (4, ...) from y of shape (..., 14)."""
    c = y.movedim(-1, 0).contiguous()
    a1, a2 = (torch.cat([a.square().sum(0, keepdim=True).sqrt(), a]) for a in (c[0:3], c[3:6]))
    return a1, a2, c[6:10], c[10:14]


def pseudorapidity(p: Tensor) -> Tensor:
    return torch.asinh(p[3] / torch.hypot(p[1], p[2]))


def pdf(x1: Tensor, x2: Tensor) -> Tensor:
    """x1 x2 [u(x1) d(x2) + d(x1) u(x2)]."""

    def flavours(x: Tensor) -> tuple[Tensor, Tensor]:
        sea, valence = 0.12 * x**-0.35 * (1 - x) ** 8, x**0.65 * (1 - x) ** 4.2
        return 3.8 * valence + sea, 2.2 * valence * (1 - x) + sea

    (u1, d1), (u2, d2) = flavours(x1), flavours(x2)
    return u1 * d2 + d1 * u2


def partons(total: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Incoming partons p1 (along +z), p2 and their momentum fractions x1, x2, of a final state of momentum
    ``total``."""
    e, x, y, z = total
    mt = ((e - z) * (e + z)).sqrt()
    mass = (mt.square() - x.square() - y.square()).clamp_min(0.0).sqrt()
    rise, half = (
        mass / mt,
        0.5,
    )  # boosts (mt/2, kt/2, +-mass/2) to rapidity Y, cosh Y = e / mt, sinh Y = z / mt
    p1 = torch.stack([half * (e + rise * z), half * x, half * y, half * (z + rise * e)])
    p2 = torch.stack([half * (e - rise * z), half * x, half * y, half * (z - rise * e)])
    return p1, p2, mass * (e + z) / (mt * ROOT_S), mass * (e - z) / (mt * ROOT_S)


def inside_cuts(a1: Tensor, a2: Tensor, j1: Tensor, j2: Tensor) -> Tensor:
    """Whether a final state passes the cuts and can be made by partons with x < 1. No order is asked for."""
    eta1, eta2 = pseudorapidity(j1), pseudorapidity(j2)
    turn = torch.atan2(j1[1] * j2[2] - j1[2] * j2[1], j1[1] * j2[1] + j1[2] * j2[2])
    ok = (eta1.abs() < JET_ETA) & (eta2.abs() < JET_ETA) & (torch.hypot(eta1 - eta2, turn) > JET_DISTANCE)
    for p, least in ((j1, JET_PT), (j2, JET_PT), (a1, PHOTON_PT), (a2, PHOTON_PT)):
        ok = ok & (torch.hypot(p[1], p[2]) > least)
    for a in (a1, a2):
        ok = ok & (pseudorapidity(a).abs() < PHOTON_ETA)
    square = dot(a1 + a2, a1 + a2)
    ok = ok & (square > MASS_WINDOW[0] ** 2) & (square < MASS_WINDOW[1] ** 2)
    total = a1 + a2 + j1 + j2
    _, _, x1, x2 = partons(total)
    return ok & (x1 > 0) & (x1 < 1) & (x2 > 0) & (x2 < 1) & (j1[0] > massive(j1)) & (j2[0] > massive(j2))


def massive(p: Tensor) -> Tensor:
    """Length of the momentum: a jet's energy must exceed it."""
    return p[1:].square().sum(0).sqrt()


def _log_nuisances(total: Tensor, a1: Tensor, a2: Tensor, j1: Tensor, j2: Tensor) -> Tensor:
    """log g(kT) rho(m1^2) rho(m2^2) B(maa^2), densities in the squared masses."""
    out = -0.5 * (total[1].square() + total[2].square()) / KT_SCALE**2 - math.log(2 * math.pi * KT_SCALE**2)
    for j in (j1, j2):
        m = ((j[0] - massive(j)) * (j[0] + massive(j))).sqrt()
        out = (
            out
            + (JET_SHAPE - 2) * m.log()
            - m / JET_SCALE
            - math.lgamma(JET_SHAPE)
            - JET_SHAPE * math.log(JET_SCALE)
        )
    m = dot(a1 + a2, a1 + a2).sqrt()
    out = out - 0.5 * ((m - HIGGS) / WIDTH).square() - m.log() - 0.5 * math.log(2 * math.pi * WIDTH**2)
    return out - 3 * math.log(2.0)  # dm^2 = 2 m dm, three times


def log_base(a1: Tensor, a2: Tensor, j1: Tensor, j2: Tensor) -> Tensor:
    """log b(y), -inf outside the cuts."""
    total = a1 + a2 + j1 + j2
    _, _, x1, x2 = partons(total)
    flux = (pdf(x1, x2) / (x1 * x2)).log() - (2 * dot(total, total)).log() + math.log(2 / ROOT_S**2)
    out = flux + _log_nuisances(total, a1, a2, j1, j2) - (4 * a1[0] * a2[0]).log()
    return torch.where(inside_cuts(a1, a2, j1, j2), out, -math.inf)


def final_state(hard: Tensor, masses: Tensor, kt: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four-vectors a1, a2, j1, j2 from the variables in which they are drawn.

    :param hard: (9, n): log pT of the two jets (GeV), their rapidities, the azimuth of the first and the
        angle to the second, the Higgs rapidity, and cosine and azimuth of a1 in the Higgs frame.
    :param masses: (3, n): jet masses and m_aa (GeV).
    :param kt: (2, n): transverse momentum of the whole state (GeV).
    """
    logpt1, logpt2, y1, y2, phi, turn, yh, cos, angle = hard

    def vector(px: Tensor, py: Tensor, y: Tensor, m: Tensor) -> Tensor:
        mt = (px.square() + py.square() + m.square()).sqrt()
        return torch.stack([mt * y.cosh(), px, py, mt * y.sinh()])

    pt1, pt2 = logpt1.exp(), logpt2.exp()
    j1 = vector(pt1 * phi.cos(), pt1 * phi.sin(), y1, masses[0])
    j2 = vector(pt2 * (phi + turn).cos(), pt2 * (phi + turn).sin(), y2, masses[1])
    h = vector(kt[0] - j1[1] - j2[1], kt[1] - j1[2] - j2[2], yh, masses[2])
    sin = (1 - cos.square()).sqrt()
    n = torch.stack([sin * angle.cos(), sin * angle.sin(), cos])
    along = (n * h[1:]).sum(0)
    e = 0.5 * (h[0] + along)  # of a1: m/2 boosted
    a1 = 0.5 * (masses[2] * n + h[1:] * (1 + along / (h[0] + masses[2])))
    return torch.cat([e[None], a1]), torch.cat([(h[0] - e)[None], h[1:] - a1]), j1, j2


def log_weight(hard: Tensor, a1: Tensor, a2: Tensor, j1: Tensor, j2: Tensor) -> Tensor:
    """log of b(y) |dy / d(hard, nuisances)| over the nuisances' density: what is left to integrate in
    ``hard``."""
    total = a1 + a2 + j1 + j2
    _, _, x1, x2 = partons(total)
    out = (pdf(x1, x2) / (x1 * x2)).log() - (2 * dot(total, total)).log() + math.log(2 / ROOT_S**2)
    return out + 2 * (hard[0] + hard[1]) - math.log(64.0)  # pT dpT = pT^2 dlog pT; 1/2 . 1/2 . 1/2 . 1/8
