"""Checks of what a user gives a kernel: observed data, points to start from, names of sites, isometries."""

from collections.abc import Callable
from typing import Any

import geoopt
import torch
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from ...constraints import on
from ...geometry import geometry
from .errors import InvalidStartError

__all__ = ["check_observed", "check_sites", "check_start", "check_subsampled"]

Positions = dict[str, Tensor]


def check_subsampled(node: dict[str, Any]) -> None:
    """:raises ValueError: for a plate whose rows are a part of the data."""
    fn = node["fn"]
    if fn.subsample_size is not None and fn.subsample_size < fn.size:
        raise ValueError(
            f"plate {node['name']!r}: has {fn.subsample_size} of {fn.size} rows, and MCMC needs all of them at each "
            "step. Leave the subsample out, or fit a guide by SVI (AutoManifoldNormal)."
        )


def check_observed(nodes: dict[str, Any]) -> None:
    """Of a trace that ran with validation switched on.

    :raises ValueError: for observed values outside of the support of their distribution.
    """
    for name, node in nodes.items():
        if node["type"] != "sample" or not node["is_observed"] or site_is_subsample(node):
            continue
        fn, value = node["fn"], node["value"]
        if not fn._validate_args or not torch.is_tensor(value):
            continue
        try:
            good = fn.support.check(value)
        except NotImplementedError:  # a distribution of the user's may have none
            continue
        except (
            RuntimeError,
            ValueError,
        ):  # one that depends on other values; shapes that log_prob will complain of
            continue
        for mask in (node["mask"], getattr(fn, "_mask", None)):
            good = good if mask is None else good | ~torch.as_tensor(mask, device=good.device)
        if bool(good.all()):
            continue
        first = tuple((~good).nonzero()[0].tolist())
        shown = value[first] if value.dim() == len(first) + fn.event_dim else value
        raise ValueError(
            f"site {name!r} ({type(fn).__name__}): {int((~good).sum())} of {good.numel()} observed values are not in "
            f"its support {fn.support}; the first, at {list(first)}, is {shown.flatten()[:12].tolist()}. "
            "Correct or leave out these rows; validate_args=False of the distribution says that they are meant."
        )


def check_start(z: Positions, chains: int, manifolds: dict[str, geoopt.Manifold]) -> None:
    """:raises ValueError: for a wrong number of rows, or points off their manifold."""
    for k, v in z.items():
        if v.dim() == 0 or v.shape[0] != chains:
            rows = v.shape[0] if v.dim() else "no"
            raise InvalidStartError(
                f"initial_params: {k!r} has {rows} rows, expected one per chain ({chains})."
            )
        if k in manifolds and not bool(on(manifolds[k]).check(v).all()):
            raise InvalidStartError(
                f"initial_params: {k!r} is not on {manifolds[k].name}; project it first with "
                "pyro_manifold.geometry.geometry(manifold).project(value)."
            )


def check_sites(
    z: Positions,
    manifolds: dict[str, geoopt.Manifold],
    isometries: dict[str, Any],
    proposals: dict[str, Any],
) -> None:
    """:raises ValueError: for names that are not sites, a map that is not an isometry or not its own
    inverse."""
    for name in [*manifolds, *isometries, *proposals]:
        if name not in z:
            raise ValueError(
                f"manifolds, isometries, proposals: {name!r} is not a continuous latent site; those are {sorted(z)}."
            )
    for k, f in isometries.items():
        if k not in manifolds:
            raise ValueError(f"isometries: {k!r} is not a manifold site; those are {sorted(manifolds)}.")
        _check_isometry(k, f, z[k], manifolds[k])


def _check_isometry(name: str, f: Callable[[Tensor], Tensor], x: Tensor, manifold: geoopt.Manifold) -> None:
    geo, tol = geometry(manifold), torch.finfo(x.dtype).eps ** 0.4
    y = f(x)
    if y.shape != x.shape or not bool(on(manifold).check(y).all()):
        raise ValueError(
            f"isometries: the map of {name!r} leaves {manifold.name}. The antipode is an isometry of "
            f"spheres; name another map."
        )
    if not bool(((f(y) - x).abs() <= tol * (1 + x.abs())).all()):
        raise ValueError(
            f"isometries: the map of {name!r} is not its own inverse, as a symmetric proposal must be."
        )
    c = torch.randn(x.shape[: x.dim() - geo.event_dim] + (geo.dim(x.shape[x.dim() - geo.event_dim :]),)).to(x)
    near = geo.exp(x, geo.to_tangent(x, 0.1 * c / c.norm(dim=-1, keepdim=True)))
    moved = geo.chord(y, f(near))
    if not bool(((moved - 0.1).abs() < 0.01).all()):
        raise ValueError(
            f"isometries: the map of {name!r} changes distances; it must be an isometry of {manifold.name}."
        )
