"""Batches of simulations for calibration, as callables that travel to another process: truths, posterior
draws, ranks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import MCMC, Predictive
from pyro.infer.mcmc.mcmc_kernel import MCMCKernel
from pyro.ops.stats import effective_sample_size
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import biject_to

from ..mcmc import VectorizedMCMC
from ..positive_definite import sampled_on
from ..workers import own_state
from .held_data import hold_data
from .test_quantities import Statistic, default_statistics

__all__ = ["Batched", "Separate"]

Values = dict[str, Tensor]
Arrays = dict[str, Any]  # of numpy


@dataclass(frozen=True)
class _Task:
    """One batch of simulations, as a callable that travels to another process."""

    model: Callable[..., Any]
    posterior: Callable[..., Any]
    observed: tuple[str, ...]
    args: tuple
    seeds: tuple[int, ...]
    num_draws: int
    warmup_steps: int
    max_samples: int
    statistics: dict[str, Statistic] | None

    def __call__(self) -> tuple[Arrays, Arrays]:
        """Ranks and effective sample sizes, per statistic one row per simulation.

        They travel as arrays: a tensor would be fetched from the worker's memory, and be lost with the
        worker.
        """
        with own_state():
            try:
                ranks, ess = self._run()
                return {k: v.cpu().numpy() for k, v in ranks.items()}, {
                    k: v.cpu().numpy() for k, v in ess.items()
                }
            except (Exception, SystemExit) as error:
                raise RuntimeError(
                    f"sbc: the simulation with seed {self.seeds[0]} failed ({type(error).__name__}: "
                    f"{error}). To look at it: pyro.set_rng_seed(seed), then run the model and condition it "
                    "on its own data."
                ) from error

    def _prior(self) -> dict[str, Any]:
        """The random sites of one joint draw of parameters and data."""
        with torch.no_grad(), poutine.block():
            trace = poutine.trace(self.model).get_trace(*self.args)
        nodes = {k: v for k, v in trace.iter_stochastic_nodes() if not site_is_subsample(v)}
        missing = [k for k in self.observed if k not in nodes]
        if missing or len(nodes) == len(self.observed):
            raise ValueError(
                f"observed: got {list(self.observed)}; expected some, not all, of the model's random sites "
                f"{sorted(nodes)}. Write the model without obs=; sbc conditions it. Reparametrise in "
                "posterior, not here."
            )
        return nodes

    def _run(self) -> tuple[Values, Values]:
        truths = []
        for seed in self.seeds:
            pyro.set_rng_seed(seed)
            truths.append(self._prior())
        truth = {k: torch.stack([t[k]["value"] for t in truths]) for k in truths[0]}
        _check_finite("model", truth, "draws from the model; check its prior, and the simulator")
        statistics = self.statistics or default_statistics(self.model, self.args, self.observed)
        num_samples = min(self.max_samples, 2 * self.num_draws)
        while True:
            draws = self._draw(truth, num_samples)  # (simulations, chains, draws) + shape
            latent = {k: v for k, v in draws.items() if k not in self.observed}
            _check_finite("posterior", latent, "draws; a rank cannot count others")
            f = {k: s(draws) for k, s in statistics.items()}
            _check_numbers(f)
            ess = {k: self._ess(v) for k, v in f.items()}
            worst = min(float(e.mean()) for e in ess.values())
            enough = worst >= self.num_draws
            if enough or num_samples >= self.max_samples or self._fixed:
                break
            num_samples = min(self.max_samples, 2 * num_samples)
        ranks = {}
        for k, s in statistics.items():
            x = f[k].flatten(1)
            if x.shape[1] < self.num_draws:
                raise ValueError(
                    f"posterior: gave {x.shape[1]} draws, expected at least num_draws = {self.num_draws}."
                )
            keep = torch.linspace(0, x.shape[1] - 1, self.num_draws).round().long()
            x, x0 = x[:, keep], s(truth).unsqueeze(-1)
            _check_numbers({k: x0})
            ties = (x == x0).sum(-1)
            ranks[k] = (x < x0).sum(-1) + (torch.rand(ties.shape) * (ties + 1)).long()
        return ranks, ess

    @staticmethod
    def _ess(x: Tensor) -> Tensor:
        n = x.shape[1] * x.shape[2]
        varies = x.flatten(1).std(-1) > 0
        x = torch.where(varies[:, None, None], x, torch.randn_like(x)).movedim(0, -1).double()
        return torch.where(
            varies, effective_sample_size(x, chain_dim=0, sample_dim=1).clamp(max=float(n)), 1.0
        )

    def _draw(self, truth: Values, num_samples: int) -> Values:
        raise NotImplementedError

    _fixed = False


def _check_finite(who: str, values: Values, what: str) -> None:
    for k, v in values.items():
        bad = int((~v.isfinite()).sum()) if v.is_floating_point() else 0
        if bad:
            raise ValueError(
                f"{who}: {bad} of {v.numel()} values of {k!r} are NaN or infinite, expected finite {what}."
            )


def _check_numbers(statistics: Values) -> None:
    for k, v in statistics.items():
        if bool(v.isnan().any()):
            raise ValueError(
                f"statistics: {k!r} is NaN for {int(v.isnan().sum())} of {v.numel()} draws, expected a "
                "number for each; a rank cannot count NaN."
            )


class Separate(_Task):
    """One simulation with a posterior of its own."""

    def _draw(self, truth: Values, num_samples: int) -> Values:
        data = {k: truth[k][0] for k in self.observed}
        answer = self.posterior(poutine.condition(self.model, data=data))
        if isinstance(answer, MCMCKernel):
            chains = getattr(answer, "chains", 1)
            driver = VectorizedMCMC if chains > 1 else MCMC
            mcmc = driver(
                answer,
                num_samples=-(-num_samples // chains),
                warmup_steps=self.warmup_steps,
                disable_progbar=True,
            )
            mcmc.run(*self.args)
            draws = self._with_functions(answer, truth, mcmc.get_samples(group_by_chain=True))
        elif isinstance(answer, dict):
            object.__setattr__(self, "_fixed", True)
            draws = {k: v.detach().unsqueeze(0) for k, v in answer.items()}
        else:
            raise ValueError(
                f"posterior: returned {type(answer).__name__}; expected an MCMC kernel (which sbc runs) or a "
                "dict with the draws along the first axis, for example Predictive(guide, num_samples=...)()."
            )
        lacking = [k for k in truth if k not in draws and k not in data]
        if lacking:
            raise ValueError(
                f"posterior: gave no draws of {lacking}, expected all latent sites of the model, "
                f"{sorted(truth)}."
            )
        chains, n = next(iter(draws.values())).shape[:2]
        both = {k: v.expand((chains, n) + v.shape) for k, v in data.items()}
        return {
            k: v.unsqueeze(0) for k, v in {**both, **{k: v for k, v in draws.items() if k in truth}}.items()
        }

    def _with_functions(self, kernel: Any, truth: Values, draws: Values) -> Values:
        """The draws, and values of the model's sites that are functions of them where the posterior is
        reparametrised."""
        lacking = [k for k in truth if k not in draws and k not in self.observed]
        if not lacking or getattr(kernel, "model", None) is None:
            return draws
        chains, n = next(iter(draws.values())).shape[:2]
        flat = {k: v.flatten(0, 1) for k, v in draws.items()}
        with torch.no_grad(), poutine.block():
            first = poutine.condition(kernel.model, data={k: v[0] for k, v in flat.items()})
            nodes = poutine.trace(first).get_trace(*self.args).nodes
            functions = [k for k in lacking if k in nodes and nodes[k]["is_observed"]]
            found = Predictive(kernel.model, flat, return_sites=functions)(*self.args) if functions else {}
        return {**draws, **{k: v.reshape((chains, n) + truth[k].shape[1:]) for k, v in found.items()}}


class Batched(_Task):
    """A batch of simulations as the chains of one kernel, each with its own data."""

    def _draw(self, truth: Values, num_samples: int) -> Values:
        first = {k: truth[k][0] for k in self.observed}
        held = hold_data(first)(self.model)
        kernel = self.posterior(held)
        if not hasattr(kernel, "chains"):
            raise ValueError(
                f"posterior: returned {type(kernel).__name__}; simulations_per_batch needs GeodesicHMC or "
                f"GeodesicNUTS."
            )
        kernel.chains = len(self.seeds)
        start = self._starts()
        start.update({k: truth[k] for k in self.observed})
        mcmc = VectorizedMCMC(
            kernel,
            num_samples=num_samples,
            warmup_steps=self.warmup_steps,
            initial_params=start,
            disable_progbar=True,
        )
        mcmc.run(*self.args)
        return {k: v.unsqueeze(1) for k, v in mcmc.get_samples(group_by_chain=True).items()}

    def _starts(self) -> Values:
        """Independent prior draws, in the space that the kernel samples."""
        rows, nodes = [], {}
        for _ in self.seeds:
            rows.append(nodes := self._prior())
        latent = [k for k in nodes if k not in self.observed]
        return {
            k: _to_free(nodes[k]["fn"].support)(torch.stack([r[k]["value"] for r in rows])) for k in latent
        }


def _to_free(support: Any) -> Any:
    manifold, measure = sampled_on(support)
    return measure if manifold is not None else biject_to(support).inv
