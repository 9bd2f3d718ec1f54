"""Is the density a density, is it that of the draws, and is it that of the parameters' gradients?"""

import math
from typing import Any

import torch
from torch import Tensor

from ..constraints import manifold_of
from ._space import Space, space_of
from ._tools import close, finite, log_volume_change
from ._types import Make, Params
from .gof import two_sample_test
from .not_applicable import NotApplicable
from .quadrature import normalisation

_SIGMAS = 5.0  # a z-test's false-alarm rate: 6e-7


def total_mass(make: Make, params: Params) -> None:
    """exp(log_prob) integrates to 1 against the base measure: Riemannian volume, or the Hausdorff measure of an image."""
    d = make(**params)
    one = normalisation(d, space_of(d).rule(d))
    close(one, torch.ones_like(one), "total mass", 100)


def reference_draws(space: Space, d: Any, n: int) -> Tensor:
    """Draws from ``exp(log_prob)`` that know nothing of ``sample``: random nodes, resampled by their mass."""
    rule = space.random_rule(d, 200 * n)
    mass = d.log_prob(rule.points).exp() * rule.weights
    return rule.points[torch.multinomial(mass.clamp_min(0), n, replacement=True)]


def goodness_of_fit(make: Make, params: Params) -> None:
    """Draws against the density: two-sample test by distances (false alarm 5e-4), and moments by quadrature (each 6e-7)."""
    d = make(**params)
    space = space_of(d)
    rule = space.rule(d)
    draws, reference = (space.points(y) for y in (d.sample((400,)), reference_draws(space, d, 400)))
    p = two_sample_test(space.manifold, draws, reference, permutations=1999)
    assert p > 5e-4, f"draws and density differ: p = {p}"
    x = d.sample((50_000,))
    mass = d.log_prob(rule.points).exp()
    pole = x[0]
    moments = {"coordinates": space.features, "distance": lambda y: space.dist(pole.expand_as(y), y).unsqueeze(-1)}
    for name, f in moments.items():
        expected, draws = rule.integrate(mass.unsqueeze(-1) * f(rule.points)), f(x)
        error = (draws.mean(0) - expected).abs() / (draws.std(0) / math.sqrt(len(x)) + 1e-6)
        assert bool((error < _SIGMAS).all()), f"mean of {name} is {error.max():.1f} standard errors off"


def pushforward(make: Make, params: Params) -> None:
    """If it is one base and injective maps: log_prob is the base's less the autodiff log-determinants."""
    d = make(**params)
    transforms = getattr(d, "transforms", None)
    if not transforms or not all(t.bijective for t in transforms) or not getattr(d, "_injective", True):
        raise NotApplicable("not the image of a base under injective maps")
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
    if not lp.requires_grad:
        raise NotApplicable("log_prob is constant")
    for name, g in zip(["value", *leaves], torch.autograd.grad(lp, [x, *leaves.values()], allow_unused=True), strict=True):
        if g is not None:
            finite(g, f"gradient of log_prob in {name}")


def pathwise_gradient(make: Make, params: Params) -> None:
    """The pathwise gradient of a moment, by draws, is its derivative by quadrature (score function; each alarm 6e-7)."""
    d = make(**params)
    if not d.has_rsample or not params:
        raise NotApplicable("it has no rsample" if params else "it has no tensor parameters")
    space, n = space_of(d), 20_000
    some = space.features(d.sample())
    direction = torch.linspace(1.0, 2.0, some.shape[-1], dtype=some.dtype, device=some.device)

    def is_point(k: str) -> bool:
        return k == "loc" and manifold_of(d.support) is not None

    def tangent(p: Params, steps: Params) -> Params:
        """A point moves along the manifold, anything else in its own space."""
        return {
            k: space.geo.exp_frame(x.expand(steps[k].shape[:-1] + x.shape), steps[k]) if is_point(k) else x + steps[k]
            for k, x in p.items()
        }

    zero = {k: x.new_zeros(space.dim) if is_point(k) else torch.zeros_like(x) for k, x in params.items()}
    steps = {k: z.expand((n,) + z.shape).clone().requires_grad_() for k, z in zero.items()}
    x = make(**tangent(params, steps)).rsample()
    assert x.requires_grad, "rsample does not depend on the parameters"
    draws = torch.autograd.grad((space.features(x) @ direction).sum(), list(steps.values()), allow_unused=True)
    rule = space.rule(d)
    leaves = {k: z.clone().requires_grad_() for k, z in zero.items()}
    lp = make(**tangent(params, leaves)).log_prob(rule.points)
    moment = rule.integrate(lp.exp() * (space.features(rule.points) @ direction))
    for name, g, expected in zip(
        zero, draws, torch.autograd.grad(moment, list(leaves.values()), allow_unused=True), strict=True
    ):
        assert g is not None and expected is not None, f"no gradient reaches {name}"
        lower = "tril" in name  # the upper triangle is no parameter
        g, expected = (g.tril(), expected.tril()) if lower else (g, expected)
        finite(g, f"pathwise gradient in {name}")
        error = (g.mean(0) - expected).abs() / (g.std(0) / math.sqrt(n) + 1e-5 * (1 + expected.abs()))
        assert bool((error < _SIGMAS).all()), f"pathwise gradient in {name}: {error.max():.1f} standard errors off"
