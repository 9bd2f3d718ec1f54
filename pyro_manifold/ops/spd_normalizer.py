r"""The exact normaliser of the Riemannian normal distribution on positive definite n x n matrices.

In tangent coordinates at the centre (a symmetric matrix W with eigenvalues :math:`\lambda`) the density is
:math:`e^{-|W|^2/2\sigma^2}\prod_{i<j} \mathrm{sinhc}((\lambda_i-\lambda_j)/2)/Z`, and by de Bruijn's formula

.. math::
    Z = c_n\, n!\, (2\pi\sigma^2)^{n/2} e^{\sigma^2 n(n^2-1)/24}\, \mathrm{Pf}\, M, \qquad
    M_{jk} = \mathrm{erf}(\sigma(k-j)/2), \quad 0 \le j,k < n

(for odd n bordered by ones), with :math:`c_n = (2\pi)^{n(n+1)/4-n/2}\prod_j \Gamma(3/2)/\Gamma(1+j/2)`. M is
singular to rounding for small sigma (for n = 10 all digits are lost below 0.3). So log Pf M is interpolated
from values with 25 digits: a table that is computed when an n is first used (in 0.02 to 0.2 s for n <= 10, 2
s for n = 32) and is accurate to 1e-13 for every sigma > 0.

References: de Bruijn, J. Indian Math. Soc. 19 (1955); Santilli & Tierz, J. Stat. Mech. (2021),
arXiv:2011.13680 (for this Z); Said et al., IEEE Trans. Inf. Theory 63 (2017), eq. 37 (n = 2)."""

import math
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["log_normalizer", "log_orbit_constant", "normalizer_table"]

# the pieces of the table: up to 1 it is a function of sigma^2, then of log sigma; beyond 12, Pf M is 1 to
# rounding
_EDGES = (0.0, 1.0, 3.5, 12.0)


def _log_pfaffian(n: int, sigma: float) -> Any:
    """log Pf M. M is skew and Toeplitz, so it maps vectors that are symmetric under reversal to antisymmetric
    ones and vice versa. So Pf M is, up to sign, the determinant of one block of half the size, which is
    computed by elimination without pivoting. The working precision is doubled until 25 digits of the smallest
    pivot are correct."""
    import mpmath

    m, digits = n // 2, 50
    while True:
        with mpmath.workdps(digits):
            f = [mpmath.erf(mpmath.mpf(sigma) / 2 * k) for k in range(n)]
            one = [mpmath.mpf(1)] * (n % 2)  # the border
            rows = [
                [f[n - 1 - j - k] + (f[j - k] if j > k else -f[k - j]) for k in range(m)] + one
                for j in range(m)
            ]
            if n % 2:
                rows.append([2 * f[m - k] for k in range(m)] + one)
            pivots = []
            while rows:
                (pivot, *a), *rows = rows
                pivots.append(abs(pivot))
                rows = [
                    [x - c * y for x, y in zip(row, a, strict=True)]
                    for c, row in ((r[0] / pivot, r[1:]) for r in rows)
                ]
            if min(pivots) > mpmath.mpf(10) ** (25 - digits):
                return mpmath.fsum(mpmath.log(p) for p in pivots)
        digits *= 2


@lru_cache
def _coefficients(n: int) -> Tensor:
    """The Chebyshev coefficients of log Pf M - n(n-1)/2 log min(sigma, 1), one row for each piece."""
    import mpmath

    nodes = max(36, 2 * n)
    if n == 1:
        return torch.zeros(len(_EDGES) - 1, nodes, dtype=torch.float64)
    x = np.cos((np.arange(nodes) + 0.5) * (math.pi / nodes))
    rows = []
    for low, high in zip(_EDGES, _EDGES[1:], strict=False):
        sigmas = low * (high / low) ** ((x + 1) / 2) if low else np.sqrt((x + 1) / 2) * high
        pairs = [(s, _log_pfaffian(n, s)) for s in sigmas.tolist()]
        with mpmath.workdps(30):
            rows.append([float(y - mpmath.mpf(n * (n - 1)) / 2 * mpmath.log(min(s, 1.0))) for s, y in pairs])
    cos = np.cos(np.outer(np.arange(nodes), np.arange(nodes) + 0.5) * (math.pi / nodes))
    c = np.array(rows) @ cos.T * (2 / nodes)
    c[:, 0] /= 2
    return torch.from_numpy(c)


def normalizer_table(n: int, device: Any = None) -> Tensor:
    """The table that :func:`log_normalizer` needs for one n; it is computed once for each n.

    :raises ValueError: for n above 32, for which the table has not been checked.
    """
    if n > 32:
        raise ValueError(
            f"loc: got matrices of size {n}, expected at most 32, the largest size with a checked normaliser. "
            "Use WrappedNormal."
        )
    return _coefficients(n).to(device)


def log_normalizer(scale: Tensor, table: Tensor, n: int) -> Tensor:
    r"""The log of :math:`Z = \int e^{-d(X,\mu)^2/2\sigma^2} d\mathrm{vol}`, differentiable in :math:`\sigma`
    any number of times.

    :param scale: :math:`\sigma > 0`, any shape.
    :param table: the result of :func:`normalizer_table` for this n.

    >>> z = log_normalizer(torch.tensor(1e-3), normalizer_table(2), 2)  # flat: 3/2 log(2 pi sigma^2)
    >>> bool(torch.isclose(z, 1.5 * torch.tensor(2e-6 * torch.pi).log()))
    True
    """
    s = scale.double()
    _, first, second, end = _EDGES
    piece = (s > first).long() + (s > second)
    small = torch.where(piece == 0, s, 1.0)
    inside = torch.where(piece == 0, 1.0, s.clamp_max(end)).log()
    middle, width = math.log(second), math.log(end / second)  # the first edge is 1
    x = torch.where(piece == 2, 2 * (inside - middle) / width - 1, 2 * inside / middle - 1)
    x = torch.where(piece == 0, 2 * small.square() - 1, x)
    nodes = table.shape[-1]
    c = table.index_select(0, piece.reshape(-1)).reshape(s.shape + (nodes,))
    b1, b2 = torch.zeros_like(x), torch.zeros_like(x)
    for k in range(nodes - 1, 0, -1):
        b1, b2 = 2 * x * b1 - b2 + c[..., k], b1
    log_pfaffian = n * (n - 1) / 2 * small.log() + torch.where(s > end, 0.0, x * b1 - b2 + c[..., 0])
    const = log_orbit_constant(n) + math.lgamma(n + 1) + n / 2 * math.log(2 * math.pi)
    return (const + n * s.log() + s.square() * (n * (n * n - 1) / 24) + log_pfaffian).to(scale.dtype)


def log_orbit_constant(n: int) -> float:
    """The log of a constant that depends on n alone: the volume of the set of symmetric matrices with given
    ordered eigenvalues, divided by n! and by the Vandermonde determinant of the eigenvalues."""
    lgammas = sum(math.lgamma(1 + j / 2) - math.lgamma(1.5) for j in range(1, n + 1))
    return (n * (n + 1) / 4 - n / 2) * math.log(2 * math.pi) - lgammas
