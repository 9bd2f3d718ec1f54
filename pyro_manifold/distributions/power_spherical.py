"""The power spherical distribution."""

import math

import torch
from torch import Tensor

from ..ops.arguments import checked
from ..ops.axial_profile import POWER
from ..ops.axis import squared_chord
from ..ops.circular_cdf import POWER as CIRCULAR_POWER
from ..ops.gamma_ratio import log_gamma_ratio, power_divergence
from ..ops.numpy_axial import power_spherical as power_spherical_density
from ..ops.numpy_operator import by_numpy, numpy_operator
from ..ops.spherical import log_sphere_area
from .estimation.directions import power_spherical, sphere_sample, unit
from .rotationally_symmetric import RotationallySymmetric

__all__ = ["PowerSpherical"]


def _composed(x: Tensor, mu: Tensor, k: Tensor, c: Tensor) -> Tensor:
    near, far = squared_chord(x, mu), squared_chord(x, -mu)
    close, opposite = near < far, far == 0
    # log((1 + t)/2) from the shorter of the two chords, which is the more accurate one
    below = torch.log1p(-torch.where(close, near, 0.0) / 4)
    log = torch.where(close, below, torch.where(close | opposite, 4.0, far).div(4).log())
    return torch.where(opposite & (k > 0), -math.inf, k * log - c)  # the antipode itself has no gradient


_OPERATOR = numpy_operator(power_spherical_density, _composed, (1, 1, 0, 0), again=True, widest=16)


class PowerSpherical(RotationallySymmetric):
    r"""A distribution of directions similar to :class:`VonMisesFisher` whose normaliser, entropy and marginal
    need no Bessel functions.

    .. math::
        p(x) = \frac{(1 + \mu\cdot x)^\kappa}{Z}, \qquad
        Z = 2^{\kappa + 2\beta}\,\pi^\beta\, \frac{\Gamma(\kappa+\beta)}{\Gamma(\kappa+2\beta)}, \qquad \beta
        = \frac{n-1}2

    on :math:`S^{n-1} \subset \mathbb R^n`. The density is zero at :math:`-\mu` and uniform at concentration 0;
    for large concentration it is close to a von Mises-Fisher density of half the concentration. Draws are
    exact and need no gamma variables; their gradient in ``concentration`` is unbiased and can be taken once
    (:mod:`pyro_manifold.ops.axial_marginal`).

    :param Tensor loc: :math:`\mu`, unit vectors, shape ``batch + (n,)``.
    :param Tensor concentration: :math:`\kappa \ge 0`, a number or shape ``batch`` (no coordinate axis);
        dimensionless.
    :raises ValueError: for a ``loc`` that is not a unit vector, a ``concentration`` that is negative or not
        finite.

    Base measure: surface area. Batch shape: the parameters' broadcast; event shape: that of ``loc``,
    ``(n,)``.

    Reference: De Cao & Aziz, The Power Spherical distribution (2020), eq. 7, 8 and 13, arXiv:2006.04437.

    >>> d = PowerSpherical(torch.tensor([0.0, 0.0, 1.0]), 1.0)
    >>> d.log_prob(torch.tensor([0.0, 0.0, 1.0]))  # log(2 / 4 pi)
    tensor(-1.8379)
    >>> d.mean  # kappa / (kappa + n - 1), along loc
    tensor([0.0000, 0.0000, 0.3333])
    """

    _profile = POWER
    _circular = CIRCULAR_POWER

    @staticmethod
    def _log_density(x: Tensor, mu: Tensor, k: Tensor, n: int) -> Tensor:
        b = (n - 1) / 2
        c = (2 * b * math.log(2) + b * math.log(math.pi)) - log_gamma_ratio(k.double() + b, b).to(k.dtype)
        return _OPERATOR(x, mu, k, c) if by_numpy(x, mu, k, c) else _composed(x, mu, k, c)

    @classmethod
    @checked
    def fit(cls, x: Tensor, weights: Tensor | None = None) -> "PowerSpherical":
        r"""The distribution of greatest likelihood, by Newton's method: its axis maximises
        :math:`\sum_iw_i\log(1+\mu\cdot x_i)` at any concentration, which then solves one equation.

        :param x: the rows of data, shape ``(n,) + batch + (d,)``: one distribution for each element of the batch.
        :param weights: how often each row was seen, shape ``(n,)`` or ``(n,) + batch``; ones by default.
        :raises ValueError: as :meth:`VonMisesFisher.fit`.

        Computed in float64 without gradients; standard errors by :func:`standard_errors`.

        >>> x = PowerSpherical(torch.tensor([0.0, 0.0, 1.0]), 50.0).sample((1000,))
        >>> bool((PowerSpherical.fit(x).concentration - 50).abs() < 8)
        True
        """
        s = sphere_sample(x, weights)
        loc, concentration = power_spherical(s)
        return cls(unit(s.shaped(loc)), s.shaped(concentration))

    def _moments(self) -> tuple[Tensor, Tensor, Tensor]:
        k, n = self.concentration, self.event_shape[0]
        a, b = k + (n - 1) / 2, (n - 1) / 2  # (1 + t)/2 is Beta(a, b)
        across = 2 * (a / (a + b)) / (a + b + 1)
        return k / (a + b), across * 2 * b / (a + b), across

    def _divergence_from_uniform(self) -> Tensor:
        return power_divergence(self.concentration, (self.event_shape[0] - 1) / 2)

    def entropy(self) -> Tensor:
        r""":math:`\log Z - \kappa[\log 2 + \psi(\kappa+\beta) - \psi(\kappa+2\beta)]`."""
        return log_sphere_area(self.event_shape[0] - 1) - self._divergence_from_uniform()
