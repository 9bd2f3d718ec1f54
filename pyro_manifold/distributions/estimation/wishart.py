r"""Maximum likelihood for the inverse Wishart distribution.

.. math::
    \hat\Psi = \nu M^{-1}, \quad M = \sum_iw_iX_i^{-1}, \qquad
    \sum_{j<n}\big[\log\tfrac{\hat\nu}2 - \psi\big(\tfrac{\hat\nu-j}2\big)\big] = \log|M| + \sum_iw_i\log|X_i|

The left side falls from infinity at :math:`\nu = n - 1` to 0; the right side is positive by Jensen's inequality.
"""

import torch
from torch import Tensor

from ...ops.linalg import sym
from .sample import Sample

__all__ = ["inverse_wishart"]


def inverse_wishart(s: Sample) -> tuple[Tensor, Tensor]:
    """``df`` (B,) and ``scale_matrix`` (B, n, n).

    :raises ValueError: for rows that are all equal.
    """
    n = s.points.shape[-1]
    tril = torch.linalg.cholesky(sym(s.points))
    mean = sym(s.mean(torch.cholesky_inverse(tril)))
    root = torch.linalg.cholesky(mean)
    log_det = s.mean(tril.diagonal(dim1=-2, dim2=-1).log().sum(-1))
    gap = 2 * (root.diagonal(dim1=-2, dim2=-1).log().sum(-1) + log_det)
    if bool((gap <= n * (16 * s.rounding) ** 2 + 1e-14 * n).any()):
        raise ValueError(
            "x: all rows of positive weight are equal up to rounding, so the likelihood has no maximum: df is "
            "infinite. Expected rows that differ; give more data, or use a prior."
        )
    j = torch.arange(n, dtype=torch.float64, device=mean.device)
    free = n * (n + 1) / 2 / gap  # df - (n - 1), as it is for narrow distributions
    for _ in range(100):  # Newton's method in its logarithm
        df = free.unsqueeze(-1) + n - 1
        value = ((df / 2).log() - torch.digamma((df - j) / 2)).sum(-1)
        slope = (1 / df - 0.5 * torch.polygamma(1, (df - j) / 2)).sum(-1)
        step = (value / gap).log() * value / (-slope * free)
        free = free * step.clamp(-1.0, 1.0).exp()
        if bool((step.abs() < 1e-13).all()):
            break
    df = free + n - 1
    return df, df[..., None, None] * torch.cholesky_inverse(root)
