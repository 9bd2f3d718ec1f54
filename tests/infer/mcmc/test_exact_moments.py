"""Geodesic kernels against exact moments on every kind of manifold, in float64 with 64 chains.

Each check: mean within 4 standard errors (from the bulk ESS over chains), r_hat < 1.01 (1.1 in the default
run, whose chains are short), and no divergence. Slow runs whose r_hat asks for more draws start again with as
many, at most four times. A correct sampler fails one check with probability 6e-5 and, with 2 to 5 checks in
each of 60 cases (both kernels), any of them with about 1%; the seeds are fixed. The default run takes one
case of each family, the slow one all.
"""

import math

import geoopt
import numpy as np
import pyro
import pytest
import torch
from pyro.ops.stats import effective_sample_size, split_gelman_rubin
from scipy import integrate, special

from pyro_manifold.distributions import RiemannianNormal, WrappedNormal
from pyro_manifold.geometry import SpecialOrthogonal, geometry
from pyro_manifold.infer import GeodesicHMC, GeodesicNUTS, VectorizedMCMC

F64 = torch.float64
SPHERE = geoopt.Sphere()


def tensor(*x):
    return torch.tensor(x, dtype=F64)


class VMF:
    def __init__(self, d, kappa):
        self.manifold, self.shape, self.kappa = SPHERE, (d + 1,), kappa
        self.mu = torch.nn.functional.pad(tensor(0.0, 0.6, 0.8), (0, d - 2))

    def potential(self, x):
        return -self.kappa * (x @ self.mu)

    def checks(self, x):
        n = self.shape[0]
        a = float(special.ive(n / 2, self.kappa) / special.ive(n / 2 - 1, self.kappa))
        across = (
            a / self.kappa
        )  # E x_i^2 off the axis: (1 - E cos^2) / (n - 1), and E cos^2 = 1 - (n - 1) a / kappa
        return [(x @ self.mu, a), (x[..., 0].square(), across), (x[..., 0], 0.0)]


class Bingham:
    """exp(20 x_1^2 + 5 x_2^2) on S^2, two modes."""

    manifold, shape, isometries = SPHERE, (3,), {"x": "antipode"}

    def potential(self, x):
        return -20 * x[0].square() - 5 * x[1].square()

    def checks(self, x):
        def moment(power):  # with x_1 = u: the circle of radius^2 1 - u^2 integrates to I_0 e^{...}
            def f(u):
                b = 2.5 * (1 - u * u)
                return u**power * math.exp(20 * (u * u - 1)) * special.ive(0, b) * math.exp(2 * b)

            return integrate.quad(f, -1, 1, epsabs=1e-13, points=(-1, 1))[0]

        return [(x[..., 0].square(), moment(2) / moment(0)), (x[..., 0], 0.0), (x[..., 0] * x[..., 1], 0.0)]


class Fisher:
    def __init__(self, kappa):
        self.manifold, self.shape, self.s = SpecialOrthogonal(3), (3, 3), kappa * np.array([1.0, 0.8, 0.5])

    def potential(self, x):
        return -(torch.from_numpy(self.s) * x.diagonal()).sum()

    def checks(self, x):
        def log_c(s):  # an integral over one angle [Lee, Bayesian attitude estimation, 2018, eq. 15]
            def f(u):
                a, b = 0.5 * (s[0] - s[1]) * (1 - u), 0.5 * (s[0] + s[1]) * (1 + u)
                return (
                    0.5
                    * special.ive(0, a)
                    * special.ive(0, b)
                    * math.exp(abs(a) + abs(b) + s[2] * u - s.sum())
                )

            return math.log(integrate.quad(f, -1, 1, epsabs=1e-13, epsrel=1e-12)[0]) + s.sum()

        e = 1e-4 * np.eye(3)
        mean = [(log_c(self.s + e[i]) - log_c(self.s - e[i])) / 2e-4 for i in range(3)]
        out = [(x[..., i, i], mean[i]) for i in range(3)]
        if not self.s.any():  # Haar: the mean square of the trace is 1, of an entry 1/3
            out += [(x.diagonal(dim1=-2, dim2=-1).sum(-1).square(), 1.0), (x[..., 0, 1].square(), 1 / 3)]
        return out


class Hyperbolic:
    """Wrapped or Riemannian normal on the hyperboloid, centre at a radius."""

    def __init__(self, distribution, d, radius, scale):
        self.manifold, self.shape, self.scale, self.d, self.distribution = (
            geoopt.Lorentz(),
            (d + 1,),
            scale,
            d,
            distribution,
        )
        self.geo = geometry(self.manifold)
        self.loc = self.geo.exp_frame(
            self.geo.origin(d, dtype=F64), torch.full((d,), radius / d**0.5, dtype=F64)
        )
        self.fn = distribution(self.manifold, self.loc, torch.tensor(scale, dtype=F64), validate_args=False)

    def start(self, n):
        return self.geo.exp_frame(self.loc.expand(n, self.d + 1), 0.3 * torch.randn(n, self.d, dtype=F64))

    def potential(self, x):
        return -self.fn.log_prob(x)

    def checks(self, x):
        v = self.geo.log_frame(self.loc.expand_as(x), x)
        r2 = self.d * self.scale**2
        if self.distribution is RiemannianNormal:

            def area(r):
                return math.sinh(r) ** (self.d - 1) * math.exp(-0.5 * (r / self.scale) ** 2)

            r2 = integrate.quad(lambda r: r * r * area(r), 0, 12)[0] / integrate.quad(area, 0, 12)[0]
        return [(v.square().sum(-1), r2), (v[..., 0], 0.0), (v[..., -1], 0.0)]


class Wishart:
    def __init__(self, nu, condition):
        self.manifold, self.shape, self.nu = geoopt.SymmetricPositiveDefinite(), (3, 3), nu
        self.precision = torch.diag(torch.logspace(0, math.log10(condition), 3, dtype=F64))

    def start(self, n):
        a = torch.randn(n, self.nu, 3, dtype=F64) / self.precision.diagonal().sqrt()
        return a.mT @ a

    def potential(self, x):  # (nu - 4)/2 of Lebesgue's density, and dx = det(x)^2 dvol
        return -0.5 * self.nu * torch.linalg.slogdet(x).logabsdet + 0.5 * (self.precision * x).sum()

    def checks(self, x):
        i = np.arange(3)
        logdet = special.digamma((self.nu - i) / 2).sum() + 3 * math.log(2) - float(self.precision.logdet())
        p = self.precision.diagonal()
        mean = [(x[..., j, j] * p[j], float(self.nu)) for j in (0, 2)]
        return [(torch.linalg.slogdet(x).logabsdet, logdet), *mean, (x[..., 0, 1], 0.0)]


class Langevin:
    """exp(kappa (X_11 + X_22)) on V(5, 2); for kappa > 0 against 200,000 weighted Haar draws, whose own
    error is added."""

    shape = (5, 2)

    def __init__(self, kappa, canonical):
        self.manifold, self.kappa = geoopt.Stiefel(canonical=canonical), kappa

    def potential(self, x):
        return -self.kappa * (x[0, 0] + x[1, 1])

    def checks(self, x):
        f = {
            "trace": lambda y: y[..., 0, 0] + y[..., 1, 1],
            "square": lambda y: y[..., 4, 1].square(),
            "cross": lambda y: y[..., 0, 0] * y[..., 1, 1],
        }
        torch.manual_seed(1)
        y = geometry(self.manifold).uniform_sample((200_000,), (5, 2), dtype=F64)
        w = (self.kappa * f["trace"](y)).softmax(0)
        out = []
        for g in f.values():
            mean = float((w * g(y)).sum())
            out.append((g(x), mean, float((w * (g(y) - mean)).square().sum().sqrt())))
        if self.kappa == 0:
            out = [(f["trace"](x), 0.0), (f["square"](x), 0.2)]
        return out


QUICK = {
    "vMF S2 1": lambda: VMF(2, 1.0),
    "vMF S9 100": lambda: VMF(9, 100.0),
    "Bingham": Bingham,
    "matrix Fisher 2": lambda: Fisher(2.0),
    "wrapped H2 radius 3": lambda: Hyperbolic(WrappedNormal, 2, 3.0, 1.0),
    "Wishart 6": lambda: Wishart(6, 1.0),
    "Langevin 3": lambda: Langevin(3.0, True),
}
SLOW = {
    **{f"vMF S{d} {k:g}": (lambda d=d, k=k: VMF(d, k)) for d in (2, 9) for k in (1.0, 10.0, 100.0)},
    **{f"matrix Fisher {k:g}": (lambda k=k: Fisher(k)) for k in (0.0, 2.0, 20.0)},
    **{
        f"{distribution.__name__} H{d} radius {r:g}": (
            lambda distribution=distribution, d=d, r=r: Hyperbolic(distribution, d, r, 0.7)
        )
        for distribution in (WrappedNormal, RiemannianNormal)
        for d in (2, 5)
        for r in (0.0, 3.0, 5.0)
    },
    "Wishart 30": lambda: Wishart(30, 100.0),
    **{f"Langevin {k:g} {c}": (lambda k=k, c=c: Langevin(k, c)) for k in (0.0, 3.0) for c in (True, False)},
}
for name in QUICK:
    SLOW.pop(name, None)


def draw(kernel, case, draws):
    pyro.set_rng_seed(20)
    if hasattr(case, "start"):
        start = case.start(64)
    else:
        start = geometry(case.manifold).uniform_sample((64,), case.shape, dtype=F64)
    depth = {"max_tree_depth": 6} if kernel is GeodesicNUTS else {}
    k = kernel(
        potential_fn=lambda z: case.potential(z["x"]), manifolds={"x": case.manifold}, chains=64,
        isometries=getattr(case, "isometries", None), **depth,
    )  # fmt: skip
    mcmc = VectorizedMCMC(
        k, num_samples=draws, warmup_steps=100, initial_params={"x": start}, disable_progbar=True
    )
    mcmc.run()
    assert not any(mcmc.diagnostics()["divergences"].values())
    x = mcmc.get_samples(group_by_chain=True)["x"]
    assert geometry(case.manifold).contains(x, 1e-9).all()
    return x


def check(kernel, case, draws, r_hat, longest):
    while True:
        checks = case.checks(draw(kernel, case, draws))
        worst = max(
            float(split_gelman_rubin(values.clone(), chain_dim=0, sample_dim=1)) for values, *_ in checks
        )
        if worst < r_hat or draws == longest:
            break
        draws = min(
            longest, math.ceil(1.5 * draws * (worst - 1) / (r_hat - 1))
        )  # r_hat - 1 falls as their inverse
    assert worst < r_hat
    for values, exact, *error in checks:
        ess = float(effective_sample_size(values.clone(), chain_dim=0, sample_dim=1))
        se = math.hypot(float(values.std()) / ess**0.5, *error)
        assert abs(float(values.mean()) - exact) < 4 * se, (float(values.mean()), exact, se)


@pytest.mark.parametrize("name", [n for n in QUICK if n != "Wishart 6"])  # which is among the slow ones too
def test_moments(name):
    kernel = GeodesicNUTS if name in ("vMF S9 100", "matrix Fisher 2") else GeodesicHMC
    check(kernel, QUICK[name](), 80, 1.1, 80)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [GeodesicNUTS, GeodesicHMC])
@pytest.mark.parametrize("name", [*QUICK, *SLOW])
def test_moments_slow(kernel, name):
    draws = 600 if kernel is GeodesicHMC else 300
    check(kernel, {**QUICK, **SLOW}[name](), draws, 1.01, 4 * draws)
