r"""Standard errors of the parameters of a distribution, from the information in the data.

.. math::
    I = -\sum_i w_i\,\nabla_\theta^2 \log p(x_i\mid\theta), \qquad \mathrm{se}_j = \sqrt{(I^{-1})_{jj}}
"""

from typing import Any

import torch
from torch import Tensor

from ...ops.arguments import checked
from ...ops.checks import check_all
from .likelihood import chart_of, derivatives, moved
from .sample import checked_weights

__all__ = ["covariance_of_estimates", "standard_errors"]

_SINGULAR = 1e-9  # relative to the diagonal


@torch.no_grad()
def covariance_of_estimates(
    distribution: Any, x: Tensor, weights: Tensor | None = None
) -> tuple[Any, Tensor]:
    """The distribution in float64, and the inverse of the observed information in the tangent coordinates of
    its parameters, ``batch + (k, k)``.

    :raises ValueError: see :func:`standard_errors`.
    """
    count = sum(chart_of(distribution).sizes().values())
    batch, event = distribution.batch_shape, distribution.event_shape
    if x.dim() < 1 or x.shape[1:] != batch + event or not len(x):
        raise ValueError(
            f"x: got shape {tuple(x.shape)}, expected (n,) + {tuple(batch + event)}: the rows along the first "
            "axis, then the batch and event shape of the distribution."
        )
    x = x.detach()
    ok = distribution.support.check(x)
    check_all(ok, "x", x, f"points of the support {distribution.support}", "Project them first.")
    w = checked_weights(x, weights, batch)
    zero = torch.zeros(batch + (count,), dtype=torch.float64, device=x.device)
    d = moved(distribution, zero)[0]
    total = w.sum(0)
    _, _, information = derivatives(d, x.double(), w / total)
    size = information.diagonal(dim1=-2, dim2=-1)
    scale = size.abs().clamp_min(1e-300).rsqrt()
    scaled = scale.unsqueeze(-1) * information * scale.unsqueeze(-2)
    values, axes = torch.linalg.eigh(scaled)
    flat = (values[..., 0] <= _SINGULAR) | (size <= 0).any(-1) | ~scaled.isfinite().all(-1).all(-1)
    if bool(flat.any()):
        bad = size[flat][0] <= 0
        loose = axes[flat][0][:, 0].abs() if not bool(bad.any()) else bad.double()
        names = [name for name, k in chart_of(d).sizes().items() for _ in range(k)]
        raise ValueError(
            f"distribution: the data do not determine its {names[int(loose.argmax())]}: the likelihood is flat or "
            "not at a maximum there, expected the fit of these data. Axes of equal spread and the direction of a "
            "uniform distribution have no standard error, nor has a WrappedNormal near its poles: use a family without "
            "that parameter (VonMisesFisher for Kent, ManifoldUniform), RiemannianNormal, or the bootstrap."
        )
    inverse = (axes / values.unsqueeze(-2)) @ axes.mT
    return d, scale.unsqueeze(-1) * inverse * scale.unsqueeze(-2) / total[..., None, None]


@checked
def standard_errors(
    distribution: torch.distributions.Distribution, x: Tensor, weights: Tensor | None = None
) -> dict[str, Tensor]:
    r"""Standard errors of the parameters of a distribution fitted to ``x`` by maximum likelihood, from the
    observed information.

    .. math::
        I = -\sum_i w_i\,\nabla_\theta^2 \log p(x_i\mid\theta), \qquad \mathrm{se}_j = \sqrt{(I^{-1})_{jj}}

    :math:`\theta` are tangent coordinates of all parameters together. The second derivatives are exact (of the
    scale of :class:`RiemannianNormal`: differences of the exact first derivative). They are in the unit of the
    parameter:

    ======================================= =================================================================
    parameter                               standard errors
    ======================================= =================================================================
    ``loc``                                 along the axes of the frame at loc, geodesic length (radians),
                                            ``batch + (dim,)``
    ``concentration``, ``scale``, ...       of each number, in the shape of the parameter
    ``frame`` (Kent)                        angles in radians by which the frame may turn in the planes of two
                                            of its axes, ``batch + (d(d-1)/2,)``, in the order of the entries
                                            below the diagonal of a skew matrix, row by row; for d = 3 those of
                                            turns about the three axes
    ``matrix`` (Bingham, FisherBingham)     of each entry, the trace held
    ``scale_tril`` (AngularCentralGaussian) of each entry, the determinant held
    ``scale_tril`` (others)                 of each entry on and below the diagonal
    ``0.loc``, ``1.scale``, ...             of the parameters of the parts of a :class:`ProductDistribution`
    ======================================= =================================================================

    :param distribution: the fit, e.g. ``VonMisesFisher.fit(x)``, of any family that has ``fit``.
    :param x: the rows of data, shape ``(n,) + batch + event``.
    :param weights: how often each row was seen, shape ``(n,)`` or ``(n,) + batch``; ones by default.
    :return: by name of the parameter, in float64.
    :raises ValueError: where the information is singular, since the data say nothing about a parameter (the
        direction of a uniform distribution, axes of equal spread) or the distribution is not their fit; for
        families without coordinates, and rows or weights that do not fit.

    Reference: Mardia & Jupp, Directional Statistics (2000), sec. 10.3.1 (von Mises-Fisher).

    >>> from pyro_manifold.distributions import VonMisesFisher
    >>> x = torch.nn.functional.normalize(torch.tensor([[9.0, 3.0, 0.0], [9.0, -1.0, 2.0], [9.0, 0.0, -4.0]]), dim=-1)
    >>> fit = VonMisesFisher.fit(x)
    >>> fit.concentration, standard_errors(fit, x)["concentration"]  # kappa / sqrt(n) on the sphere
    (tensor(19.6108), tensor(11.3223, dtype=torch.float64))
    """
    d, covariance = covariance_of_estimates(distribution, x, weights)
    chart, out, start = chart_of(d), {}, 0
    for (name, c), k in zip(chart.parameters.items(), chart.sizes().values(), strict=True):
        block = covariance[..., start : start + k, start : start + k]
        out[name] = c.errors(chart.values[name], block)
        start += k
    return out
