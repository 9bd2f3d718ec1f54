"""The distributions that ``bench_mcmc.py`` samples: those of the literature on spheres, rotations, frames,
hyperbolic space and SPD."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import geoopt
import numpy as np
import torch

import pyro_manifold.distributions as mdist
from pyro_manifold.geometry import SpecialOrthogonal, geometry

torch.set_default_dtype(torch.float64)


@dataclass
class Target:
    """A potential of points ``x`` (last axes), written with the operators that torch and jax.numpy share."""

    name: str
    manifold: geoopt.Manifold
    shape: tuple[int, ...]
    potential: Callable[[Any], Any]  # torch
    start: Callable[[int], torch.Tensor]
    statistic: Callable[[torch.Tensor], torch.Tensor] | None = None
    chart: tuple[int, Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]] | None = (
        None  # size, v -> x, log volume
    )
    ambient: Callable[[torch.Tensor], torch.Tensor] | None = None  # Gaussian of the point's shape -> x
    numpy_gradient: Callable[[np.ndarray], np.ndarray] | None = None  # for Mici, with numpy_potential
    numpy_potential: Callable[[np.ndarray], float] | None = None
    jax_density: Callable[[], Any] | None = None  # what mcmc_jax.py says; called only if JAX is there
    isometry: str | None = None
    coordinates: Callable[[torch.Tensor], torch.Tensor] = lambda x: x


# --- targets ------------------------------------------------------------------------------------------------
def uniform_start(m, shape):
    return lambda n: geometry(m).uniform_sample((n,), shape)


def stereographic(v):
    s = v.square().sum(-1, keepdim=True)
    return torch.cat([(1 - s) / (1 + s), 2 * v / (1 + s)], -1), v.shape[-1] * (
        math.log(2) - torch.log1p(s.squeeze(-1))
    )


def exp_chart(m):
    def chart(v):
        geo = geometry(m)
        o = geo.origin(v.shape[-1], dtype=v.dtype)
        return geo.exp_frame(o, v), geo.log_det_exp(o, v)

    return chart


def log_cholesky(v):
    i, j = torch.tril_indices(3, 3)
    factor = torch.zeros(3, 3).index_put((i, j), v)
    d = factor.diagonal()
    factor = factor - torch.diag(d) + torch.diag(d.exp())
    x = factor @ factor.T
    # dx = 2^3 prod L_ii^(4 - i) dL, dL_ii = L_ii dv_ii; Riemannian volume det(x)^(-2) dx up to a constant
    return x, (torch.tensor([4.0, 3.0, 2.0]) * d).sum() - 4 * d.sum()


def qr_point(y):
    q, r = torch.linalg.qr(y)
    q = q * r.diagonal().sign()
    return (
        torch.cat([q[:, :-1], q[:, -1:] * torch.linalg.det(q).sign()], -1) if y.shape[0] == y.shape[1] else q
    )


def jax_form(kind, *args):
    """A function of ``mcmc_jax.py``, which needs JAX, to be called later."""

    def make():
        import mcmc_jax

        return getattr(mcmc_jax, kind)(*args)

    return make


def sphere_target(name, d, potential, gradient, statistic=None, *, in_jax, **kw):
    m = geoopt.Sphere()
    return Target(
        name, m, (d + 1,), potential, uniform_start(m, (d + 1,)), statistic, (d, stereographic),
        lambda y: y / y.norm(), gradient, lambda x: float(potential(torch.from_numpy(x))),
        jax_density=jax_form("sphere", d + 1, in_jax), **kw,
    )  # fmt: skip


def vmf(d, kappa):
    mu = torch.nn.functional.pad(torch.tensor([0.0, 0.6, 0.8]), (0, d - 2))
    m = mu.numpy()
    return sphere_target(
        f"vMF S{d}, {kappa:g}",
        d,
        lambda x: -kappa * (x * mu).sum(-1),
        lambda x: -kappa * m,
        lambda x: (x @ mu).unsqueeze(-1),
        in_jax=lambda x: -kappa * (x * m).sum(-1),
    )


def bingham(d, move, axes=False):
    a = torch.zeros(d + 1)
    a[0], a[1] = 20.0, 5.0
    b = a.numpy()
    return sphere_target(
        f"Bingham S{d}" + (", antipode" if move else "") + (", axes" if axes else ""),
        d,
        lambda x: -(a * x * x).sum(-1),
        lambda x: -2 * b * x,
        in_jax=lambda x: -(b * x * x).sum(-1),
        isometry="antipode" if move else None,
        coordinates=(lambda x: x[..., :1] * x) if axes else (lambda x: x),
    )


def fisher(kappa):
    m = SpecialOrthogonal(3)
    f = kappa * torch.diag(torch.tensor([1.0, 0.8, 0.5]))
    g = f.numpy()
    return Target(
        f"matrix Fisher SO(3), {kappa:g}",
        m,
        (3, 3),
        lambda x: -(f * x).sum((-1, -2)),
        uniform_start(m, (3, 3)),
        lambda x: x.diagonal(dim1=-1, dim2=-2).sum(-1, keepdim=True),
        (3, exp_chart(m)),
        qr_point,
        jax_density=jax_form("rotation", lambda x: -(g * x).sum()),
    )


def langevin(n, p, kappa):
    m = geoopt.Stiefel()
    f = kappa * torch.eye(n, p)
    g = f.numpy()
    return Target(
        f"matrix Langevin V({n},{p}), {kappa:g}",
        m,
        (n, p),
        lambda x: -(f * x).sum((-1, -2)),
        uniform_start(m, (n, p)),
        None,
        None,
        qr_point,
        jax_density=jax_form("frame", n, p, lambda x: -(g * x).sum()),
    )


def hyperbolic(d, radius, scale):
    m = geoopt.Lorentz()
    geo = geometry(m)
    loc = geo.exp_frame(geo.origin(d), radius * torch.ones(d) / d**0.5)
    distribution = mdist.WrappedNormal(m, loc, scale, validate_args=False)
    frame = lambda x: geo.log_frame(loc.expand_as(x), x)  # noqa: E731
    return Target(
        f"wrapped normal H{d}, radius {radius:g}, scale {scale:g}",
        m,
        (d + 1,),
        lambda x: -distribution.log_prob(x),
        lambda n: geo.exp_frame(loc.expand(n, d + 1), 0.5 * torch.randn(n, d)),
        None,
        (d, exp_chart(m)),
        coordinates=frame,
        jax_density=jax_form("wrapped_normal", d, radius, scale),
    )


def wishart(nu, condition):
    m = geoopt.SymmetricPositiveDefinite()
    precision = torch.diag(torch.logspace(0, math.log10(condition), 3))

    def potential(x):  # density det^{(nu-4)/2} e^{-tr/2} dx, and dx = det^2 dvol
        return -0.5 * nu * torch.linalg.slogdet(x).logabsdet + 0.5 * (precision * x).sum((-1, -2))

    def start(n):
        a = torch.randn(n, nu, 3) / precision.diagonal().sqrt()
        return a.mT @ a

    return Target(
        f"Wishart SPD(3), nu {nu}, condition {condition:g}", m, (3, 3), potential, start,
        lambda x: torch.linalg.slogdet(x).logabsdet.unsqueeze(-1), (6, log_cholesky),
        coordinates=lambda x: x[(..., *torch.tril_indices(3, 3))],
        jax_density=jax_form("wishart", nu, precision.numpy()),
    )  # fmt: skip


TARGETS = [
    *(vmf(d, k) for d in (2, 9) for k in (1.0, 10.0, 100.0)),
    *(bingham(d, move) for d in (2, 9) for move in (False, True)), bingham(9, False, axes=True),
    *(fisher(k) for k in (0.0, 2.0, 20.0)),
    langevin(5, 2, 0.0), langevin(5, 2, 10.0), langevin(10, 3, 50.0),
    hyperbolic(2, 0.0, 1.0), hyperbolic(2, 3.0, 1.0), hyperbolic(5, 3.0, 0.5), hyperbolic(5, 5.0, 1.0),
    wishart(6, 1.0), wishart(30, 100.0), hyperbolic(5, 5.0, 1.5),
]  # fmt: skip
