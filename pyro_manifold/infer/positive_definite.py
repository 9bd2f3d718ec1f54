r"""Sites whose density is with respect to Lebesgue measure, but which are sampled on a manifold.

Pyro's and torch's distributions of positive definite matrices (``Wishart``) have the support
``constraints.positive_definite`` and densities with respect to :math:`\prod_{i\le j}dX_{ij}`. Samplers and
guides move their matrices along geodesics of the affine-invariant metric, and take the volume
:math:`2^{n(n-1)/4}|X|^{-(n+1)/2}` of :class:`~pyro_manifold.transforms.SymmetricVolume` into account."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import geoopt
import pyro.distributions as dist
from torch.distributions import Transform, constraints, identity_transform

from ..constraints import manifold_of, point_constraint
from ..transforms import SymmetricVolume

__all__ = ["draws_of_wishart", "is_positive_definite", "sampled_on", "with_measure_of"]

_SPD = geoopt.SymmetricPositiveDefinite()


def is_positive_definite(support: Any) -> bool:
    """Whether each point of a support is a positive definite matrix in Pyro's sense."""
    return isinstance(point_constraint(support), type(constraints.positive_definite))


@contextmanager
def draws_of_wishart() -> Iterator[None]:
    """Drawing a start without torch's warning of singular draws: it warns where there are none (torch 2.13 has the
    condition the wrong way round)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Singular sample detected", UserWarning)
        yield


def sampled_on(support: Any) -> tuple[geoopt.Manifold | None, Transform]:
    """The manifold on which the points of a support are sampled, ``None`` for ordinary ones, and the map there, which
    moves no point but knows the change of measure.

    >>> sampled_on(dist.Wishart.support)[0].name
    'SymmetricPositiveDefinite'
    """
    if is_positive_definite(support):
        return _SPD, SymmetricVolume()
    return manifold_of(support), identity_transform


def with_measure_of(support: Any, d: Any) -> Any:
    """The distribution ``d``, whose density is with respect to Riemannian volume, with the base measure of
    distributions with that support."""
    return dist.TransformedDistribution(d, [SymmetricVolume().inv]) if is_positive_definite(support) else d
