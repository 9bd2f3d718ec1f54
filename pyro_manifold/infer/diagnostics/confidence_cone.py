r"""The mean direction of data on a sphere and the cone about it that holds the true one with a given confidence.

.. math::
    \text{Fisher: } \cos\alpha = 1 - \tfrac{n-R}R\big[(1-p)^{-1/(n-1)} - 1\big]; \qquad
    \text{large samples: } \sin^2\alpha = \frac{\chi^2_{m;p}\,\big(1 - \frac1n\sum_i(x_i\cdot\hat\mu)^2\big)}
    {m\,n\,\bar R^2}

R is the length of the sum of the n unit vectors, :math:`\bar R = R/n`, m the dimension of the sphere.
References: Fisher, Proc. R. Soc. A 217 (1953); Watson, *Statistics on Spheres* (1983), ch. 4; Fisher, Lewis &
Embleton, *Statistical Analysis of Spherical Data* (1987), sec. 5.3.1.
"""

import math
from typing import Any, NamedTuple

import geoopt
import torch
from torch import Tensor

from ...distributions.estimation.errors import covariance_of_estimates
from ...distributions.estimation.likelihood import chart_of, moved
from ...distributions.estimation.sample import checked_weights, gathered
from ...geometry import geometry
from ...ops.arguments import checked
from ...ops.chi import chi_quantile
from ...ops.chunks import slices
from .credible_ball import check_prob
from .units import angle_factor

__all__ = ["ConfidenceCone", "confidence_cone"]

_SPHERE = geoopt.Sphere()
_METHODS = ("fisher", "large_sample", "bootstrap", "likelihood")


class ConfidenceCone(NamedTuple):
    """Mean direction, shape ``batch + (d,)``, and half-angle of the cone, shape ``batch``, in the unit asked for.

    >>> ConfidenceCone(torch.tensor([0.0, 1.0]), torch.tensor(0.1)).angle
    tensor(0.1000)
    """

    direction: Tensor
    angle: Tensor


@torch.no_grad()
@checked(resamples=1, seed=0)
def confidence_cone(
    x: Tensor,
    weights: Tensor | None = None,
    *,
    prob: float = 0.95,
    method: str = "fisher",
    distribution: torch.distributions.Distribution | None = None,
    resamples: int = 1000,
    seed: int = 0,
    unit: str = "radians",
) -> ConfidenceCone:
    r"""The mean direction of unit vectors with its cone of confidence (paleomagnetism's :math:`\alpha_{95}`).

    ============== ==========================================================================================
    method         holds
    ============== ==========================================================================================
    "fisher"       on S^2, for von Mises-Fisher data of concentration 4 or more (any n >= 2): Fisher's formula
    "large_sample" on any sphere, for any distribution that is rotationally symmetric about its mean direction
                   and n of 25 or more
    "bootstrap"    on any sphere, for any distribution with a mean direction: the ``prob`` quantile of the angle
                   from the mean direction to those of ``resamples`` resampled data sets; n of 15 or more
    "likelihood"   for the mode of a fitted ``distribution`` (VonMisesFisher, Kent, ProjectedNormal, Watson with
                   :math:`\kappa>0`, RiemannianNormal, ...), large samples: the ellipse of confidence from the
                   observed information, or rather the smallest cone around it
    ============== ==========================================================================================

    :param x: unit vectors, shape ``(n,) + batch + (d,)``.
    :param weights: how often each was seen, shape ``(n,)`` or ``(n,) + batch``.
    :param prob: confidence, in (0, 1).
    :param distribution: for "likelihood": its fit to ``x``.
    :param resamples: for "bootstrap"; likewise ``seed``.
    :param unit: of the angle, "radians" or "degrees".
    :raises ValueError: for rows off the sphere, fewer than 2, unfit weights; another method, unit or share; rows
        that cancel, which have no mean direction; "fisher" elsewhere than on S^2; "likelihood" without a
        ``distribution``, or for one whose mode is no function of its parameters or is not determined.

    >>> from pyro_manifold.ops.lon_lat import from_lon_lat
    >>> declination, inclination = torch.tensor([[140.0, 127, 142, 136], [21, 23, 19, 22]]).deg2rad()
    >>> confidence_cone(from_lon_lat(declination, inclination), unit="degrees").angle
    tensor(7.2929)
    """
    check_prob(prob)
    factor = angle_factor(unit)
    if method not in _METHODS:
        raise ValueError(f"method: got {method!r}, expected one of {', '.join(map(repr, _METHODS))}.")
    s, event = gathered(_SPHERE, x, weights)
    if method == "likelihood":
        if distribution is None:
            raise ValueError(
                "distribution: got None with method='likelihood', expected the fit, Kent.fit(x) say."
            )
        direction, angle = _by_likelihood(distribution, x, weights, prob)
        return ConfidenceCone(direction.to(x.dtype), factor * angle.to(x.dtype))
    if method == "fisher" and event[0] != 3:
        raise ValueError(
            f"method: got 'fisher' for directions in {event[0]} dimensions; it holds in 3. Use 'large_sample'."
        )
    total = checked_weights(x.detach(), weights, s.batch).sum(0).reshape(-1)
    mean = s.mean(s.points)
    length = mean.norm(dim=-1)
    if bool((length < 1e-12).any()):
        raise ValueError("x: the unit vectors cancel, so they have no mean direction; expected a clear one.")
    direction = geometry(_SPHERE).project(mean)
    near, far = ((s.points - sign * direction).square().sum(-1) for sign in (1, -1))
    if method == "fisher":
        growth = torch.expm1(-math.log1p(-prob) / (total - 1).clamp_min(1e-12))
        versine = (0.5 * s.mean(near) / length * growth).clamp_max(2.0)  # 1 - cos
        angle = 2 * (versine / 2).sqrt().asin()
    elif method == "large_sample":
        m = event[0] - 1
        square = chi_quantile(prob, m) ** 2 * s.mean(near * far / 4) / (m * total * length.square())
        angle = square.clamp_max(1.0).sqrt().asin()
    else:
        angle = _by_bootstrap(s.points, s.shares, total, direction, prob, resamples, seed)
    return ConfidenceCone(s.shaped(direction), factor * s.shaped(angle))


def _by_bootstrap(
    x: Tensor, shares: Tensor, total: Tensor, direction: Tensor, prob: float, resamples: int, seed: int
) -> Tensor:
    """The angles, one data set of the batch after the other."""
    draws, geo = torch.Generator().manual_seed(seed), geometry(_SPHERE)
    out = []
    for b, count in enumerate(total.round().clamp_min(2).long().tolist()):
        means = []
        for part in slices(resamples, count, 1 << 20):
            some = (min(part.stop, resamples) - part.start) * count
            rows = torch.multinomial(shares[:, b].cpu(), some, replacement=True, generator=draws)
            means.append(x[:, b][rows.to(x.device)].unflatten(0, (-1, count)).mean(1))
        off = geo.dist(geo.project(torch.cat(means)), direction[b].expand(resamples, -1))
        out.append(off.sort().values[math.ceil(prob * resamples) - 1])
    return torch.stack(out) if out else total


def _mode(d: Any) -> Tensor:
    """The mode, or the centre of a normal whose mode is not known."""
    return d.loc if hasattr(d, "loc") else d.mode


def _by_likelihood(d: Any, x: Tensor, weights: Tensor | None, prob: float) -> tuple[Tensor, Tensor]:
    d, covariance = covariance_of_estimates(d, x, weights)
    count = sum(chart_of(d).sizes().values())
    geo = geometry(_SPHERE)
    with torch.enable_grad():
        theta = torch.zeros(
            d.batch_shape + (count,), dtype=torch.float64, device=x.device, requires_grad=True
        )
        mode = geo.project(_mode(moved(d, theta)[0]))
        tangent = geo.from_tangent(mode.detach(), mode)
        rows = [
            torch.autograd.grad(tangent[..., i].sum(), theta, retain_graph=True)[0] if tangent.requires_grad
            else torch.zeros_like(theta)
            for i in range(tangent.shape[-1])
        ]  # fmt: skip
    jacobian = torch.stack(rows, -2)
    spread = torch.linalg.eigvalsh(jacobian @ covariance @ jacobian.mT)
    if bool((spread[..., 0] <= 0).any()):
        raise ValueError(
            f"distribution: got {type(d).__name__}, whose mode is no differentiable function of its parameters; "
            "expected a family with a mean direction. Use method='bootstrap'."
        )
    angle = chi_quantile(prob, tangent.shape[-1]) * spread[..., -1].sqrt()
    return mode.detach(), angle.clamp_max(math.pi)
