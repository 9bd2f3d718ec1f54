"""Weights of two modes that no path connects, with and without independence proposals.

    python tests/benchmarks/bench_far_modes.py

Two von Mises-Fisher modes on S^2 of concentration 100 and weights 2/3 and 1/3, their centres 143 degrees apart; 64
chains of one kernel, 100 draws after 100 transitions of warm-up, starts uniform. Printed for each seed: share of
the draws in the first mode, its effective draws (of 6400), gradients a draw and the mean acceptance of proposals.
"""

import geoopt
import pyro
import pyro.distributions as dist
import torch
from pyro.ops.stats import effective_sample_size

from pyro_manifold.distributions import ManifoldUniform, VonMisesFisher
from pyro_manifold.infer import GeodesicHMC, GeodesicNUTS, VectorizedMCMC

F64 = torch.float64
CENTRES = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.6, -0.8]], dtype=F64)
CHAINS, DRAWS, SEEDS = 64, 100, 3


def mixture(weights: list[float], concentration: float) -> dist.Distribution:
    parts = VonMisesFisher(CENTRES, torch.full((2,), concentration, dtype=F64))
    return dist.MixtureSameFamily(dist.Categorical(torch.tensor(weights, dtype=F64)), parts)


PROPOSALS = {
    "none": {},
    "a mixture half as concentrated, equal weights": {"x": mixture([0.5, 0.5], 50.0)},
    "a mixture a tenth as concentrated, equal weights": {"x": mixture([0.5, 0.5], 10.0)},
    "uniform": {"x": ManifoldUniform(geoopt.Sphere(), 3, dtype=F64)},
}


def model() -> None:
    pyro.sample("x", mixture([2 / 3, 1 / 3], 100.0))


def main() -> None:
    print("| kernel | proposals | weight (2/3) | effective draws | gradients a draw | acceptance |")
    print("|---|---|---|---|---|---|")
    for make in (GeodesicNUTS, GeodesicHMC):
        for name, proposals in PROPOSALS.items():
            columns = []
            for seed in range(SEEDS):
                pyro.set_rng_seed(seed)
                kernel = make(model, chains=CHAINS, proposals=proposals)
                mcmc = VectorizedMCMC(kernel, DRAWS, warmup_steps=100, disable_progbar=True)
                mcmc.run()
                d = mcmc.diagnostics()
                first = (mcmc.get_samples(group_by_chain=True)["x"] @ CENTRES[0] > 0.3).to(F64)
                ess = float(effective_sample_size(first.clone(), chain_dim=0, sample_dim=1))
                gradients = sum(d["gradients"].values()) - sum(d["warmup gradients"].values())
                rates = [rate["x"] for rate in d.get("proposal acceptance", {}).values()] or [0.0]
                columns.append(
                    [
                        f"{float(first.mean()):.3f}",
                        f"{ess:.0f}",
                        f"{gradients / CHAINS / DRAWS:.1f}",
                        f"{sum(rates) / len(rates):.2f}",
                    ]
                )
            figures = " | ".join(", ".join(column) for column in zip(*columns, strict=True))
            print(f"| {make.__name__} | {name} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
