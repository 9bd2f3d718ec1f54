r"""The density of a normal distribution with a full covariance, wrapped on a flat torus: a sum over a
lattice, of which few terms matter.

.. math:: \log \sum_{k\in\mathbb Z^d} \mathcal N(v + 2\pi k;\, 0, LL^\top), \qquad y = L^{-1}(v + 2\pi k)

L is lower triangular, so :math:`y_j` depends only on :math:`k_1, \dots, k_j`. Rounding each :math:`y_j` in
turn (Babai) gives one k and an upper bound :math:`\rho^2` on the smallest :math:`|y|^2`. All k with
:math:`|y|^2 \le \rho^2 + c^2` are then found coordinate by coordinate, where a branch is dropped when its
partial sum exceeds that bound (Fincke & Pohst, Math. Comp. 44, 1985). The omitted terms are below rounding
relative to the largest term, however far the point is from the centre. The cost is proportional to the number
of terms found, which for a narrow normal is one per point in any dimension. The dual sum, for wide normals,

.. math:: (2\pi)^{-d} \sum_{n\in\mathbb Z^d} e^{-|L^\top n|^2/2} \cos(n\cdot v)

is enumerated in the same way, since :math:`L^\top` with its coordinates in reverse order is lower triangular
too."""

import math

import torch
from torch import Tensor

from .checks import common_shape
from .windings import normal_reach

__all__ = ["log_dual_sum", "log_lattice_sum", "log_torus_normal"]

_TURN = 2 * math.pi
_EACH = 100  # terms for which there is room at every one of many points


def _nearest(v: Tensor, tril: Tensor) -> Tensor:
    """The squared length of y for the k found by successive rounding, or for k = 0 if that is shorter."""
    ys, zeros = v.new_zeros(v.shape), v.new_zeros(v.shape)
    for j in range(v.shape[-1]):
        r = v[:, j] - (tril[:, j, :j] * ys[:, :j]).sum(-1)
        ys[:, j] = (r - _TURN * (r / _TURN).round()) / tril[:, j, j]
        zeros[:, j] = (v[:, j] - (tril[:, j, :j] * zeros[:, :j]).sum(-1)) / tril[:, j, j]
    return torch.minimum(ys.square().sum(-1), zeros.square().sum(-1))


def _search(v: Tensor, tril: Tensor, radius: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """All k with ``|y|**2 <= radius``, shape ``(terms, d)``, and the row of v that each belongs to.

    :raises ValueError: for more than ``most`` terms, or 100 a point if that is more.
    """
    most = max(most, _EACH * len(v))
    row = torch.arange(len(v), device=v.device)
    ys = ks = v.new_zeros(len(v), 0)
    left = radius
    for j in range(v.shape[-1]):
        own = row if len(tril) > 1 else torch.zeros_like(row)
        r = v[row, j] - (tril[own, j, :j] * ys).sum(-1)
        scale = tril[own, j, j]
        reach = scale * left.sqrt()
        first = torch.ceil((-reach - r) / _TURN)
        count = (torch.floor((reach - r) / _TURN) - first + 1).clamp_min(0)
        terms = float(count.sum(dtype=torch.float64))
        if terms > most:
            raise ValueError(
                f"covariance: a full covariance of this size in {v.shape[-1]} dimensions needs at least "
                f"{terms:.1e} windings for {len(v)} points, expected at most {most}; give a diagonal scale "
                "(whose cost is linear in the dimension), a narrower one, or fewer points at a time."
            )
        count = count.long()
        start = count.cumsum(0) - count
        of = torch.repeat_interleave(torch.arange(len(row), device=v.device), count)
        k = first[of] + (torch.arange(len(of), device=v.device) - start[of])
        y = (r[of] + _TURN * k) / scale[of]
        row = row[of]
        ys = torch.cat([ys[of], y.unsqueeze(-1)], -1)
        ks = torch.cat([ks[of], k.unsqueeze(-1)], -1)
        left = (left[of] - y.square()).clamp_min(0)
    return ks, row


def log_lattice_sum(v: Tensor, tril: Tensor, most: int = 1_000_000) -> Tensor:
    """The logarithm of the sum, differentiable in both arguments.

    :param Tensor v: angles, ``batch + (d,)``; the result has shape ``batch``.
    :param Tensor tril: L, ``(d, d)`` or a batch of matrices that expands to ``batch + (d, d)``.
    :param int most: the largest number of terms, for all points together; 100 for each point if that is more.
    :raises ValueError: if more terms are needed.

    >>> log_lattice_sum(torch.zeros(1000), 0.1 * torch.eye(1000)) / 1000  # one term
    tensor(1.3836)
    """
    d = v.shape[-1]
    batch = v.shape[:-1]
    v = v.reshape(math.prod(batch), d)
    tril = tril.unsqueeze(0) if tril.dim() == 2 else tril.expand(batch + (d, d)).reshape(len(v), d, d)
    with torch.no_grad():
        ks, row = _search(v, tril, _nearest(v, tril) + normal_reach(v.dtype) ** 2, most)
    x = v[row] + _TURN * ks
    if len(tril) == 1:
        y = torch.linalg.solve_triangular(tril[0], x.mT, upper=False).mT
    else:
        y = torch.linalg.solve_triangular(tril[row], x.unsqueeze(-1), upper=False).squeeze(-1)
    terms = -0.5 * y.square().sum(-1)
    top = terms.detach().new_full((len(v),), -math.inf).scatter_reduce(0, row, terms.detach(), "amax")
    total = torch.zeros_like(top).index_add(0, row, (terms - top[row]).exp())
    log_peak = -0.5 * d * math.log(_TURN) - tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return (top + total.log() + log_peak).reshape(batch)


def log_dual_sum(v: Tensor, tril: Tensor, most: int = 1_000_000) -> Tensor:
    """The same logarithm from the dual sum, with the same arguments. It loses digits by cancellation where
    the density is far below that at v = 0.

    >>> log_dual_sum(torch.zeros(3), 50.0 * torch.eye(3)) + 3 * math.log(2 * math.pi)  # uniform
    tensor(0.)
    """
    d = v.shape[-1]
    batch = v.shape[:-1]
    shared = tril.dim() == 2
    tril = tril.unsqueeze(0) if shared else tril.expand(batch + (d, d)).reshape(math.prod(batch), d, d)
    v = v.reshape(math.prod(batch), d)
    with torch.no_grad():
        eye = torch.eye(d, dtype=v.dtype, device=v.device).expand_as(tril)
        inverse = torch.linalg.solve_triangular(tril.mT.flip(-1, -2), eye, upper=False)
        radius = tril.new_full((len(tril),), normal_reach(v.dtype) ** 2)
        ns, row = _search(tril.new_zeros(len(tril), d), _TURN * inverse, radius, most)
        ns = ns.flip(-1)
    if shared:
        decay = torch.exp(-0.5 * (ns @ tril[0]).square().sum(-1))
        total = (v @ ns.mT).cos() @ decay
    else:
        decay = torch.exp(-0.5 * (ns.unsqueeze(-2) @ tril[row]).squeeze(-2).square().sum(-1))
        total = v.new_zeros(len(v)).index_add(0, row, decay * (v[row] * ns).sum(-1).cos())
    return (total.log() - d * math.log(_TURN)).reshape(batch)


def log_torus_normal(v: Tensor, tril: Tensor) -> Tensor:
    """The same logarithm by the cheaper of the two sums for each point; the dual sum is used only where it
    keeps half of the digits. Arguments as for :func:`log_lattice_sum`.

    >>> log_torus_normal(torch.zeros(2), torch.stack([0.1 * torch.eye(2), 1e6 * torch.eye(2)]))
    tensor([ 2.7673, -3.6758])
    """
    d = v.shape[-1]
    batch = common_shape(v.shape[:-1], tril.shape[:-2])
    v = v.expand(batch + (d,)).reshape(math.prod(batch), d)
    shared = tril.dim() == 2
    tril = tril if shared else tril.expand(batch + (d, d)).reshape(len(v), d, d)
    log_det = tril.detach().diagonal(dim1=-2, dim2=-1).log().sum(-1)
    wide = (log_det > 0.5 * d * math.log(_TURN)).expand(len(v))
    rows = wide.nonzero().squeeze(-1)
    if not rows.numel():
        return log_lattice_sum(v, tril).reshape(batch)

    def of(x: Tensor) -> Tensor:
        return tril if shared else tril[x]

    dual = log_dual_sum(v[rows], of(rows))
    peak = log_dual_sum(torch.zeros_like(v[rows]), of(rows).detach())
    # false for NaN, the result where all digits have cancelled
    good = dual.detach() > peak + 0.25 * math.log(torch.finfo(v.dtype).eps)
    direct = wide.logical_not().index_fill(0, rows[~good], True).nonzero().squeeze(-1)
    order = torch.cat([rows[good], direct]).argsort()
    parts = [dual[good]] + ([log_lattice_sum(v[direct], of(direct))] if direct.numel() else [])
    return torch.cat(parts)[order].reshape(batch)
