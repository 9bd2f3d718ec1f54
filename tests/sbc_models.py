"""One model per manifold for simulation-based calibration; ``python tests/sbc_models.py`` prints the table of
the docs.

Seed, simulations and draws were fixed before the first run. Every distribution's ``sample`` makes parameters
and data, every distribution's ``log_prob`` and geometry drives the sampler, so one run checks them all
against each other.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

import geoopt
import pyro
import pyro.distributions as dist
import torch

from pyro_manifold.distributions import ManifoldUniform, VonMisesFisher, WrappedNormal
from pyro_manifold.geometry import SpecialOrthogonal, Torus, geometry
from pyro_manifold.infer import GeodesicHMC, GeodesicNUTS, SBCResult, sbc

SEED, SIMULATIONS, DRAWS = 20261121, 512, 31
D: Any = {"dtype": torch.float64}


def num(*x: float) -> torch.Tensor:
    return torch.tensor(x[0] if len(x) == 1 else x, **D)


def sphere() -> None:
    """A direction, a noise scale (an ordinary site) and five noisy vectors."""
    z = pyro.sample("z", VonMisesFisher(num(0, 0.6, 0.8), num(2.0)))
    s = pyro.sample("s", dist.LogNormal(num(-0.5), 0.4))
    with pyro.plate("n", 5):
        pyro.sample("y", dist.Normal(z, s.unsqueeze(-1)).to_event(1))


def torus() -> None:
    """Two angles, prior across the seam."""
    z = pyro.sample("z", WrappedNormal(Torus(), num(3.0, -1.0), num(1.0)))
    with pyro.plate("n", 3):
        pyro.sample("y", WrappedNormal(Torus(), z, num(0.8)))


def hyperbolic(manifold: geoopt.Manifold) -> None:
    geo = geometry(manifold)
    loc = geo.exp_frame(geo.origin(2, **D), num(1.0, 0.5))
    z = pyro.sample("z", WrappedNormal(manifold, loc, num(0.8)))
    with pyro.plate("n", 3):
        pyro.sample("y", WrappedNormal(manifold, z, num(0.6)))


def ball() -> None:
    hyperbolic(geoopt.PoincareBall(num(1.0)))


def lorentz() -> None:
    hyperbolic(geoopt.Lorentz(num(1.0)))


def rotations() -> None:
    """Wahba's problem: which rotation took three known vectors to three noisy ones?"""
    r = pyro.sample("r", ManifoldUniform(SpecialOrthogonal(3), (3, 3), **D))
    v = num(1, 0, 0, 0, 1, 0, 0.6, 0, 0.8).reshape(3, 3)
    r = r.unsqueeze(-3) if r.dim() == 2 else r
    with pyro.plate("n", 3):
        pyro.sample("y", dist.Normal((r @ v.unsqueeze(-1)).squeeze(-1), num(0.5)).to_event(1))


def stiefel() -> None:
    """An orthonormal 2-frame of R^4 seen through noise."""
    x = pyro.sample("x", ManifoldUniform(geoopt.EuclideanStiefel(), (4, 2), **D))
    pyro.sample("y", dist.Normal(x, num(0.5)).to_event(2))


def spd() -> None:
    """The covariance of six normal vectors."""
    manifold = geoopt.SymmetricPositiveDefinite()
    c = pyro.sample("c", WrappedNormal(manifold, torch.eye(2, **D), num(0.6)))
    with pyro.plate("n", 6):
        pyro.sample("y", dist.MultivariateNormal(torch.zeros(2, **D), c))


def product() -> None:
    """A direction and a hyperbolic point packed into one site, prior coupled, seen through noise."""
    m = geoopt.ProductManifold((geoopt.Sphere(), 3), (geoopt.PoincareBall(num(1.0)), 2))
    scale_tril = torch.linalg.cholesky(0.3 * torch.eye(4, **D) + 0.2)
    p = pyro.sample("p", WrappedNormal(m, num(1, 0, 0, 0, 0), scale_tril=scale_tril))
    pyro.sample("y", dist.Normal(p, num(0.5)).to_event(1))


def nuts(model: Callable[..., Any]) -> GeodesicNUTS:
    return GeodesicNUTS(model)


def hmc(model: Callable[..., Any]) -> GeodesicHMC:
    return GeodesicHMC(model)


MODELS: dict[str, Callable[[], None]] = {
    f.__name__: f for f in (sphere, torus, ball, lorentz, rotations, stiefel, spd, product)
}


def calibrate(name: str, kernel: Callable[..., Any] = nuts, **kwargs: Any) -> SBCResult:
    options = {
        "num_simulations": SIMULATIONS,
        "num_draws": DRAWS,
        "warmup_steps": 100,
        "seed": SEED,
        **kwargs,
    }
    return sbc(
        MODELS[name],
        kernel,
        ["y"],
        simulations_per_batch=options["num_simulations"],
        disable_progbar=True,
        **options,
    )


def main(names: list[str]) -> None:
    print(
        "| model | kernel | statistics | smallest chi-square p | times their number | smallest ECDF p | "
        "smallest ESS | CPU s |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for kernel in (nuts, hmc):
        for name in names or MODELS:
            start = time.process_time()
            r = calibrate(name, kernel)
            cpu, chi2, ecdf = (
                time.process_time() - start,
                min(r.p_values().values()),
                min(r.p_values("ecdf").values()),
            )
            n, low = len(r.ranks), min(r.ess.values())
            figures = f"{chi2:.4f} | {min(1, n * chi2):.3f} | {ecdf:.4f} | {low:.0f} | {cpu:.0f}"
            print(f"| {name} | {kernel.__name__} | {n} | {figures} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
