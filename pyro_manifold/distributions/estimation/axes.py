r"""Maximum likelihood for distributions of axes: Bingham (and with it the matrix Fisher distribution) and the
angular central Gaussian.

.. math::
    \text{Bingham: } \mathrm E_A[xx^\top] = S = \sum_iw_ix_ix_i^\top; \qquad
    \text{Tyler: } \Sigma = d\sum_iw_i\,\frac{x_ix_i^\top}{x_i^\top\Sigma^{-1}x_i}

A has the axes of S, and the differences of its eigenvalues, the rates, are found by Newton's method; the problem
is convex. References: Mardia & Jupp, Directional Statistics (2000), sec. 10.3.3 and 13.2.3; Tyler, Biometrika 74
(1987), eq. 3; Kume & Wood, Biometrika 92 (2005), for the start.
"""

import torch
from torch import Tensor

from ...ops.batched import solve_lower
from ...ops.fisher_bingham import relative_moments, relative_normalizer, square_products
from ...ops.orthogonal import quaternion
from ...ops.quaternion import rotation
from .sample import Sample

__all__ = ["bingham", "matrix_fisher", "tyler", "watson"]

_STEPS = 100
_TYLER_STEPS = 5000


def _rates(moments: Tensor) -> Tensor:
    r"""The rates c, ``(B, d)``, the first 0, of the density :math:`e^{-\sum c_jx_j^2}` whose mean squares are
    ``moments``, in descending order and positive.

    The start is the saddle point approximation, exact to a few percent; steps are shortened until the largest
    relative error of a moment falls."""
    s = moments[..., 1:]
    c = 0.5 * (1 / s - 1 / moments[..., :1]).clamp_min(0)

    def off(c: Tensor) -> Tensor:
        full = relative_moments(torch.nn.functional.pad(c, (1, 0)))[1]
        return full[..., 1:] - s

    gap = off(c)
    for _ in range(_STEPS):
        products = square_products(torch.nn.functional.pad(c, (1, 0)))
        products = products + 2 * torch.diag_embed(products.diagonal(dim1=-2, dim2=-1))
        mean = gap + s
        covariance = products[..., 1:, 1:] - mean.unsqueeze(-1) * mean.unsqueeze(-2)
        scaled = covariance / (s.unsqueeze(-1) * s.unsqueeze(-2))
        step = torch.linalg.solve(scaled, (gap / s).unsqueeze(-1)).squeeze(-1) / s
        size, length = (gap / s).abs().amax(-1), torch.ones_like(s[..., :1])
        for _ in range(30):
            new = c + length * step
            then = off(new)
            better = (then / s).abs().amax(-1) <= size
            if bool(better.all()):
                break
            length = torch.where(better.unsqueeze(-1), length, length / 2)
        c = torch.where(better.unsqueeze(-1), new, c)
        gap = torch.where(better.unsqueeze(-1), then, gap)
        now = (gap / s).abs().amax(-1)
        if bool(((now < 1e-14) | ~better | (now > 0.5 * size) & (now < 1e-12)).all()):
            break
    return torch.nn.functional.pad(c, (1, 0))


def _second_moment(s: Sample, x: Tensor, what: str) -> tuple[Tensor, Tensor]:
    """Eigenvalues, descending, and eigenvectors of the mean of :math:`xx^T`.

    :raises ValueError: if it is singular.
    """
    second = torch.einsum("nb,nbi,nbj->bij", s.shares, x, x)
    _, axes = torch.linalg.eigh(second)
    axes = axes.flip(-1)
    along = torch.einsum("nbi,bij->nbj", x, axes)  # squared one by one: small ones keep their digits
    values = torch.einsum("nb,nbi->bi", s.shares, along.square())
    if bool((values[..., -1] <= (4 * s.rounding) ** 2).any()):
        raise ValueError(
            f"x: all rows lie in a subspace of fewer dimensions, where the likelihood has no maximum ({what}). "
            f"Expected rows that span all {x.shape[-1]} dimensions: give more rows, or reduce the dimension "
            "by the leading eigenvectors first."
        )
    return values / values.sum(-1, keepdim=True), axes


def bingham(s: Sample) -> Tensor:
    """The matrix A (B, d, d), with largest eigenvalue 0."""
    return _form(s, s.points, "concentrations tend to infinity")


def _form(s: Sample, x: Tensor, what: str) -> Tensor:
    values, axes = _second_moment(s, x, what)
    order = values.argsort(-1, descending=True)
    values = values.gather(-1, order)
    axes = axes.gather(-1, order.unsqueeze(-2).expand_as(axes))
    return -(axes * _rates(values).unsqueeze(-2)) @ axes.mT


def watson(s: Sample) -> tuple[Tensor, Tensor]:
    """``loc`` (B, d) and ``concentration`` (B,), of either sign."""
    values, axes = _second_moment(s, s.points, "a concentration tends to minus infinity")
    found = []
    for end in (0, -1):
        side = torch.cat([values[..., 1:], values[..., :1]], -1) if end == 0 else values
        mean = side[..., :-1].mean(-1, keepdim=True).expand_as(side[..., :-1])  # of the other axes, all alike
        own = values[..., end].unsqueeze(-1)
        moments = torch.cat([own, mean], -1) if end == 0 else torch.cat([mean, own], -1)
        rates = _rates(moments)
        likelihood = -(rates * moments).sum(-1) - relative_normalizer(rates)
        found.append((likelihood, rates[..., -1] if end == 0 else -rates[..., -1]))
    bipolar = found[0][0] >= found[1][0]
    loc = torch.where(bipolar.unsqueeze(-1), axes[..., 0], axes[..., -1])
    return loc, torch.where(bipolar, found[0][1], found[1][1])


def matrix_fisher(s: Sample) -> Tensor:
    """The matrix F (B, 3, 3), from the Bingham distribution of the quaternions."""
    return 0.25 * rotation(_form(s, quaternion(s.points), "all rotations have a common direction of turn"))


def tyler(s: Sample) -> Tensor:
    """The Cholesky factor (B, d, d) of Tyler's estimate, whose trace is d.

    :raises ValueError: if the iteration does not converge.
    """
    d, x = s.points.shape[-1], s.points
    tril = torch.eye(d, dtype=x.dtype, device=x.device).expand(x.shape[1], d, d)
    if len(x) <= d:
        raise ValueError(
            f"x: got {len(x)} rows on the sphere in R^{d}, expected more than {d}: with fewer the likelihood has "
            "no maximum. Give more rows, or reduce the dimension first."
        )
    for _ in range(_TYLER_STEPS if x.numel() else 0):
        z = solve_lower(tril, x)
        z = z / z.norm(dim=-1, keepdim=True)
        m = d * torch.einsum("nb,nbi,nbj->bij", s.shares, z, z)
        change = float((m - torch.eye(d, dtype=x.dtype, device=x.device)).abs().amax())
        root, info = torch.linalg.cholesky_ex(m)
        if bool(info.any()) or not bool(root.isfinite().all()):
            break
        tril = tril @ root
        tril = tril / (tril.square().sum((-1, -2), keepdim=True) / d).sqrt()
        if change < 1e-13 * d:
            return tril
    else:
        if not x.numel() or change < 1e-9:
            return tril
    raise ValueError(
        f"x: Tyler's iteration did not converge: a subspace of m of the {d} dimensions seems to hold the share "
        f"m/{d} of the rows or more, where the likelihood has no maximum. Expected rows in general position; "
        "leave out repeated rows, or reduce the dimension first."
    )
