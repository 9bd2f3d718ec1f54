"""Pyro's NUTS, Mici's constrained HMC, NumPyro's NUTS and BlackJAX's NUTS, timed as ``mcmc_runs.py`` says.

Programs of JAX are compiled ahead of time, so that compiling is timed apart. NumPyro compiles one program when a user calls
``run``: of its two here (warm-up, sampling) the longer is counted.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from mcmc_runs import Result, used
from pyro.infer import MCMC, NUTS

Statistics = Callable[[Any], torch.Tensor]


# --- Pyro ---------------------------------------------------------------------------------------------------
def pyro_chain(
    kernel: NUTS,
    count: Callable[[], int],
    statistics: Statistics,
    warmup: int,
    draws: int,
    *data: Any,
    **kwargs: Any,
) -> Result:
    """One chain; ``count`` is the number of gradients so far."""
    seen = []

    def mark(kernel: Any, params: Any, stage: str, i: int) -> None:
        if stage.startswith("Warmup") and i == warmup - 1:
            seen.append((count(), used()))

    mcmc = MCMC(kernel, num_samples=draws, warmup_steps=warmup, disable_progbar=True, hook_fn=mark, **kwargs)
    begin = used()
    mcmc.run(*data)
    (warm, middle), end = seen[0], used()
    x = statistics(mcmc.get_samples(group_by_chain=True))
    div = sum(map(len, mcmc.diagnostics()["divergences"].values()))
    return Result(x, count() - warm, warm, end - middle, div, middle - begin)


# --- Mici ---------------------------------------------------------------------------------------------------
def mici_chain(
    potential: Callable,
    constraint: Callable,
    gradient: Callable,
    jacobian: Callable,
    calls: list[int],
    start: np.ndarray,
    warmup: int,
    draws: int,
    seed: int,
) -> tuple[torch.Tensor, tuple[int, int, float, int]]:
    """Draws of a density with respect to Hausdorff measure; then gradients, those of warm-up, CPU seconds,
    divergences."""
    import mici

    marks = []

    def trace(state):  # called once an iteration; the last ``draws`` calls are those of sampling
        marks.append((calls[0], time.process_time()))
        return {"x": state.pos}

    system = mici.systems.DenseConstrainedEuclideanMetricSystem(
        potential, constraint, grad_neg_log_dens=gradient, jacob_constr=jacobian, dens_wrt_hausdorff=True
    )
    integrator = mici.integrators.ConstrainedLeapfrogIntegrator(system)
    sampler = mici.samplers.DynamicMultinomialHMC(system, integrator, np.random.default_rng(seed))
    out = sampler.sample_chains(
        warmup,
        draws,
        [start],
        adapters=[mici.adapters.DualAveragingStepSizeAdapter(0.8)],
        trace_funcs=[trace],
        display_progress=False,
    )
    x = torch.from_numpy(np.stack(out.traces["x"]))
    div = int(np.stack(out.statistics["diverging"]).sum()) if "diverging" in out.statistics else 0
    (warm, begin), (total, end) = marks[-draws], marks[-1]
    return x, (total - warm, warm, end - begin, div)


# --- JAX ----------------------------------------------------------------------------------------------------
def ahead(f: Callable, *args: Any) -> tuple[Callable, float]:
    """``f`` compiled for arguments of these shapes, and the CPU seconds that it took."""
    import jax

    start = used()
    g = jax.jit(f).lower(*args).compile()
    return g, used() - start


def timed(f: Callable, *args: Any) -> tuple[Any, float]:
    import jax

    start = used()
    out = jax.block_until_ready(f(*args))
    return out, used() - start


def tensors(tree: Any) -> Any:
    """Arrays of JAX as tensors."""
    import jax

    return jax.tree.map(lambda x: torch.from_numpy(np.array(x)), tree)


def numpyro_runs(
    kernel: Any,
    statistics: Statistics,
    chains: int,
    warmup: int,
    draws: int,
    seeds: int,
    *data: Any,
    start: Any = None,
) -> list[Result]:
    """``chains`` vectorised chains of a NumPyro kernel for each seed."""
    import jax
    import numpyro

    jax.config.update("jax_enable_x64", True)
    mcmc = numpyro.infer.MCMC(
        kernel,
        num_warmup=warmup,
        num_samples=draws,
        num_chains=chains,
        chain_method="vectorized",
        progress_bar=False,
    )
    fields = ("num_steps", "diverging")

    def warm(key: Any) -> Any:
        mcmc.warmup(key, *data, init_params=start, extra_fields=fields, collect_warmup=True)
        return mcmc.last_state, mcmc.get_extra_fields()["num_steps"]

    def sample(state: Any) -> Any:
        mcmc.post_warmup_state = state
        mcmc.run(state.rng_key, *data, extra_fields=fields)
        return mcmc.get_samples(group_by_chain=True), mcmc.get_extra_fields()

    key = jax.random.PRNGKey(0)
    warm, first = ahead(warm, key)
    sample, second = ahead(sample, warm(key)[0])
    results = []
    for seed in range(seeds):
        (state, steps), before = timed(warm, jax.random.PRNGKey(seed))
        (x, extra), spent = timed(sample, state)
        results.append(
            Result(
                statistics(tensors(x)),
                int(extra["num_steps"].sum()),
                int(steps.sum()),
                spent,
                int(extra["diverging"].sum()),
                before,
                max(first, second),
            )
        )
    return results


def blackjax_runs(
    logdensity: Callable,
    statistics: Statistics,
    start: Any,
    warmup: int,
    draws: int,
    seeds: int,
    settle: int = 50,
) -> list[Result]:
    """Window adaptation of one chain, then all chains (rows of ``start``) under ``vmap`` with what it found; their first
    ``settle`` draws are left out and count as warm-up."""
    import blackjax
    import jax

    jax.config.update("jax_enable_x64", True)
    adaptation = blackjax.window_adaptation(blackjax.nuts, logdensity)
    kernel = blackjax.nuts.build_kernel()

    def warm(key: Any) -> Any:
        found, info = adaptation.run(key, start[0], warmup)
        return found.parameters, info.info.num_integration_steps.sum()

    def sample(key: Any, parameters: Any) -> Any:
        def step(states: Any, key: Any) -> Any:
            keys = jax.random.split(key, len(start))
            states, info = jax.vmap(
                lambda k, s: kernel(
                    k, s, logdensity, parameters["step_size"], parameters["inverse_mass_matrix"]
                )
            )(keys, states)
            return states, (states.position, info.num_integration_steps, info.is_divergent)

        states = jax.vmap(lambda x: blackjax.nuts.init(x, logdensity))(start)
        return jax.lax.scan(step, states, jax.random.split(key, settle + draws))[1]

    key = jax.random.PRNGKey(0)
    warm, first = ahead(warm, key)
    sample, second = ahead(sample, key, warm(key)[0])
    results = []
    for seed in range(seeds):
        one, two = jax.random.split(jax.random.PRNGKey(seed))
        (parameters, steps), before = timed(warm, one)
        (x, counts, diverging), spent = timed(sample, two, parameters)
        settling = int(counts[:settle].sum())
        share = settling / int(counts.sum())
        results.append(
            Result(
                statistics(tensors(x[settle:].swapaxes(0, 1))),
                int(counts.sum()) - settling,
                int(steps) + settling,
                (1 - share) * spent,
                int(diverging[settle:].sum()),
                before + share * spent,
                first + second,
            )
        )
    return results
