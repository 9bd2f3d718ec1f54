r"""Families of distributions of a latent variable, each with the manifolds it is defined on.

Every family has one measure of width, a standard deviation :math:`\sigma` in geodesic length, so that one head of
an encoder serves them all: a von Mises-Fisher distribution of concentration :math:`\kappa` is close to a normal of
variance :math:`1/\kappa`, a power spherical one to a normal of variance :math:`2/\kappa`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import geoopt
import torch
from torch import Tensor

from ..distributions import (
    ManifoldUniform,
    PowerSpherical,
    ProductDistribution,
    RiemannianNormal,
    VonMisesFisher,
    WrappedNormal,
)
from ..geometry import Geometry, geometry

__all__ = ["FAMILIES", "Family", "FamilyOn", "factor_manifolds", "family_on"]


@dataclass(frozen=True)
class Family:
    """A family of distributions with a centre and a width.

    :param needs: what a manifold must have for it, in words.
    :param fits: does the geometry have it, for points of this shape?
    :param scales: how many standard deviations it has on a manifold of dimension d.
    :param make: the distribution of a manifold, a centre ``batch + event`` and widths ``batch + (scales,)``.
    :param reparametrised: do draws have a gradient in the width everywhere?
    """

    needs: str
    fits: Callable[[Geometry, torch.Size], bool]
    scales: Callable[[int], int]
    make: Callable[[geoopt.Manifold, Tensor, Tensor], Any]
    draws_fit: Callable[[Geometry, torch.Size], bool] | None = None

    def has_draws(self, geo: Geometry, shape: torch.Size) -> bool:
        """Do its draws have a gradient in the width, as a posterior's must?"""
        return self.fits(geo, shape) and (self.draws_fit is None or self.draws_fit(geo, shape))


_LIKE = torch.zeros((), dtype=torch.float64)


def _unit_sphere(geo: Geometry, shape: torch.Size) -> bool:
    return geo.same_manifold(geometry(geoopt.Sphere()), _LIKE)


def _has_curvature(geo: Geometry, shape: torch.Size) -> bool:
    return geo.constant_curvature(_LIKE) is not None


def _wrapped(manifold: geoopt.Manifold, loc: Tensor, scale: Tensor) -> WrappedNormal:
    """Widths approach the largest one whose density is known, where there is one."""
    geo = geometry(manifold)
    limit = geo.wrapped_limit(geo.event_shape(loc))
    if not math.isinf(limit):
        limit *= 0.99
        scale = limit * (scale / limit).tanh()
    return WrappedNormal(manifold, loc, scale)


FAMILIES: dict[str, Family] = {
    "wrapped": Family(
        "a logarithm",
        lambda geo, shape: geo.has_log,
        lambda d: d,
        _wrapped,
    ),
    "riemannian": Family(
        "constant curvature, or positive definite matrices (not for posteriors, whose draws need a gradient)",
        lambda geo, shape: RiemannianNormal.defined_on(geo),
        lambda d: 1,
        lambda manifold, loc, scale: RiemannianNormal(manifold, loc, scale.squeeze(-1)),
        _has_curvature,
    ),
    "vmf": Family(
        "the unit sphere",
        _unit_sphere,
        lambda d: 1,
        lambda manifold, loc, scale: VonMisesFisher(loc, scale.squeeze(-1).square().reciprocal()),
    ),
    "power_spherical": Family(
        "the unit sphere",
        _unit_sphere,
        lambda d: 1,
        lambda manifold, loc, scale: PowerSpherical(loc, 2 * scale.squeeze(-1).square().reciprocal()),
    ),
    "uniform": Family(
        "finite volume",
        lambda geo, shape: geo.has_finite_volume,
        lambda d: 0,
        lambda manifold, loc, scale: ManifoldUniform(
            manifold,
            geometry(manifold).event_shape(loc),
            loc.shape[: loc.dim() - geometry(manifold).event_dim],
            dtype=loc.dtype,
            device=loc.device,
        ),
    ),
}


def factor_manifolds(
    manifold: geoopt.Manifold, shape: torch.Size
) -> list[tuple[geoopt.Manifold, torch.Size]]:
    """The factors of a product, each with the shape of its points; of another manifold, itself."""
    geo = geometry(manifold)
    if len(geo.factors) < 2 or geo.unscaled is not geo:
        return [(manifold, shape)]
    return [(g.manifold, s) for g, s in zip(geo.factors, geo.factor_shapes(shape), strict=True)]


class FamilyOn:
    """A family, or one for each factor of a product, on one manifold.

    :param names: one name for each factor, or one for the manifold as a whole.
    :param bool isotropic: one width where a family could have one for each coordinate.
    """

    def __init__(
        self, manifold: geoopt.Manifold, shape: torch.Size, names: Sequence[str], isotropic: bool = False
    ) -> None:
        whole = len(names) == 1
        self.manifold = manifold
        self.names = tuple(names)
        self.parts = [(manifold, shape)] if whole else factor_manifolds(manifold, shape)
        self.scales: list[int] = []
        for (m, s), name in zip(self.parts, self.names, strict=True):
            n = FAMILIES[name].scales(geometry(m).dim(s))
            self.scales.append(min(n, 1) if isotropic else n)

    def __call__(self, loc: Tensor, scale: Tensor) -> Any:
        """The distribution with the centre ``loc``, ``batch + event``, and widths ``batch + (sum of scales,)``."""
        if len(self.parts) == 1:
            return FAMILIES[self.names[0]].make(self.manifold, loc, scale)
        locs = geometry(self.manifold).split(loc)
        widths = scale.split(self.scales, -1)
        made = [
            FAMILIES[name].make(m, p, w)
            for name, (m, _), p, w in zip(self.names, self.parts, locs, widths, strict=True)
        ]
        return ProductDistribution(self.manifold, made)  # type: ignore[arg-type]


def family_on(
    key: str,
    manifold: geoopt.Manifold,
    shape: torch.Size,
    choice: str | Sequence[str] | None,
    *,
    isotropic: bool = False,
) -> FamilyOn:
    """The chosen family on the manifold; of a product, for each factor, where it is not defined on the whole.

    :param str key: ``"prior"`` or ``"posterior"``: the argument, for messages.
    :param choice: a name of :data:`FAMILIES`, one for each factor of a product, or None for the default: prior
        uniform where the volume is finite, else wrapped; posterior von Mises-Fisher on unit spheres, else wrapped.
    :raises ValueError: for an unknown name, another number of names, or a family that is not defined there.
    """
    parts = factor_manifolds(manifold, shape)
    if choice is None:
        names = [_default(key, geometry(m), s) for m, s in parts]
        if len(set(names)) == 1 and names[0] in ("wrapped", "uniform"):
            names = names[:1]  # one distribution on the product
    elif isinstance(choice, str):
        _known(key, choice)
        whole = _defined(key, choice, geometry(manifold), shape)
        names = [choice] if whole or len(parts) == 1 else [choice] * len(parts)
    else:
        names = list(choice)
        for name in names:
            _known(key, name)
        if len(names) != len(parts):
            raise ValueError(
                f"{key}: got {len(names)} families, {names}; expected one name, or one for each of the {len(parts)} "
                f"factors of {manifold.name}."
            )
    for name, (m, s) in zip(names, [(manifold, shape)] if len(names) == 1 else parts, strict=True):
        if not _defined(key, name, geometry(m), s):
            fit = [repr(n) for n in FAMILIES if _defined(key, n, geometry(m), s)]
            raise ValueError(
                f"{key}: got {name!r}, which needs {FAMILIES[name].needs}, on {m.name}; expected "
                f"{' or '.join(fit) or 'a callable that gives a distribution'}."
            )
    return FamilyOn(manifold, shape, names, isotropic)


def _known(key: str, name: Any) -> None:
    if name not in FAMILIES:
        raise ValueError(f"{key}: got {name!r}; expected {' or '.join(map(repr, FAMILIES))}.")


def _defined(key: str, name: str, geo: Geometry, shape: torch.Size) -> bool:
    family = FAMILIES[name]
    return family.has_draws(geo, shape) if key == "posterior" else family.fits(geo, shape)


def _default(key: str, geo: Geometry, shape: torch.Size) -> str:
    if key == "prior" and FAMILIES["uniform"].fits(geo, shape):
        return "uniform"
    return "vmf" if key == "posterior" and _unit_sphere(geo, shape) else "wrapped"
