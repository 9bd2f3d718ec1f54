"""The constraint "a point of this manifold", understood by Pyro's parameters, guides and inference.

``transform_to(on(manifold))`` and, where a global chart exists, ``biject_to(on(manifold))`` are registered by
:mod:`pyro_manifold.transforms`.
"""

import math
from typing import Any

import geoopt
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints as torch_constraints

from .geometry import Geometry, geometry
from .ops.checks import check_all, held

__all__ = ["check_point", "circular", "image", "manifold_of", "on", "point_constraint", "polar"]


class on(torch_constraints.Constraint):
    r"""Points of a manifold, :math:`\{x : x \in M\}`; :meth:`check` answers for each element of a batch.

    :param geoopt.Manifold manifold: any manifold with a registered geometry.
    :raises ValueError: for one without.

    >>> import geoopt, torch
    >>> on(geoopt.Sphere()).check(torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    tensor([ True, False])
    """

    def __init__(self, manifold: geoopt.Manifold) -> None:
        self.manifold = manifold
        self.geometry = geometry(
            manifold
        )  # reads the manifold's parameters at each call, so they may be learned
        self.event_dim = self.geometry.event_dim
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        return self.geometry.contains(value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, on) and self.manifold is other.manifold

    def __hash__(self) -> int:
        return hash((on, id(self.manifold)))

    def __repr__(self) -> str:
        return f"on({self.manifold.name})"


class _Polar(torch_constraints.Constraint):
    """A radius >= 0 followed by a unit direction, along the last axis."""

    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        return (value[..., 0] >= 0) & on(geoopt.Sphere()).check(value[..., 1:])

    def __repr__(self) -> str:
        return "polar"


polar = _Polar()


class _Circular(torch_constraints.Constraint):
    r"""Angles in radians; those outside :math:`[-\pi,\pi)` mean the same points and are accepted, NaN and
    infinity are not."""

    event_dim = 0

    def check(self, value: Tensor) -> Tensor:
        return value.isfinite()

    def __repr__(self) -> str:
        return "circular"


circular = _Circular()


class image(torch_constraints.Constraint):
    r"""Points of the image of an injective map: those that its ``project`` moves by at most ``atol`` (1 +
    their length).

    :param InjectiveTransform transform: the map.
    :param float atol: the square root of the machine precision if omitted.

    >>> from pyro_manifold.transforms import Pad
    >>> image(Pad(1, 2)).check(torch.tensor([[3.0, 0.0], [3.0, 0.1]]))
    tensor([ True, False])
    """

    event_dim = 1

    def __init__(self, transform: Any, atol: float | None = None) -> None:
        self.transform, self.atol = transform, atol
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        if value.shape[-1] != self.transform.codomain_dim:
            return torch.zeros(value.shape[:-1], dtype=torch.bool, device=value.device)
        if self.atol == math.inf:
            return value.isfinite().all(-1)
        atol = torch.finfo(value.dtype).eps ** 0.5 if self.atol is None else self.atol
        with torch.no_grad():
            return self.transform.reconstruction_error(value) <= atol * (
                1 + torch.linalg.vector_norm(value, dim=-1)
            )

    def __repr__(self) -> str:
        return f"image({self.transform})"


def point_constraint(constraint: Any) -> Any:
    """The constraint of one point, inside the wrappers of ``to_event``; anything else as it is.

    >>> point_constraint(dist.constraints.independent(on(geoopt.Sphere()), 1))
    on(Sphere)
    """
    while hasattr(constraint, "base_constraint"):
        constraint = constraint.base_constraint
    return constraint


def manifold_of(constraint: torch_constraints.Constraint) -> geoopt.Manifold | None:
    """The manifold of each point that a support names, Pyro's own ``constraints.sphere`` and ``to_event``
    included; ``None`` for ordinary ones.

    >>> manifold_of(dist.constraints.independent(dist.constraints.sphere, 1)).name
    'Sphere'
    """
    constraint = point_constraint(constraint)
    if isinstance(constraint, on):
        return constraint.manifold
    if isinstance(constraint, type(dist.constraints.sphere)):
        return geoopt.Sphere()
    return None


def check_point(manifold: geoopt.Manifold, name: str, value: Tensor) -> torch.Size:
    """Check that ``value`` is a batch of points and return its event shape.

    :raises ValueError: for a missing event axis, a dimension the manifold cannot have, NaN, or a point off
        the manifold.
    """
    geo = geometry(manifold)
    what = f"points of {manifold.name}" + (f" ({geo.membership})" if geo.membership else "")
    if value.dim() < geo.event_dim:
        raise ValueError(
            f"{name}: got shape {tuple(value.shape)}, expected {what} with at least {geo.event_dim} trailing "
            f"{'axis' if geo.event_dim == 1 else 'axes'}. Add the coordinate axis."
        )
    event_shape = value.shape[value.dim() - geo.event_dim :]
    if geo.dim(event_shape) < 1:
        raise ValueError(
            f"{name}: got event shape {tuple(event_shape)}, expected {what} of dimension at least 1."
        )
    check_membership(
        geo,
        name,
        value,
        what,
        f"Project it first: pyro_manifold.geometry.geometry(manifold).project({name}).",
    )
    return event_shape


def check_membership(geo: Geometry, name: str, value: Tensor, what: str, remedy: str) -> None:
    """Check that all ``value`` are points; say by how much the first is off that is not, and how it is
    projected (``remedy``).

    :raises ValueError: with the distance to the nearest point, the tolerance, and what casting does.
    """
    ok = geo.contains(value)
    if bool(held(ok).all()):
        return
    note = ""
    if held(value) is value and value.shape[: ok.dim()] == ok.shape:
        with torch.no_grad():
            bad = value[~ok][0]
            off = (
                float(torch.linalg.vector_norm(geo.project(bad) - bad))
                if bool(bad.isfinite().all())
                else math.nan
            )
        if math.isfinite(off):
            tolerance = torch.finfo(value.dtype).eps ** 0.5
            note = f" It is {off:.2g} off, and the tolerance of {value.dtype} is {tolerance:.2g}"
            note += (
                "; points rounded in a narrower dtype and cast must be projected again."
                if off < 1e-3
                else "."
            )
    check_all(ok, name, value, what, remedy + note)
