r"""Simulation-based calibration: does inference recover parameters drawn from its own prior?

.. math:: \theta^*\sim p(\theta),\quad y\sim p(y\mid\theta^*),\quad \theta_{1..L}\sim q(\theta\mid y)
    \quad\Longrightarrow\quad r = \#\{l : f(\theta_l, y) < f(\theta^*, y)\} \sim \mathrm{Uniform}\{0,\dots,L\}

for every statistic f, if and only if :math:`q` is the posterior as far as the statistics can see.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ...ops.arguments import checked
from ..workers import Labels, MakesExecutor, run_tasks, seed_of
from .tasks import Batched, Separate, Values
from .test_quantities import Statistic
from .uniformity import bins_for, chi_square, ecdf_test

__all__ = ["SBCResult", "sbc"]


@dataclass(frozen=True)
class SBCResult:
    """Ranks of one calibration run; ``print`` it for a table, or draw it with
    :func:`pyro_manifold.plotting.plot_sbc`.

    :param dict ranks: statistic -> ranks in ``0..num_draws``, shape ``(num_simulations,)``.
    :param int num_draws: posterior draws that each rank counts.
    :param dict ess: statistic -> effective sample size of the unthinned draws, averaged over simulations.

    >>> ranks = torch.arange(64) % 8
    >>> print(SBCResult({"good": ranks, "bad": ranks // 2}, 7, {"good": 9.0, "bad": 9.0}))
    SBC: 64 simulations, 7 draws each, 8 bins
    statistic           ranks  chi2 p  ecdf p    ESS
    good             ▅▅▅▅▅▅▅▅  1.0000  ...     9.0
    bad              ████▁▁▁▁  0.0000  0.0001    9.0
    smallest chi2 p times 2 statistics: 0.0000: not calibrated at 0.01
    """

    ranks: Values
    num_draws: int
    ess: dict[str, float] = field(default_factory=dict)

    @property
    def num_simulations(self) -> int:
        return len(next(iter(self.ranks.values())))

    def p_values(self, test: str = "chi2") -> dict[str, float]:
        """One p-value per statistic, ``"chi2"`` of binned ranks or ``"ecdf"``; they are not adjusted for
        their number."""
        if test not in ("chi2", "ecdf"):
            raise ValueError(f"test: got {test!r}, expected 'chi2' or 'ecdf'.")
        f = chi_square if test == "chi2" else ecdf_test
        return {k: f(r, self.num_draws) for k, r in self.ranks.items()}

    def is_calibrated(self, alpha: float = 0.01, test: str = "chi2") -> bool:
        """Is every p-value above ``alpha`` over the number of statistics (Bonferroni)?"""
        return min(self.p_values(test).values()) > alpha / len(self.ranks)

    def __str__(self) -> str:
        bins = bins_for(self.num_simulations, self.num_draws)
        width = max(9, *map(len, self.ranks))
        chi2, ecdf = self.p_values("chi2"), self.p_values("ecdf")
        lines = [
            f"SBC: {self.num_simulations} simulations, {self.num_draws} draws each, {bins} bins",
            f"{'statistic':{width}} {'ranks':>{max(bins, 15)}}  chi2 p  ecdf p    ESS",
        ]
        for k, r in self.ranks.items():
            counts = torch.bincount(r * bins // (self.num_draws + 1), minlength=bins)
            bars = "".join(
                "▁▂▃▄▅▆▇█"[min(7, int(4 * c * bins / self.num_simulations))] for c in counts.tolist()
            )
            ess = self.ess.get(k, float("nan"))
            lines.append(f"{k:{width}} {bars:>{max(bins, 15)}}  {chi2[k]:.4f}  {ecdf[k]:.4f} {ess:6.1f}")
        smallest = min(chi2.values()) * len(chi2)
        verdict = "consistent with calibration" if self.is_calibrated() else "not calibrated"
        lines.append(
            f"smallest chi2 p times {len(chi2)} statistics: {min(smallest, 1.0):.4f}: {verdict} at 0.01"
        )
        short = [k for k, e in self.ess.items() if e < self.num_draws]
        if short:
            lines.append(
                f"ESS below num_draws for {', '.join(short)}: correlated draws have uneven ranks; raise "
                f"max_samples"
            )
        return "\n".join(lines)


_LABELS = Labels(
    caller="sbc",
    one="simulation",
    several="simulations",
    sent="model, posterior or statistics",
    remedy="To look at it: pyro.set_rng_seed(seed), then run the model and condition it on its own data.",
)


@checked(num_simulations=1, num_draws=1, warmup_steps=0, simulations_per_batch=0, retries=0)
def sbc(
    model: Callable[..., Any],
    posterior: Callable[..., Any],
    observed: Sequence[str],
    *,
    args: tuple = (),
    num_simulations: int = 128,
    num_draws: int = 31,
    warmup_steps: int = 200,
    max_samples: int | None = None,
    statistics: dict[str, Statistic] | None = None,
    simulations_per_batch: int = 0,
    seed: int = 0,
    executor: MakesExecutor | None = None,
    retries: int = 0,
    disable_progbar: bool = False,
) -> SBCResult:
    r"""Simulation-based calibration of any inference on any model, on this machine or a cluster.

    .. math:: \theta^*\sim p,\; y\sim p(\cdot\mid\theta^*),\; r = \#\{l\le L : f(\theta_l, y) < f(\theta^*,
        y)\} \sim \mathrm{Uniform}\{0,\dots,L\}

    :param model: Pyro model written without ``obs``; it is conditioned here.
    :param posterior: from the conditioned model to an MCMC kernel, which is run, or to a dict of draws (draws
        along the first axis) from any other inference, e.g. a guide that it trains.
    :param observed: names of the sites that are data.
    :param tuple args: arguments of the model.
    :param int num_simulations: S, pairs of parameters and data.
    :param int num_draws: L, posterior draws counted by each rank. A kernel gives 2 L draws or, while their
        effective sample size is below L for some statistic, twice as many again; evenly spaced ones are kept.
    :param int warmup_steps: of the kernel.
    :param int max_samples: bound on the draws of a kernel; default 16 L. The result lists statistics that
        stay below L.
    :param dict statistics: name -> function of a dict of values (latent and observed sites, any leading axes)
        to one number each. By default every coordinate of the latent sites, distances to the base point for
        manifold sites, and the log likelihood, which sees errors in how data enter (Modrák et al.).
    :param int simulations_per_batch: if not 0, that many simulations share one kernel as its chains, each
        with its own data: much faster; for :class:`GeodesicHMC` and :class:`GeodesicNUTS`, whose step size
        and scales are then shared as well.
    :param int seed: each simulation's seed is a hash of this and its number: results are the same under every
        executor.
    :param executor: any ``concurrent.futures.Executor``: process pool, MPI pool, Dask's
        ``client.get_executor()``. For processes model, posterior and statistics must pickle (functions at the
        top level of a module; Dask takes closures too). Threads take turns, since Pyro's state is global. Or a
        function that makes such an executor, ``lambda: ProcessPoolExecutor(4)``.
    :param int retries: how often a pool is made anew after one of its workers died, for a function that makes
        executors. (Dask repeats the tasks of dead workers itself.)
    :param bool disable_progbar: no progress bar.
    :raises ValueError: for names that are no random sites, counts below 1, too few draws.
    :raises RuntimeError: when a simulation fails or its worker dies, with its seed; the others are cancelled.
        A simulation with NaN among its data, draws or statistics fails.

    References: Talts et al. 2018, algorithm 2 (arXiv 1804.06788); Modrák et al. 2023 (data-dependent
    statistics); Säilynoja, Bürkner & Vehtari 2022 (bands).

    >>> import pyro, pyro.distributions as dist
    >>> def model():
    ...     m = pyro.sample("m", dist.Normal(0.0, 1.0))
    ...     pyro.sample("y", dist.Normal(m, 1.0))
    >>> def exact(conditioned):  # the conjugate posterior N(y/2, 1/2)
    ...     y = poutine.trace(conditioned).get_trace().nodes["y"]["value"]
    ...     return {"m": dist.Normal(y / 2, 0.5**0.5).sample((7,))}
    >>> from pyro import poutine
    >>> sbc(model, exact, ["y"], num_simulations=40, num_draws=7, disable_progbar=True).is_calibrated()
    True
    """
    for name, n in (("num_simulations", num_simulations), ("num_draws", num_draws)):
        if not isinstance(n, int) or n < 1:
            raise ValueError(f"{name}: got {n!r}, expected an integer of at least 1.")
    if not isinstance(simulations_per_batch, int) or simulations_per_batch < 0:
        raise ValueError(
            f"simulations_per_batch: got {simulations_per_batch!r}, expected 0 or a number of simulations."
        )
    if isinstance(observed, str):
        raise ValueError(
            f"observed: got the string {observed!r}, expected a list of site names: [{observed!r}]."
        )
    max_samples = 16 * num_draws if max_samples is None else max_samples
    if max_samples < num_draws:
        raise ValueError(f"max_samples: got {max_samples}, expected at least num_draws = {num_draws}.")
    seeds = [seed_of(seed, i) for i in range(num_simulations)]
    size = max(1, simulations_per_batch)
    kind = Batched if simulations_per_batch else Separate
    tasks = [
        kind(
            model,
            posterior,
            tuple(observed),
            args,
            tuple(seeds[i : i + size]),
            num_draws,
            warmup_steps,
            max_samples,
            statistics,
        )
        for i in range(0, num_simulations, size)
    ]
    with tqdm(total=num_simulations, desc="SBC", disable=disable_progbar) as bar:
        results = run_tasks(
            tasks, executor, _LABELS, retries=retries, done=lambda task: bar.update(len(task.seeds))
        )
    ranks = {k: torch.as_tensor(np.concatenate([r[k] for r, _ in results])) for k in results[0][0]}
    ess = {k: float(np.concatenate([e[k] for _, e in results]).mean()) for k in ranks}
    return SBCResult(ranks, num_draws, ess)
