r"""Logarithms on the positive definite matrices, by NumPy (see :mod:`pyro_manifold.ops.numpy_operator`).

.. math::
    W = \log(AQA) = U\,\mathrm{diag}(\ell)\,U^\top,\quad A = P^{-1/2}, \qquad
    \log J = \sum_{i<j}\log\frac{\sinh((\ell_i-\ell_j)/2)}{(\ell_i-\ell_j)/2}

with v the coordinates of W (affine-invariant metric); for the log-Euclidean one :math:`W = \log Q - \log P`,
without a volume change J. Derivatives of functions of matrices by Daleckii and Krein's formula, see
:mod:`pyro_manifold.ops.linalg`; two eigendecompositions in all."""

import math
from functools import lru_cache

import numpy as np

from .numpy_logarithm import Tangent
from .numpy_operator import Array, near_zero

__all__ = ["log_euclidean_logarithm", "spd_logarithm"]


@lru_cache
def _upper(n: int) -> tuple[Array, Array]:
    i, j = np.triu_indices(n, 1)
    return i, j


def _sym(a: Array) -> Array:
    return (a + a.swapaxes(-1, -2)) / 2


def _batch_first(a: Array) -> Array:
    return a.transpose(2, 0, 1)


def _batch_last(a: Array) -> Array:
    return a.transpose(1, 2, 0)


def _to_vec(a: Array) -> Array:
    """Coordinates, ``(d, batch)``, of symmetric matrices, ``(batch, n, n)``."""
    i, j = _upper(a.shape[-1])
    return np.concatenate([np.diagonal(a, axis1=-2, axis2=-1), a[:, i, j] * math.sqrt(2)], -1).T


def _to_sym(v: Array, n: int) -> Array:
    v = v.T
    i, j = _upper(n)
    out = np.zeros((len(v), n, n), v.dtype)
    k = np.arange(n)
    out[:, k, k] = v[:, :n]
    out[:, i, j] = out[:, j, i] = v[:, n:] * math.sqrt(0.5)
    return out


def _eigh(a: Array) -> tuple[Array, Array]:
    """Eigenvalues, NaN for a matrix that is not finite, and eigenvectors."""
    ok = np.asarray(np.isfinite(a).all((-1, -2)))
    if ok.all():
        return np.linalg.eigh(a)  # type: ignore[return-value]
    x, u = np.linalg.eigh(np.where(ok[:, None, None], a, np.eye(a.shape[-1], dtype=a.dtype)))
    return np.where(ok[:, None], x, np.nan), u


def _matrix(x: Array, u: Array) -> Array:
    return (u * x[:, None, :]) @ u.swapaxes(-1, -2)


def _turned(g: Array, u: Array) -> Array:
    return u.swapaxes(-1, -2) @ g @ u


def _turned_back(g: Array, u: Array) -> Array:
    return u @ g @ u.swapaxes(-1, -2)


def _log_quotients(low: Array) -> Array:
    """The divided differences of the logarithm between all pairs of positive numbers, whose logarithms to any
    common offset are those of ``low`` = exp of them."""
    a, b = low[:, :, None], low[:, None, :]
    least = np.minimum(a, b)
    gap = np.abs(a - b) / least
    return np.where(gap == 0, 1, np.log1p(gap) / np.where(gap == 0, 1, gap)) / least


def spd_logarithm(p: Array, q: Array) -> Tangent:
    """The logarithm of q at p for the affine-invariant metric."""
    n = len(p)
    p, q = _sym(_batch_first(p)), _sym(_batch_first(q))
    x, u = _eigh(p)
    root = np.sqrt(x)
    A = _matrix(1 / root, u)
    minus = q - p  # where it is small, log Q would lose its digits to log P
    near = (A * A).sum((-1, -2)) * np.sqrt((minus * minus).sum((-1, -2))) < 0.5
    part = np.where(near[:, None, None], minus, q)
    B = _sym(A @ part @ A)
    t = np.trace(B, axis1=-2, axis2=-1) / n
    unit = np.where(near, 1 + t, t)
    level = np.where(near, np.log1p(np.where(near, t, 0)), np.log(np.where(near, 1, t)))
    y, U = _eigh((B - t[:, None, None] * np.eye(n, dtype=B.dtype)) / unit[:, None, None])
    ell = np.log1p(y)
    v = _to_vec(_matrix(ell + level[:, None], U))
    i, j = _upper(n)
    r = np.maximum(np.abs(ell[:, j] - ell[:, i]) / 2, np.finfo(ell.dtype).tiny)
    log_sinhc = r + np.log(-np.expm1(-2 * r) / (2 * r))

    def slopes(in_v: Array, in_log_volume: Array | float) -> tuple[Array, ...]:
        M = _turned(_to_sym(in_v, n), U) * _log_quotients(1 + y)
        half = (ell[:, :, None] - ell[:, None, :]) / 2
        safe = np.where(half == 0, 1, half)
        slope = near_zero("log_sinc", -half * half, (1 / safe - 1 / np.tanh(safe)) / (2 * safe))
        k = np.arange(n)
        M[:, k, k] -= in_log_volume * (half * slope).sum(-1) / (1 + y)
        H = _turned_back(M, U) / unit[:, None, None]
        AHA = _sym(A @ H @ A)
        in_A = part @ A @ H
        in_A = _turned(in_A + in_A.swapaxes(-1, -2), u)
        in_A = in_A / (root[:, :, None] * root[:, None, :] * (root[:, :, None] + root[:, None, :]))
        in_p = -_sym(_turned_back(in_A, u)) - np.where(near[:, None, None], AHA, 0)
        return _batch_last(in_p), _batch_last(AHA)

    return Tangent(v, log_sinhc.sum(-1), slopes)


def log_euclidean_logarithm(p: Array, q: Array) -> Tangent:
    """The same for the log-Euclidean metric."""
    n = len(p)
    (x, u), (y, w) = (_eigh(_sym(_batch_first(x))) for x in (p, q))
    v = _to_vec(_matrix(np.log(y), w) - _matrix(np.log(x), u))

    def slopes(in_v: Array, _: Array | float) -> tuple[Array, ...]:
        G = _to_sym(in_v, n)
        in_q, in_p = (_sym(_turned_back(_turned(G, u) * _log_quotients(x), u)) for x, u in ((y, w), (x, u)))
        return -_batch_last(in_p), _batch_last(in_q)

    return Tangent(v, 0.0, slopes)
