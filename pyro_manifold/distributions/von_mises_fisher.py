"""The von Mises-Fisher distribution."""

import torch
from torch import Tensor

from ..ops.arguments import checked
from ..ops.axial_profile import EXPONENTIAL
from ..ops.axis import squared_chord
from ..ops.circular_cdf import VON_MISES
from ..ops.numpy_axial import von_mises_fisher as von_mises_fisher_density
from ..ops.numpy_operator import by_numpy, numpy_operator
from ..ops.special import bessel_divergence, bessel_ratio, log_bessel
from ..ops.spherical import log_sphere_area
from .estimation.directions import sphere_sample, unit, von_mises_fisher
from .rotationally_symmetric import RotationallySymmetric

__all__ = ["VonMisesFisher"]


def _composed(x: Tensor, mu: Tensor, k: Tensor, c: Tensor) -> Tensor:
    return -(k / 2) * squared_chord(x, mu) - c


_OPERATOR = numpy_operator(von_mises_fisher_density, _composed, (1, 1, 0, 0), again=True, widest=8)


class VonMisesFisher(RotationallySymmetric):
    r"""The distribution of maximum entropy on the sphere among those with a given ambient mean; the analogue of
    an isotropic normal distribution.

    .. math::
        p(x) = \frac{\kappa^{v}}{(2\pi)^{n/2} I_{v}(\kappa)}\, e^{\kappa\,\mu\cdot x}, \qquad v = n/2 - 1

    on :math:`S^{n-1} \subset \mathbb R^n` for every n >= 2 and concentration from 0 (uniform) to the largest
    number of the dtype, in pure torch. The log density is evaluated without cancellation as
    :math:`-\kappa|x-\mu|^2/2 - (G_v(\kappa) - \kappa) - \log|S^{n-1}|` (:mod:`pyro_manifold.ops.special`).
    Draws are exact; their gradient in ``concentration`` is unbiased and can be taken once
    (:mod:`pyro_manifold.ops.axial_marginal`). ``log_prob`` is twice differentiable in ``concentration``.

    For large concentration the distribution is close to a normal with variance :math:`1/\kappa` in the tangent
    space at :math:`\mu`.

    :param Tensor loc: :math:`\mu`, unit vectors, shape ``batch + (n,)``.
    :param Tensor concentration: :math:`\kappa \ge 0`, a number or shape ``batch`` (no coordinate axis);
        dimensionless.
    :raises ValueError: for a ``loc`` that is not a unit vector, a ``concentration`` that is negative or not
        finite.

    Base measure: surface area. Batch shape: the parameters' broadcast; event shape: that of ``loc``,
    ``(n,)``.

    References: Mardia & Jupp, Directional Statistics (2000), eq. 9.3.4 and sec. 9.3.2; Ulrich, Appl. Statist.
    33 (1984); Wood, Commun. Stat. Simul. Comput. 23 (1994); implicit gradients: Figurnov et al., NeurIPS
    2018, eq. 5.

    >>> d = VonMisesFisher(torch.tensor([0.0, 0.0, 1.0]), 2.0)
    >>> d.log_prob(torch.tensor([0.0, 0.0, 1.0]))  # log(2 / (2 pi (1 - exp(-4))))
    tensor(-1.1262)
    >>> d.mean  # coth 2 - 1/2, along loc
    tensor([0.0000, 0.0000, 0.5373])
    """

    _profile = EXPONENTIAL
    _circular = VON_MISES

    @staticmethod
    def _log_density(x: Tensor, mu: Tensor, k: Tensor, n: int) -> Tensor:
        c = log_bessel(k, n / 2 - 1, scaled=True) + log_sphere_area(n - 1)
        return _OPERATOR(x, mu, k, c) if by_numpy(x, mu, k, c) else _composed(x, mu, k, c)

    @classmethod
    @checked
    def fit(cls, x: Tensor, weights: Tensor | None = None) -> "VonMisesFisher":
        r"""The distribution of greatest likelihood: the mean direction, and the concentration whose mean resultant
        length :math:`A_v(\kappa)` is that of the rows, to all digits. Rows that cancel give concentration 0.

        :param x: the rows of data, shape ``(n,) + batch + (d,)``: one distribution for each element of the batch.
        :param weights: how often each row was seen, shape ``(n,)`` or ``(n,) + batch``; ones by default.
        :raises ValueError: for rows off the sphere, fewer than 2, or all equal (the concentration is infinite);
            for weights that are negative, all zero, or of another shape.

        Computed in float64 without gradients; standard errors by :func:`standard_errors`. Reference: Mardia &
        Jupp (2000), sec. 10.3.1.

        >>> x = VonMisesFisher(torch.tensor([0.0, 0.0, 1.0]), 50.0).sample((1000,))
        >>> bool((VonMisesFisher.fit(x).concentration - 50).abs() < 8)
        True
        """
        s = sphere_sample(x, weights)
        loc, concentration = von_mises_fisher(s)
        return cls(unit(s.shaped(loc)), s.shaped(concentration))

    @property
    def _order(self) -> float:
        return self.event_shape[0] / 2 - 1

    def _moments(self) -> tuple[Tensor, Tensor, Tensor]:
        ratio, complement, slope = bessel_ratio(self.concentration, self._order)
        # the last is A/k, from A' = 1 - A^2 - (n - 1) A/k, which is not 0/0 at k = 0
        return ratio, slope, (complement * (1 + ratio) - slope) / (self.event_shape[0] - 1)

    def _divergence_from_uniform(self) -> Tensor:
        r""":math:`\kappa A - G`."""
        return bessel_divergence(self.concentration, torch.zeros_like(self.concentration), self._order)

    def entropy(self) -> Tensor:
        r""":math:`\log|S^{n-1}| + G_v(\kappa) - \kappa A_v(\kappa)`."""
        return log_sphere_area(self.event_shape[0] - 1) - self._divergence_from_uniform()
