"""Fréchet distance of two samples, each summarised by its mean and covariance."""

import torch
from torch import Tensor

from ..ops.arguments import checked
from .samples import two_samples

__all__ = ["frechet_distance"]


@checked
def frechet_distance(x: Tensor, y: Tensor) -> float:
    r"""Squared Fréchet distance of the normal distributions that have the means and covariances of two samples, the
    squared 2-Wasserstein distance of these.

    .. math:: |m_x - m_y|^2 + \operatorname{tr}\Big(S_x + S_y - 2\,\big(S_x^{1/2} S_y S_x^{1/2}\big)^{1/2}\Big)

    Of features of images it is what is called the Fréchet inception distance if the features are those of the
    Inception network; distances in the features of different networks cannot be compared. It has the squared units of
    the features. Finite samples make it too large, the more so the more dimensions: compare only samples of equal
    sizes, and read them against two samples of the truth.

    :param Tensor x: sample, (n, d), n at least 2; if n < d, the covariance has no full rank, which is allowed.
    :param Tensor y: sample, (m, d).
    :return: at least 0.
    :raises ValueError: for other shapes, or values that are not finite.

    Reference: Dowson and Landau, *The Fréchet distance between multivariate normal distributions*, J. Multivariate
    Anal. 12 (1982), eq. 4; Heusel et al., *GANs trained by a two time-scale update rule*, NeurIPS 2017, eq. 6.

    >>> x = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 2.0]])
    >>> round(frechet_distance(x, x + 3), 9), round(frechet_distance(x, 2 * x - 1), 9)  # 3² + 3², and tr S = 8 / 3
    (18.0, 2.666666667)
    """
    x, y = two_samples(x, y)
    apart = (x.mean(0) - y.mean(0)).square().sum()
    sx, sy = x.T.cov(), y.T.cov()
    if x.shape[1] == 1:
        sx, sy = sx.reshape(1, 1), sy.reshape(1, 1)
    value, vector = torch.linalg.eigh(sx)
    root = (vector * value.clamp_min(0).sqrt()) @ vector.mT
    cross = torch.linalg.eigvalsh(root @ sy @ root).clamp_min(0).sqrt().sum()
    return float((apart + sx.trace() + sy.trace() - 2 * cross).clamp_min(0))
