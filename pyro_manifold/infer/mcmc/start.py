"""From a Pyro model to a potential, the transforms of its sites, and a point to start from."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import geoopt
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import config_enumerate
from pyro.infer.autoguide.initialization import InitMessenger, init_to_uniform
from pyro.infer.mcmc.util import _guess_max_plate_nesting, initialize_model
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import Transform, biject_to

from ...constraints import circular, on, point_constraint, polar
from ...geometry import geometry
from ...transforms import SymmetricVolume
from ..anywhere import anywhere
from ..positive_definite import draws_of_wishart, is_positive_definite, sampled_on
from .errors import InvalidStartError
from .given import check_observed, check_subsampled
from .potential import ChainBatch, ModelPotential
from .systems import System

__all__ = ["ModelSetup", "find_start", "prepare"]

Positions = dict[str, Tensor]
_MANY = 16  # chains whose starts are drawn at once


class _Init:
    """A strategy that also serves manifold sites whose distribution has no sampler (Pyro's ``VonMises3D``), uniform
    there, and products: ``init_to_uniform`` would project points of a box in the ambient space, most of them onto the
    rim of a hyperbolic factor, at the largest radius that its coordinates have."""

    def __init__(self, strategy: Callable[..., Any]) -> None:
        self.strategy = strategy

    def __call__(self, site: dict[str, Any] | None = None) -> Any:
        if site is None:
            return self
        fn = site["fn"]
        if fn.has_enumerate_support or getattr(fn.support, "is_discrete", False):
            return fn.sample()  # to be enumerated, or refused later with a better message than a strategy's
        if is_positive_definite(fn.support):  # spread over the manifold, not over Cholesky factors
            site = {**site, "fn": dist.TransformedDistribution(fn, [SymmetricVolume()])}
        manifold = sampled_on(fn.support)[0]
        if manifold is not None and getattr(self.strategy, "func", self.strategy) is init_to_uniform:
            geo = geometry(manifold)
            if len(geo.factors) > 1 and not geo.has_chart and not geo.has_finite_volume:
                return anywhere(fn, manifold)
        try:
            with draws_of_wishart():
                return self.strategy(site)
        except NotImplementedError:
            if (
                manifold is None
            ):  # Pyro's ImproperUniform: as init_to_uniform, which would ask for a draw to know the shape
                try:
                    t = biject_to(fn.support)
                except NotImplementedError:
                    return fn.sample()  # refused later too
                return t(4 * torch.rand(t.inverse_shape(fn.batch_shape + fn.event_shape)) - 2)
            return anywhere(fn, manifold)


@dataclass
class ModelSetup:
    """What a kernel needs to know about a model."""

    potential: Callable[[Positions], Tensor]
    model: Callable[..., Any]  # with its latent sites set by the initialisation strategy
    enumerated: bool
    transforms: dict[str, Transform] = field(default_factory=dict)
    manifolds: dict[str, geoopt.Manifold] = field(default_factory=dict)
    supports: dict[str, Any] = field(default_factory=dict)  # of one point
    shapes: dict[str, torch.Size] = field(default_factory=dict)  # of the values of one chain
    plated: Callable[[int], Callable[..., Any]] | None = None  # the model of many chains, as an outer plate


def _bijection(name: str, fn: Any) -> Transform:
    support = fn.support
    try:
        return biject_to(support).inv
    except NotImplementedError:
        base = point_constraint(support)
        if base is circular:
            remedy = f"poutine.reparam(model, {{{name!r}: CircularReparam()}}) lifts it to the line"
        elif base is polar:
            remedy = "sample the radius and the direction as two sites"
        elif getattr(support, "is_discrete", False):
            remedy = "sum it out (a site with enumerate_support is enumerated for you), or sample it by another method"
        else:
            remedy = "use poutine.reparam with a reparametriser, or a distribution on "
            remedy += "pyro_manifold.constraints.on(manifold)"
        raise ValueError(
            f"site {name!r} ({type(fn).__name__}): its support {support} is neither a manifold nor has it a "
            f"bijection from R^n; {remedy}."
        ) from None


def prepare(
    model: Callable[..., Any], args: tuple, kwargs: dict, strategy: Callable[..., Any], nesting: int | None
) -> ModelSetup:
    """Trace the model, and once more to check its data; manifold sites keep their points, the others go through
    ``biject_to``."""
    started = InitMessenger(_Init(strategy))(model)
    if nesting is None:
        nesting = _guess_max_plate_nesting(started, args, kwargs)
    with poutine.block():  # discrete sites are enumerated, not initialised
        enumerated = poutine.enum(config_enumerate(model), first_available_dim=-1 - nesting)
        started = InitMessenger(_Init(strategy))(enumerated)
        trace = poutine.trace(started).get_trace(*args, **kwargs)
        check_observed(_validated(started, args, kwargs))

    def plated(n: int) -> Callable[..., Any]:
        # the strategy is outside: it sees what the plate has made of a site
        return InitMessenger(_Init(strategy))(pyro.plate("_starts", n, dim=-1 - nesting)(enumerated))

    out = ModelSetup(None, started, False, plated=plated)  # type: ignore[arg-type]
    ranks = {}
    for name, node in trace.iter_stochastic_nodes():
        fn = node["fn"]
        if site_is_subsample(node):
            check_subsampled(node)
            continue
        if fn.has_enumerate_support:
            out.enumerated = True
            continue
        manifold, measure = sampled_on(fn.support)
        out.supports[name] = point_constraint(fn.support)
        if manifold is not None:
            out.manifolds[name], out.supports[name] = manifold, on(manifold)
        out.transforms[name] = _bijection(name, fn) if manifold is None else measure
        ranks[name], out.shapes[name] = len(fn.batch_shape), node["value"].shape
    if out.enumerated:  # Pyro's own potential sums the enumerated sites out
        _, out.potential, _, _ = initialize_model(
            model, args, kwargs, transforms=out.transforms, max_plate_nesting=nesting, initial_params={}
        )
    else:
        out.potential = ModelPotential(model, args, kwargs, out.transforms, nesting, ranks)
    return out


def _validated(model: Callable[..., Any], args: tuple, kwargs: dict) -> dict[str, Any]:
    """Sites of the model with validation switched on, which Pyro's MCMC switches off: empty if this run cannot be had,
    as where the arguments of a distribution are on the rim of what is allowed at this draw."""
    with pyro.validation_enabled(True), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return dict(poutine.trace(model).get_trace(*args, **kwargs).nodes)
        except Exception:  # what is wrong with a model is said where it is used
            return {}


def find_start(setup: ModelSetup, chains: int, how: str, args: tuple, kwargs: dict) -> Positions:
    """Draws of the initialisation strategy at which potential and gradient are finite, one per chain.

    All are evaluated together by the way ``how`` of :class:`ChainBatch`, and one by one only where that finds none."""
    rows: list[Positions] = []
    for _ in range(100):
        z = _draws(setup, chains - len(rows), args, kwargs)
        n = len(next(iter(z.values())))
        good = _finite(setup, z, how)
        if n > 1 and not bool(good.any()):
            good = torch.cat([_finite(setup, {k: v[i : i + 1] for k, v in z.items()}, how) for i in range(n)])
        rows += [{k: v[i] for k, v in z.items()} for i in good.nonzero().flatten().tolist()]
        if len(rows) == chains:
            return rows[0] if chains == 1 else {k: torch.stack([f[k] for f in rows]) for k in rows[0]}
    raise InvalidStartError(
        "no start with a finite log density and gradient was found in 100 tries per chain; check the model, "
        "or give init_strategy=pyro.infer.autoguide.init_to_value(values=...)."
    )


def _draws(setup: ModelSetup, n: int, args: tuple, kwargs: dict) -> Positions:
    """``n`` draws of the initialisation strategy; of many at once, where the model takes the chains as an outer
    plate."""
    with poutine.block(), pyro.validation_enabled(False):
        together = _drawn_together(setup, n, args, kwargs) if n > _MANY and not setup.enumerated else None
        if together is not None:
            return together
        found = []
        for _ in range(n):
            trace = poutine.trace(setup.model).get_trace(*args, **kwargs)
            found.append({k: t(trace.nodes[k]["value"].detach()) for k, t in setup.transforms.items()})
    return {k: torch.stack([f[k] for f in found]) for k in found[0]}


def _drawn_together(setup: ModelSetup, n: int, args: tuple, kwargs: dict) -> Positions | None:
    assert setup.plated is not None
    try:
        trace = poutine.trace(setup.plated(n)).get_trace(*args, **kwargs)
    except Exception:  # whatever a model does with chains that it was not written for, one by one is right
        return None
    z = {}
    for name, t in setup.transforms.items():
        value, shape = trace.nodes[name]["value"].detach(), setup.shapes[name]
        if value.shape[:1] != (n,) or value.numel() != n * shape.numel():
            return None
        z[name] = t(value.reshape(n, *shape))
    return z


def _finite(setup: ModelSetup, z: Positions, how: str) -> Tensor:
    """Whether potential and gradient are finite, by row."""
    geometries = {k: geometry(m) for k, m in setup.manifolds.items()}
    n = len(next(iter(z.values())))
    try:
        with pyro.validation_enabled(False), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # whether a loop was needed is said where the chains start
            batch = ChainBatch(setup.potential, z, how)
            u, grad = System(batch, geometries, {k: v.shape[1:] for k, v in z.items()}).evaluate(z)
    except Exception:  # one row may be what a whole batch is refused for
        if n == 1:
            raise
        return torch.zeros(n, dtype=torch.bool)
    return u.isfinite() & grad.isfinite().all(-1)
