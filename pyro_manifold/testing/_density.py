"""Is the density a density, is it that of the draws, and is it that of the parameters' gradients?"""

import math

import torch
from torch import Tensor

from ..constraints import manifold_of
from ..geometry import Geometry, TorusGeometry, geometry
from ._tools import close, finite, log_volume_change
from ._types import Make, Params
from .gof import two_sample_test
from .quadrature import MAX_DIM, Rule, manifold_rule, normalisation, random_rule

_SIGMAS = 5.0  # a z-test's false-alarm rate: 6e-7


def _geometry(d: object) -> Geometry | None:
    manifold = manifold_of(d.support)  # type: ignore[attr-defined]
    return None if manifold is None else geometry(manifold)


def _small(d: object) -> bool:
    geo = _geometry(d)
    return geo is not None and geo.dim(d.event_shape) <= MAX_DIM  # type: ignore[attr-defined]


def _features(geo: Geometry, x: Tensor) -> Tensor:
    """Smooth functions on the manifold: coordinates, or of angles their cosines and sines."""
    return torch.cat([x.cos(), x.sin()], -1) if isinstance(geo, TorusGeometry) else x.flatten(x.dim() - geo.event_dim)


def ball_for(d: object) -> tuple[Tensor, Tensor]:
    """A ball that holds all the mass: around ``loc`` (else the medoid of some draws), twice as far as the farthest of 4096."""
    geo = _geometry(d)
    assert geo is not None
    x = d.sample((4096,))  # type: ignore[attr-defined]
    center = getattr(d, "loc", None)
    if center is None or center.shape != x.shape[1:] or not bool(geo.contains(center)):
        some = x[:256]
        center = some[geo.dist(some.unsqueeze(1), some).mean(1).argmin()]
    center = center.detach()
    return center, 2 * geo.dist(center.expand_as(x), x).max()


def rule_for(d: object) -> Rule:
    """A rule with all the mass of ``d``: finer in the plane, where it is cheap; coarser on products, whose rules multiply."""
    geo = _geometry(d)
    assert geo is not None
    n_radial, n_angular = (96, 160) if geo.dim(d.event_shape) == 2 else (96, 64)  # type: ignore[attr-defined]
    if len(getattr(geo, "factors", ())) > 1:
        n_radial, n_angular = 32, 32
    return manifold_rule(geo.manifold, *ball_for(d), n_radial, n_angular)


def total_mass(make: Make, params: Params) -> None:
    """exp(log_prob) integrates to 1 against Riemannian volume."""
    d = make(**params)
    if not _small(d):
        return
    one = normalisation(d, rule_for(d))
    close(one, torch.ones_like(one), "total mass", 100)


def reference_draws(d: object, n: int) -> Tensor:
    """Draws from ``exp(log_prob)`` that know nothing of ``sample``: random nodes, resampled by their mass."""
    geo = _geometry(d)
    assert geo is not None
    rule = random_rule(geo.manifold, *ball_for(d), 200 * n)
    mass = d.log_prob(rule.points).exp() * rule.weights  # type: ignore[attr-defined]
    return rule.points[torch.multinomial(mass.clamp_min(0), n, replacement=True)]


def goodness_of_fit(make: Make, params: Params) -> None:
    """Draws against the density: geodesic two-sample test (false alarm 5e-4), and moments by quadrature (each 6e-7)."""
    d = make(**params)
    if not _small(d):
        return
    geo, rule = _geometry(d), rule_for(d)
    assert geo is not None
    p = two_sample_test(geo.manifold, d.sample((400,)), reference_draws(d, 400), permutations=1999)
    assert p > 5e-4, f"draws and density differ: p = {p}"
    x = d.sample((50_000,))
    mass = d.log_prob(rule.points).exp()
    pole = x[0]
    moments = {"coordinates": lambda y: _features(geo, y), "distance": lambda y: geo.dist(pole.expand_as(y), y).unsqueeze(-1)}
    for name, f in moments.items():
        expected, draws = rule.integrate(mass.unsqueeze(-1) * f(rule.points)), f(x)
        error = (draws.mean(0) - expected).abs() / (draws.std(0) / math.sqrt(len(x)) + 1e-6)
        assert bool((error < _SIGMAS).all()), f"mean of {name} is {error.max():.1f} standard errors off"


def pushforward(make: Make, params: Params) -> None:
    """If it is one base and injective maps: log_prob is the base's less the autodiff log-determinants."""
    d = make(**params)
    transforms = getattr(d, "transforms", None)
    if not transforms or not all(t.bijective for t in transforms) or not getattr(d, "_injective", True):
        return
    z = d.base_dist.sample((16,))
    x, expected = z, d.base_dist.log_prob(z)
    for t in transforms:
        expected = expected - log_volume_change(t, t.domain, t.codomain, x)
        x = t(x)
    close(d.log_prob(x), expected, "log_prob", 10 if x.dtype == torch.float64 else 30)


def gradients_of_log_prob(make: Make, params: Params) -> None:
    """Gradients of log_prob in value and parameters are finite, at draws and at ``loc`` itself."""
    leaves = {k: v.detach().clone().requires_grad_() for k, v in params.items()}
    d = make(**leaves)
    x = d.sample((16,))
    center = getattr(d, "loc", None)
    if center is not None and center.shape == x.shape[1:] and bool(d.support.check(center)):
        x = torch.cat([x, center.detach().unsqueeze(0)])
    x.requires_grad_()
    lp = d.log_prob(x).sum()
    if lp.requires_grad:
        for name, g in zip(["value", *leaves], torch.autograd.grad(lp, [x, *leaves.values()], allow_unused=True), strict=True):
            if g is not None:
                finite(g, f"gradient of log_prob in {name}")


def pathwise_gradient(make: Make, params: Params) -> None:
    """The pathwise gradient of a moment, by draws, is its derivative by quadrature (score function; each alarm 6e-7)."""
    d = make(**params)
    if not d.has_rsample or not params or not _small(d):
        return
    geo, n = _geometry(d), 20_000
    assert geo is not None
    some = _features(geo, d.sample())
    direction = torch.linspace(1.0, 2.0, some.shape[-1], dtype=some.dtype, device=some.device)

    def tangent(p: Params, steps: Params) -> Params:
        """A point moves along the manifold, anything else in its own space."""
        return {
            k: geo.exp_frame(x.expand(steps[k].shape[:-1] + x.shape), steps[k]) if k == "loc" else x + steps[k]
            for k, x in p.items()
        }

    dim = geo.dim(d.event_shape)
    zero = {k: x.new_zeros(dim) if k == "loc" else torch.zeros_like(x) for k, x in params.items()}
    steps = {k: z.expand((n,) + z.shape).clone().requires_grad_() for k, z in zero.items()}
    x = make(**tangent(params, steps)).rsample()
    assert x.requires_grad, "rsample does not depend on the parameters"
    draws = torch.autograd.grad((_features(geo, x) @ direction).sum(), list(steps.values()), allow_unused=True)
    rule = rule_for(d)
    leaves = {k: z.clone().requires_grad_() for k, z in zero.items()}
    lp = make(**tangent(params, leaves)).log_prob(rule.points)
    moment = rule.integrate(lp.exp() * (_features(geo, rule.points) @ direction))
    for name, g, expected in zip(
        zero, draws, torch.autograd.grad(moment, list(leaves.values()), allow_unused=True), strict=True
    ):
        assert g is not None and expected is not None, f"no gradient reaches {name}"
        lower = "tril" in name  # the upper triangle is no parameter
        g, expected = (g.tril(), expected.tril()) if lower else (g, expected)
        finite(g, f"pathwise gradient in {name}")
        error = (g.mean(0) - expected).abs() / (g.std(0) / math.sqrt(n) + 1e-5 * (1 + expected.abs()))
        assert bool((error < _SIGMAS).all()), f"pathwise gradient in {name}: {error.max():.1f} standard errors off"
