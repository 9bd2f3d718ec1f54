r"""Posteriors of a few parameters as weighted points: the truth to compare a chain or a learned likelihood
with.

.. math:: p(\theta \mid x) \approx \sum_i w_i\,\delta_{\theta_i}, \qquad w_i \propto p(x \mid \theta_i)\;
    \begin{cases} N(\theta_i; 0, I) & \text{points of a regular grid} \\ 1 & \text{draws from the prior } N(0,
    I)\end{cases}

Posteriors of dimension-six coefficients have several modes, which a single chain need not find; these do.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Posterior", "grid_posterior", "importance_posterior"]


def _log_prior(theta: Tensor) -> Tensor:
    return -0.5 * theta.square().sum(-1) - 0.5 * theta.shape[-1] * math.log(2 * math.pi)


class Posterior(NamedTuple):
    """Weighted points. Two posteriors on the same points (a grid) can be compared by :meth:`kl` and
    :meth:`optimal_c2st`.

    :param theta: points, (m, k).
    :param weight: their probabilities, (m,), with sum 1.
    :param log_density: log likelihood + log prior at them, unnormalised, (m,).

    >>> flat = Posterior(torch.tensor([[0.0], [1.0]]), torch.tensor([0.5, 0.5]), torch.zeros(2))
    >>> sure = flat._replace(weight=torch.tensor([0.0, 1.0]))
    >>> flat.mean.item(), sure.effective_sample_size, flat.optimal_c2st(sure).item(), round(sure.kl(flat).item(), 4)
    (0.5, 1.0, 0.75, 0.6931)
    """

    theta: Tensor
    weight: Tensor
    log_density: Tensor

    @property
    def mean(self) -> Tensor:
        return self.weight @ self.theta

    @property
    def covariance(self) -> Tensor:
        d = self.theta - self.mean
        return (self.weight[:, None] * d).T @ d

    @property
    def effective_sample_size(self) -> float:
        """1 / sum of squared weights; below some hundreds take more points."""
        return float(1 / self.weight.square().sum())

    def sample(self, n: int, *, seed: int = 0) -> Tensor:
        """n points drawn by weight, (n, k)."""
        return self.theta[
            torch.multinomial(self.weight, n, replacement=True, generator=torch.Generator().manual_seed(seed))
        ]

    def log_kde(self, point: Tensor, bandwidth: float = 0.15) -> Tensor:
        """Log of the posterior smoothed by a Gaussian, at ``point``: the paper's "log posterior" at the true
        theta."""
        square = (self.theta - point).square().sum(-1) / bandwidth**2
        k = self.theta.shape[-1]
        return (self.weight.log() - 0.5 * square).logsumexp(0) - 0.5 * k * math.log(
            2 * math.pi * bandwidth**2
        )

    def rank(self, theta: Tensor) -> Tensor:
        """Posterior probability that each component lies below that of ``theta``, (k,): uniform if theta is
        from the prior."""
        return self.weight @ (self.theta < theta).to(self.weight)

    def credibility(self, log_density: Tensor) -> Tensor:
        """Mass of the highest-density region that has a point of this ``log_density`` on its rim: uniform at
        the truth."""
        return self.weight[self.log_density > log_density].sum()

    def kl(self, other: "Posterior") -> Tensor:
        """KL(self || other) of two posteriors on the same points, in nats."""
        self._same(other)
        return torch.where(self.weight > 0, self.weight * (self.weight.log() - other.weight.log()), 0.0).sum()

    def optimal_c2st(self, other: "Posterior") -> Tensor:
        """Accuracy of the best possible two-sample classifier, (1 + total variation) / 2: 0.5 for equal
        posteriors."""
        self._same(other)
        return 0.5 + 0.25 * (self.weight - other.weight).abs().sum()

    def _same(self, other: "Posterior") -> None:
        if self.theta.shape != other.theta.shape or not torch.equal(self.theta, other.theta):
            raise ValueError(
                "other: it has other points; expected both from grid_posterior with the same size and bound."
            )


def _posterior(theta: Tensor, log_density: Tensor, log_weight: Tensor) -> Posterior:
    if bool(log_weight.isnan().any()) or not bool(log_weight.isfinite().any()):
        raise ValueError(
            "log_likelihood: got NaN, or no finite value at any point; expected a finite value at some point."
        )
    return Posterior(theta, log_weight.softmax(0), log_density)


def grid_posterior(
    log_likelihood: Callable[[Tensor], Tensor], n_theta: int = 2, *, size: int = 61, bound: float = 4.0
) -> Posterior:
    r"""Posterior under the prior N(0, I) on a regular grid of ``size``\ :sup:`k` points in [-bound, bound]\
    :sup:`k`.

    :param log_likelihood: from theta (m, k) to (m,), as :meth:`LHC.likelihood` returns; constants do not
        matter.
    :param n_theta: k.

    >>> p = grid_posterior(lambda theta: -0.5 * (theta - 1).square().sum(-1))  # one observation of unit variance
    >>> p.mean.round(decimals=3)
    tensor([0.5000, 0.5000], dtype=torch.float64)
    """
    axis = torch.linspace(-bound, bound, size, dtype=torch.float64)
    theta = torch.cartesian_prod(*[axis] * n_theta).reshape(-1, n_theta)
    log_density = log_likelihood(theta) + _log_prior(theta)
    return _posterior(theta, log_density, log_density)


def importance_posterior(
    log_likelihood: Callable[[Tensor], Tensor], n_theta: int = 2, *, num: int = 200_000, seed: int = 0
) -> Posterior:
    """Posterior under the prior N(0, I) by weighting ``num`` draws of the prior; look at its
    ``effective_sample_size``.

    :param log_likelihood: from theta (m, k) to (m,), as :meth:`LHC.likelihood` returns; constants do not
        matter.
    :param n_theta: k.
    """
    theta = torch.randn(num, n_theta, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    log_weight = log_likelihood(theta)
    return _posterior(theta, log_weight + _log_prior(theta), log_weight)
