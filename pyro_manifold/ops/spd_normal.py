r"""The isotropic normal on positive definite n x n matrices: exact normaliser, and draws that are exact up to
n = 12.

In tangent coordinates at the centre (a symmetric matrix W with eigenvalues :math:`\lambda`) its density is
:math:`e^{-|W|^2/2\sigma^2}\prod_{i<j} \mathrm{sinhc}((\lambda_i-\lambda_j)/2)/Z`, and de Bruijn's formula
gives

.. math::
    Z = c_n\, n!\, (2\pi\sigma^2)^{n/2} e^{\sigma^2 n(n^2-1)/24}\, \mathrm{Pf}\, M, \qquad
    M_{jk} = \mathrm{erf}(\sigma(k-j)/2), \quad 0 \le j,k < n

(n odd: bordered by ones), :math:`c_n = (2\pi)^{n(n+1)/4-n/2}\prod_j \Gamma(3/2)/\Gamma(1+j/2)`. M is singular
to rounding for small sigma (n = 10: all digits are lost below 0.3), so log Pf M is interpolated from values
of 25 digits: a table that is made when an n is first used (0.02 to 0.2 s for n <= 10, 2 s for 32) and holds
for every sigma > 0 to 1e-13.

Where it accepts at least one proposal in 2000, draws are exact, by rejection from the better of two envelopes
for each sigma; both touch at a point that maximises their acceptance, which is known beforehand from Z:

* :math:`\log\mathrm{sinhc}\,x` is concave in :math:`x^2`, so its tangent there leaves a *Gaussian matrix* (no
  eigenvectors to draw) with a larger variance of the traceless part: acceptance near 1 for small sigma;
* :math:`\log\sinh` is concave, so its tangent plane at the mode leaves independent normal eigenvalues, kept
  when they come in order, and a Haar rotation: acceptance near 1 for large sigma.

The least acceptance over sigma is 0.89 (n = 2), 0.69 (3), 0.46 (4), 0.28 (5), 0.032 (8), 0.0056 (10), 0.0007
(12). Where it would be below 0.0005 (n > 12 and sigma near 1) eigenvalues come from
:mod:`~pyro_manifold.ops.spd_eigenvalue_hmc` instead.

References: de Bruijn, J. Indian Math. Soc. 19 (1955); Santilli & Tierz, J. Stat. Mech. (2021),
arXiv:2011.13680 (for this Z); Said et al., IEEE Trans. Inf. Theory 63 (2017), eq. 37 (n = 2).
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .linalg import sym_eigenvalues, sym_to_vec, vec_to_sym
from .quadrature import unexpand
from .rejection import redraw
from .signed_trig import log_sinhc
from .spd_eigenvalue_hmc import gap_coordinates, sample

__all__ = ["acceptance", "log_normalizer", "normalizer_table", "sample_tangent"]

_EDGES = (
    0.0,
    1.0,
    3.5,
    12.0,
)  # pieces of the table: in sigma^2 up to 1, then in log sigma; beyond 12, Pf M is 1 to rounding
_CHUNK = 1 << 18  # elements of a temporary
_LEAST = 5e-4  # below this acceptance draws come from Markov chains


def _log_pfaffian(n: int, sigma: float) -> Any:
    """log Pf M. M is skew and Toeplitz, so it maps vectors that are symmetric under reversal to antisymmetric
    ones and back: Pf M is, up to sign, the determinant of one block of half the size, found by elimination
    without pivoting. The working precision is doubled until the least pivot has 25 digits to spare."""
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
    """Chebyshev coefficients of log Pf M - n(n-1)/2 log min(sigma, 1), one row for each piece."""
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
    """What :func:`log_normalizer` needs for one n; made once for each n, then kept.

    :raises ValueError: for n above 32, for which nothing here has been checked.
    """
    if n > 32:
        raise ValueError(
            f"loc: got matrices of size {n}; the normaliser's table is for n <= 32. Use WrappedNormal."
        )
    return _coefficients(n).to(device)


def log_normalizer(scale: Tensor, table: Tensor, n: int) -> Tensor:
    r"""Log of :math:`Z = \int e^{-d(X,\mu)^2/2\sigma^2} d\mathrm{vol}`, differentiable in :math:`\sigma` to
    any order.

    :param scale: :math:`\sigma > 0`, any shape.
    :param table: that of :func:`normalizer_table` for this n.

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
    const = _log_c(n) + math.lgamma(n + 1) + n / 2 * math.log(2 * math.pi)
    return (const + n * s.log() + s.square() * (n * (n * n - 1) / 24) + log_pfaffian).to(scale.dtype)


def _log_c(n: int) -> float:
    """Log of the volume of the matrices that share their (ordered) eigenvalues, over n!, per Vandermonde of
    those."""
    lgammas = sum(math.lgamma(1 + j / 2) - math.lgamma(1.5) for j in range(1, n + 1))
    return (n * (n + 1) / 4 - n / 2) * math.log(2 * math.pi) - lgammas


class _Envelopes(NamedTuple):
    """For each sigma: the touching points, and the acceptance of the better envelope."""

    sigma: Tensor
    x: Tensor  # where the tangent in x^2 touches log sinhc x, x half a gap
    slope: Tensor  # its slope
    precision: Tensor  # of the traceless part of the Gaussian matrix
    mode: Tensor  # where the tangent plane touches, descending; (..., n)
    drift: Tensor  # gradient of sum log sinh there
    rate: Tensor
    matrix: Tensor  # is the Gaussian matrix the better one?


def _pairs(n: int, device: Any) -> tuple[Tensor, Tensor]:
    i, j = torch.triu_indices(n, n, 1, device=device)
    return i, j


def _log_sinh(x: Tensor) -> Tensor:
    """Sum of log sinh of half the gaps of descending x; -inf if out of order."""
    i, j = _pairs(x.shape[-1], x.device)
    half = (x[..., i] - x[..., j]) / 2
    ok = half > 0
    half = torch.where(ok, half, 1.0)
    return torch.where(ok, half + torch.log(-torch.expm1(-2 * half) / 2), -math.inf).sum(-1)


def _repulsion(x: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient of :func:`_log_sinh`, and minus its Hessian."""
    half = (x[..., :, None] - x[..., None, :]) / 2
    half.diagonal(dim1=-2, dim2=-1).fill_(math.inf)
    coth = 1 / half.tanh()
    coth.diagonal(dim1=-2, dim2=-1).zero_()
    curvature = half.sinh().square().reciprocal() / 4
    return coth.sum(-1) / 2, torch.diag_embed(curvature.sum(-1)) - curvature


def _mode(s: Tensor, n: int) -> Tensor:
    """Most probable eigenvalues, by Newton steps damped as for self-concordant functions (they stay in
    order)."""
    zeros = torch.from_numpy(np.polynomial.hermite.hermgauss(n)[0][::-1].copy()).to(
        s
    )  # the mode at small sigma, over sigma
    ramp = torch.arange(n - 1, -n, -2, dtype=s.dtype, device=s.device)
    x = s[..., None] * zeros + s[..., None] ** 2 * ramp / 2
    eye = torch.eye(n, dtype=s.dtype, device=s.device)
    for _ in range(20):
        gradient, hessian = _repulsion(x)
        gradient = gradient - x / s[..., None] ** 2
        step = torch.linalg.solve(hessian + eye / s[..., None, None] ** 2, gradient)
        x = x + step / (1 + (gradient * step).sum(-1, keepdim=True).clamp_min(0).sqrt())
    return x


def _envelopes(s: Tensor, n: int) -> _Envelopes:
    log_z = log_normalizer(s, normalizer_table(n, s.device), n)
    dim, pairs, tau = n * (n + 1) / 2, n * (n - 1) / 2, s.square().reciprocal()
    # the best x has x^2 = E x^2 under its own Gaussian; from above, so that the precision (n+2)/4x^2 or more
    # stays positive
    x = (n / 4 + (n * n / 16 + (n + 2) * tau).sqrt()) / (2 * tau)
    for _ in range(60):
        x = s * ((n + 2) / 4 + n / 4 * (x / x.tanh() - 1)).sqrt()
    slope = torch.where(x < 0.01, 1 / 6 - x.square() / 90, (x / x.tanh() - 1) / (2 * x.square()))
    precision = tau - n * slope / 2
    log_matrix = dim / 2 * math.log(2 * math.pi) + s.log() - (dim - 1) / 2 * precision.log()
    log_matrix = log_matrix + pairs * (log_sinhc(x) - slope * x.square())
    mode = _mode(s, n)
    drift = _repulsion(mode)[0]
    shift = s.square()[..., None] * drift - mode
    log_chamber = (
        _log_sinh(mode)
        + pairs * math.log(2)
        + _log_c(n)
        + math.lgamma(n + 1)
        + n / 2 * (2 * math.pi / tau).log()
    )
    log_chamber = log_chamber + ((mode + shift).square().sum(-1) * tau / 2 - (drift * mode).sum(-1))
    matrix = log_matrix <= log_chamber
    rate = (log_z - torch.minimum(log_matrix, log_chamber)).exp()
    return _Envelopes(s, x, slope, precision, mode, drift, rate, matrix)


def acceptance(scale: Tensor, n: int) -> Tensor:
    """Share of the proposals that :func:`sample_tangent` accepts, exactly.

    >>> acceptance(torch.tensor([0.3, 1.0, 3.0]), 3)
    tensor([0.9998, 0.9695, 0.9325])
    """
    s = scale.detach().double()
    return torch.ones_like(scale) if n == 1 else _envelopes(s, n).rate.to(scale.dtype)


def _propose_matrix(e: _Envelopes, n: int) -> tuple[Tensor, Tensor]:
    g = torch.randn(e.sigma.shape + (n * (n + 1) // 2,), dtype=e.sigma.dtype, device=e.sigma.device)
    wide = e.precision.rsqrt()[..., None]
    trace = g[..., :n].mean(-1, keepdim=True) * (e.sigma[..., None] - wide)
    v = wide * g + torch.nn.functional.pad(trace.expand(g.shape[:-1] + (n,)), (0, g.shape[-1] - n))
    y = sym_eigenvalues(vec_to_sym(v, n)) if n < 4 else torch.linalg.eigvalsh(vec_to_sym(v, n))
    i, j = _pairs(n, v.device)
    half = (y[..., j] - y[..., i]) / 2
    x, slope = e.x[..., None], e.slope[..., None]
    log_ratio = (log_sinhc(half) - log_sinhc(x) - slope * (half.square() - x.square())).sum(-1)
    return v, torch.rand_like(log_ratio).log() < log_ratio


def _propose_eigenvalues(e: _Envelopes, n: int) -> tuple[Tensor, Tensor]:
    y = e.sigma[..., None] ** 2 * e.drift + e.sigma[..., None] * torch.randn_like(e.mode)
    log_ratio = _log_sinh(y) - _log_sinh(e.mode) - (e.drift * (y - e.mode)).sum(-1)
    return y, torch.rand_like(log_ratio).log() < log_ratio


def _reject(propose: Callable[[_Envelopes, int], tuple[Tensor, Tensor]], e: _Envelopes, n: int) -> Tensor:
    """One accepted proposal for each lane; many at once for the last lanes, in a bounded number of rounds."""
    least = float(e.rate.min())

    def tries(lanes: Tensor) -> tuple[Tensor, Tensor]:
        copies = max(1, min(int(0.5 / least), _CHUNK // (len(lanes) * n * n)))
        return propose(_Envelopes(*(t[lanes].expand((copies,) + t[lanes].shape) for t in e)), n)

    event = (n * (n + 1) // 2,) if propose is _propose_matrix else (n,)
    out = e.sigma.new_empty((len(e.sigma), *event))
    hint = f"check the scales of this normal on SPD({n}) for NaN."
    return redraw(out, torch.arange(len(out), device=out.device), tries, 100 + int(40 / least), hint)


def _chain(e: _Envelopes, index: Tensor, n: int) -> Tensor:
    """Eigenvalues for the lanes ``index`` by :mod:`~pyro_manifold.ops.spd_eigenvalue_hmc`; lanes of one sigma
    share its matrices."""
    which, lane = index.unique(return_inverse=True)
    mode, precision = e.mode[which], e.sigma[which].square().reciprocal()
    eye = torch.eye(n, dtype=mode.dtype, device=mode.device)
    g = gap_coordinates(e.sigma[which], mode, _repulsion(mode)[1] + precision[:, None, None] * eye)
    return sample(g.take(lane), len(index))


@torch.no_grad()
def sample_tangent(scale: Tensor, n: int, shape: Sequence[int]) -> Tensor:
    r"""Draws of the tangent coordinates, ``shape + (n(n+1)/2,)``; no gradient.

    :param scale: :math:`\sigma`, broadcastable to ``shape``.

    >>> sample_tangent(torch.tensor(0.5), 3, (4,)).shape
    torch.Size([4, 6])
    """
    shape = torch.Size(shape)
    small = unexpand(scale)
    if n == 1:
        return scale[..., None] * torch.randn(shape + (1,), dtype=scale.dtype, device=scale.device)
    e = _envelopes(small.double(), n)
    batch = e.sigma.shape
    index = (
        torch.arange(e.sigma.numel(), device=e.sigma.device).reshape(batch).expand(shape).reshape(-1)
    )  # lane -> sigma
    e = _Envelopes(*(t.reshape((-1,) + t.shape[len(batch) :]) for t in e))
    v = e.sigma.new_empty(len(index), n * (n + 1) // 2)
    step = max(1, _CHUNK // (n * n))
    for kind, chosen in enumerate(
        (e.matrix & (e.rate > _LEAST), ~e.matrix & (e.rate > _LEAST), e.rate <= _LEAST)
    ):
        lanes = chosen[index].nonzero().squeeze(-1)
        for some in lanes.split(step) if len(lanes) else ():
            rows = _Envelopes(*(t[index[some]] for t in e))
            if kind == 0:
                v[some] = _reject(_propose_matrix, rows, n)
                continue
            y = _reject(_propose_eigenvalues, rows, n) if kind == 1 else _chain(e, index[some], n)
            q = torch.linalg.qr(
                torch.randn(len(y), n, n, dtype=y.dtype, device=y.device)
            ).Q  # Haar but for signs, which cancel
            v[some] = sym_to_vec((q * y.unsqueeze(-2)) @ q.mT)
    return v.reshape(shape + v.shape[-1:]).to(scale.dtype)
