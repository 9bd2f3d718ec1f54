"""Log densities as textbooks write them, in plain torch: they lose digits or overflow at coinciding points, near poles, far
from the origin and at large concentrations. Normalisers of quadratic families are sums over fixed nodes.

References: Mardia & Jupp, Directional Statistics (2000), eq. 9.3.33 (Watson), 9.4.3 (Bingham), Kent, J. R. Stat. Soc. B 44
(1982); matrix Fisher: Lee, IEEE Trans. Autom. Control 63 (2018), eq. 14."""

import math

import numpy as np
import torch
from torch import Tensor

LOG_TURN = math.log(2 * math.pi)
NODES, WEIGHTS = (torch.from_numpy(t).float() for t in np.polynomial.legendre.leggauss(32))


def sphere(x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    r = (x @ loc).clamp(-1 + 1e-6, 1 - 1e-6).acos()
    turned = r + 2 * math.pi * torch.arange(-2.0, 3.0).unsqueeze(-1)
    terms = -0.5 * (turned / scale).square() + turned.abs().log() - r.sin().log()
    return torch.logsumexp(terms, 0) - 2 * scale.log() - LOG_TURN


def ball(x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    ratio = (x - loc).square().sum(-1) / ((1 - x.square().sum(-1)) * (1 - loc.square().sum(-1)))
    r = (1 + 2 * ratio).acosh().clamp_min(1e-6)
    return -0.5 * (r / scale).square() - (r.sinh() / r).log() - 2 * scale.log() - LOG_TURN


def hyperboloid(x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    r = (x[..., 0] * loc[0] - x[..., 1:] @ loc[1:]).clamp_min(1 + 1e-6).acosh()
    return -0.5 * (r / scale).square() - (r.sinh() / r).log() - 2 * scale.log() - LOG_TURN


def von_mises_fisher(x: Tensor, loc: Tensor, k: Tensor) -> Tensor:
    return k * (x @ loc - 1) + k.log() - torch.log1p(-(-2 * k).exp()) - LOG_TURN


def power_spherical(x: Tensor, loc: Tensor, k: Tensor) -> Tensor:
    constant = (k + 2) * math.log(2) + math.log(math.pi) + torch.lgamma(k + 1) - torch.lgamma(k + 2)
    return k * torch.log1p(x @ loc) - constant


def projected_normal(x: Tensor, loc: Tensor, k: Tensor) -> Tensor:
    a = k * (x @ loc)
    tail = (-0.5 * a.square()).exp() / math.sqrt(2 * math.pi)
    integral = a * tail + (1 + a.square()) * torch.special.ndtr(a)
    return integral.log() + 0.5 * (a.square() - k.square()) - LOG_TURN


def watson(x: Tensor, loc: Tensor, k: Tensor) -> Tensor:
    c = 2 * math.pi * (WEIGHTS * (k * NODES.square()).exp()).sum()
    return k * (x @ loc).square() - c.log()


def bingham(x: Tensor, a: Tensor) -> Tensor:
    low, middle, high = torch.linalg.eigvalsh(a)
    rest = 1 - NODES.square()
    even = (high * NODES.square() + (low + middle) / 2 * rest).exp()
    c = 2 * math.pi * (WEIGHTS * even * torch.special.i0((middle - low) / 2 * rest)).sum()
    return ((x @ a) * x).sum(-1) - c.log()


def kent(x: Tensor, frame: Tensor, k: Tensor, oval: Tensor) -> Tensor:
    y = x @ frame
    c = 2 * math.pi * (WEIGHTS * (k * NODES).exp() * torch.special.i0(oval * (1 - NODES.square()))).sum()
    return k * y[:, 0] + oval * (y[:, 1].square() - y[:, 2].square()) - c.log()


def fisher_bingham(x: Tensor, loc: Tensor, k: Tensor, a: Tensor) -> Tensor:
    turn = torch.arange(32) * (2 * math.pi / 32)
    across = (1 - NODES.square()).sqrt().unsqueeze(-1)
    grid = torch.stack([across * turn.cos(), across * turn.sin(), NODES.unsqueeze(-1).expand(32, 32)], -1)
    form = k * (grid @ loc) + ((grid @ a) * grid).sum(-1)
    c = (WEIGHTS.unsqueeze(-1) * form.exp()).sum() * (2 * math.pi / 32)
    return k * (x @ loc) + ((x @ a) * x).sum(-1) - c.log()


def matrix_fisher(x: Tensor, f: Tensor) -> Tensor:
    s = torch.linalg.svdvals(f) * torch.stack(
        [torch.ones(()), torch.ones(()), torch.linalg.det(f.detach()).sign()]
    )
    inner = torch.special.i0((s[0] - s[1]) * (1 - NODES) / 2) * torch.special.i0(
        (s[0] + s[1]) * (1 + NODES) / 2
    )
    c = 0.5 * (WEIGHTS * inner * (s[2] * NODES).exp()).sum()
    return (x * f).sum((-1, -2)) - c.log() - math.log(8 * math.pi**2)


def isotropic_gaussian(x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    cos = ((x * loc).sum((-1, -2)) - 1) / 2
    half = cos.clamp(-1 + 1e-6, 1 - 1e-6).acos() / 2
    k = torch.arange(12.0).unsqueeze(-1)
    series = (2 * k + 1) * (-0.5 * k * (k + 1) * scale.square()).exp() * ((2 * k + 1) * half).sin()
    return (series.sum(0) / half.sin()).log() - math.log(8 * math.pi**2)


def riemannian_ball(x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    ratio = (x - loc).square().sum(-1) / ((1 - x.square().sum(-1)) * (1 - loc.square().sum(-1)))
    r = (1 + 2 * ratio).acosh().clamp_min(1e-6)
    z = math.sqrt(math.pi / 2) * scale * (scale.square() / 2).exp() * torch.erf(scale / math.sqrt(2))
    return -0.5 * (r / scale).square() - z.log() - LOG_TURN


def affine_invariant(x: Tensor, loc: Tensor, scale: Tensor, log_z: Tensor) -> Tensor:
    factor = torch.linalg.cholesky(loc)
    half = torch.linalg.solve_triangular(factor, x, upper=False)
    values = torch.linalg.eigvalsh(torch.linalg.solve_triangular(factor, half.mT, upper=False))
    return -0.5 * values.log().square().sum(-1) / scale.square() - log_z
