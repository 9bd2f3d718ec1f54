"""Is the density a density, is it that of the draws, and is it that of the parameters' gradients?"""

import contextlib
import math
from typing import Any

import torch
from torch import Tensor

from ..constraints import manifold_of
from ._space import Space, space_of
from ._tools import close, finite, log_volume_change, tolerance
from ._types import Make, Params
from .not_applicable import NotApplicable
from .quadrature import Rule, normalisation

_MAX_NODES = 2_000_000
_SIGMAS = 5.0  # a z-test's false-alarm rate: 6e-7


@torch.no_grad()
def settled_rule(space: Space, d: Any) -> tuple[Rule, Tensor]:
    """A rule with the mass it finds: refined while that is not 1, up to a million nodes or so.

    :raises NotApplicable: where the mass still moves towards 1, as for a density too elongated for polar
        coordinates.
    """
    errors: list[float] = []
    for finer in (1, 2, 4):
        rule = space.rule(d, finer)
        mass = normalisation(d, rule)
        errors.append(float((mass - 1).abs().max()))
        if errors[-1] <= tolerance(mass, 100) or len(rule.weights) * 2**space.dim > _MAX_NODES:
            break
    if tolerance(mass, 100) < errors[-1] < 0.3 * max(errors[:-1], default=0.0):
        raise NotApplicable(
            f"quadrature does not settle: errors of the mass {', '.join(f'{e:.1e}' for e in errors)}"
        )
    return rule, mass


def total_mass(make: Make, params: Params) -> None:
    """exp(log_prob) integrates to 1 against the base measure: Riemannian volume, or the Hausdorff measure of
    an image."""
    d = make(**params)
    one = settled_rule(space_of(d), d)[1]
    close(one, torch.ones_like(one), "total mass", 100)


def moments(make: Make, params: Params) -> None:
    """The entropy and, where coordinates are those of a linear space around the manifold, the mean, variance and
    second moment that the distribution gives, against quadrature."""
    d = make(**params)
    space = space_of(d)
    linear = space.geo.in_linear_space or space.geo.event_dim == 2
    told: dict[str, Tensor] = {}
    for name in ("entropy", "mean", "variance", "second_moment") if linear else ("entropy",):
        with contextlib.suppress(NotImplementedError, AttributeError):
            value = getattr(d, name)
            told[name] = (value() if name == "entropy" else value).detach()
    if not told:
        raise NotApplicable("neither moments nor entropy in closed form")
    rule, mass = settled_rule(space, d)
    if float((mass - 1).abs().max()) > tolerance(mass, 100):
        raise NotApplicable("quadrature does not find the mass, see total_mass")
    with torch.no_grad():
        log_density = d.log_prob(rule.points)
        weight = log_density.exp() * rule.weights
        x = rule.points.reshape(len(rule.points), -1)
        mean = weight @ x
        covariance = (weight.unsqueeze(-1) * (x - mean)).mT @ (x - mean)
    found = {
        "entropy": -(weight * torch.where(weight > 0, log_density, 0.0)).sum(),
        "mean": mean,
        "variance": covariance.diagonal(),
        "second_moment": covariance + mean.unsqueeze(-1) * mean,
    }
    for name, value in told.items():
        close(value, found[name].reshape(value.shape), name, 1000)


def goodness_of_fit(make: Make, params: Params) -> None:
    """Draws against the density: means of continuous functions (features, their products, the distance to a
    draw), by 20 000 draws and by quadrature. False alarm 6e-7 each; a mean that is off by 4 % of its
    function's spread is seen."""
    d = make(**params)
    space = space_of(d)
    rule, _ = settled_rule(space, d)
    with torch.no_grad():
        x = d.sample((20_000,))
        mass = d.log_prob(rule.points).exp()
        pole = x[0]

        def functions(y: Tensor) -> dict[str, Tensor]:
            f = space.features(y)
            i, j = torch.triu_indices(f.shape[-1], f.shape[-1], device=f.device)
            return {
                "features": f,
                "products of features": f[..., i] * f[..., j],
                "the distance to a point": space.dist(pole.expand_as(y), y).unsqueeze(-1),
            }

        nodes = functions(rule.points)
        for name, draws in functions(x).items():
            expected = rule.integrate(mass.unsqueeze(-1) * nodes[name])
            error = (draws.mean(0) - expected).abs() / (
                draws.std(0) / math.sqrt(len(x)) + 1e-6 * (1 + expected.abs())
            )
            assert bool((error < _SIGMAS).all()), (
                f"mean of {name} is {float(error.max()):.1f} standard errors off"
            )


def pushforward(make: Make, params: Params) -> None:
    """If it is one base and injective maps: log_prob is the base's less the autodiff log-determinants."""
    d = make(**params)
    transforms = getattr(d, "transforms", None)
    one_to_one = all(t.bijective or hasattr(t, "log_volume") for t in transforms or ())
    if not transforms or not one_to_one or not getattr(d, "_injective", True):
        raise NotApplicable("not the image of a base under injective maps")
    z = d.base_dist.sample((16,))
    x, expected = z, d.base_dist.log_prob(z)
    wide = d.base_dist.log_prob(z.reshape((2, 2, 4) + z.shape[1:]))
    close(wide, expected.reshape((2, 2, 4) + expected.shape[1:]), "log_prob of the base on three axes", 10)
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
    for name, g in zip(
        ["value", *leaves], torch.autograd.grad(lp, [x, *leaves.values()], allow_unused=True), strict=True
    ):
        if g is not None:
            finite(g, f"gradient of log_prob in {name}")


def pathwise_gradient(make: Make, params: Params) -> None:
    """The pathwise gradient of a moment, by draws, is its derivative by quadrature (score function; each
    alarm 6e-7)."""
    d = make(**params)
    if not d.has_rsample or not params:
        raise NotApplicable("it has no rsample" if params else "it has no tensor parameters")
    space, n = space_of(d), 10_000
    some = space.features(d.sample())
    direction = torch.linspace(1.0, 2.0, some.shape[-1], dtype=some.dtype, device=some.device)

    def is_point(k: str) -> bool:
        return k == "loc" and manifold_of(d.support) is not None

    def tangent(p: Params, steps: Params) -> Params:
        """A point moves along the manifold, anything else in its own space."""
        return {
            k: space.geo.exp_frame(x.expand(steps[k].shape[:-1] + x.shape), steps[k])
            if is_point(k)
            else x + steps[k]
            for k, x in p.items()
        }

    zero = {k: x.new_zeros(space.dim) if is_point(k) else torch.zeros_like(x) for k, x in params.items()}
    steps = {k: z.expand((n,) + z.shape).clone().requires_grad_() for k, z in zero.items()}
    x = make(**tangent(params, steps)).rsample()
    assert x.requires_grad, "rsample does not depend on the parameters"
    draws = torch.autograd.grad(
        (space.features(x) @ direction).sum(), list(steps.values()), allow_unused=True
    )
    rule, _ = settled_rule(space, d)
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
        assert bool((error < _SIGMAS).all()), (
            f"pathwise gradient in {name}: {error.max():.1f} standard errors off"
        )
