"""Groups of chains on the workers of any executor."""

import copy
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from torch import Tensor
from tqdm import tqdm

from ...ops.arguments import checked
from ..workers import Labels, MakesExecutor, own_state, run_tasks, seed_of
from .driver import VectorizedMCMC

__all__ = ["ParallelMCMC"]

_LABELS = Labels(
    caller="mcmc",
    one="group of chains",
    several="groups of chains",
    sent="the kernel, its model or the arguments of run",
    remedy="To look at it: pyro.set_rng_seed(seed), then run the kernel in VectorizedMCMC.",
)


@dataclass(frozen=True)
class _Group:
    """The chains of one kernel, as a callable that travels to another process."""

    kernel: Any
    options: dict[str, Any]
    parameters: Any
    seeds: tuple[int]
    args: tuple
    kwargs: dict[str, Any]

    def __call__(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Draws, as arrays (chains, draws, ...): a tensor would be fetched from the worker's memory, and be lost with
        the worker; and the diagnostics of each chain."""
        with own_state(self.parameters):
            try:
                pyro.set_rng_seed(self.seeds[0])
                mcmc = VectorizedMCMC(copy.deepcopy(self.kernel), **self.options, disable_progbar=True)
                mcmc.run(*self.args, **self.kwargs)
                draws = {k: v.cpu().numpy() for k, v in mcmc.get_samples(group_by_chain=True).items()}
                return draws, list(mcmc._diagnostics)
            except (Exception, SystemExit) as error:
                raise RuntimeError(
                    f"mcmc: the group of chains with seed {self.seeds[0]} failed ({type(error).__name__}: {error}). "
                    f"{_LABELS.remedy}"
                ) from error


class ParallelMCMC(VectorizedMCMC):
    """Groups of chains on several cores or machines: every group is one kernel's ``chains``, with a warm-up of its
    own, and runs as one task of an executor.

    Draws depend on ``seed`` and the number of groups, not on the executor or the number of its workers. Afterwards the
    run is as one of :class:`VectorizedMCMC` with ``groups * kernel.chains`` chains; draws are on the CPU.

    :param kernel: a :class:`~pyro_manifold.infer.GeodesicHMC` or ``GeodesicNUTS``; each group runs a copy.
    :param num_samples: draws of each chain; ``warmup_steps`` before them, as many if omitted.
    :param groups: number of tasks, at least as many as there are workers to be used.
    :param seed: each group's seed is a hash of this and its number.
    :param executor: any ``concurrent.futures.Executor``: process pool, MPI pool, Dask's ``client.get_executor()``; a
        function that makes one, ``lambda: ProcessPoolExecutor(4)``; or None, to run one group after another here. For
        processes the kernel, its model and the arguments of ``run`` must pickle (functions at the top level of a
        module; Dask takes closures too). Threads take turns, since Pyro's state is global.
    :param retries: how often a pool is made anew after one of its workers died, for a function that makes executors.
        (Dask repeats the tasks of dead workers itself.)
    :param initial_params: as for :class:`pyro.infer.MCMC`, with the chains of all groups along the first axis.
    :param disable_progbar: no progress bar; it counts groups.
    :raises ValueError: for initial values of another number of chains, or what cannot be sent to a process.
    :raises RuntimeError: when a group fails or its worker dies, with its seed.

    >>> import geoopt
    >>> import pyro_manifold.distributions as mdist
    >>> from pyro_manifold.infer import GeodesicNUTS
    >>> model = lambda: pyro.sample("x", mdist.ManifoldUniform(geoopt.Sphere(), 3))
    >>> mcmc = ParallelMCMC(GeodesicNUTS(model, chains=2), 10, 10, groups=3, disable_progbar=True)
    >>> mcmc.run()
    >>> mcmc.get_samples(group_by_chain=True)["x"].shape
    torch.Size([6, 10, 3])
    """

    @checked(num_samples=0, warmup_steps=0, groups=1, retries=0)
    def __init__(
        self,
        kernel: Any,
        num_samples: int,
        warmup_steps: int | None = None,
        *,
        groups: int = 2,
        seed: int = 0,
        executor: MakesExecutor | None = None,
        retries: int = 0,
        initial_params: dict[str, Tensor] | None = None,
        disable_progbar: bool = False,
    ) -> None:
        super().__init__(kernel, num_samples, warmup_steps, disable_progbar=disable_progbar)
        self.groups, self.seed, self.executor, self.retries = groups, seed, executor, retries
        chains = groups * kernel.chains
        for name, value in (initial_params or {}).items():
            if value.shape[:1] != (chains,):
                raise ValueError(
                    f"initial_params: got shape {tuple(value.shape)} for {name}, expected ({chains}, ...), a value for "
                    f"each of {groups} x {kernel.chains} chains."
                )
        self._starts = initial_params
        self._progress = not disable_progbar

    def _start(self, group: int) -> dict[str, Tensor] | None:
        if self._starts is None:
            return None
        n = self.kernel.chains
        part = slice(group * n, (group + 1) * n) if n > 1 else group
        return {k: v[part] for k, v in self._starts.items()}

    def run(self, *args: Any, **kwargs: Any) -> None:
        parameters = pyro.get_param_store().get_state()
        options = {"num_samples": self.num_samples, "warmup_steps": self.warmup_steps}
        tasks = [
            _Group(
                self.kernel,
                {**options, "initial_params": self._start(i)},
                parameters,
                (seed_of(self.seed, i),),
                args,
                kwargs,
            )
            for i in range(self.groups)
        ]
        with tqdm(total=self.groups, desc="groups of chains", disable=not self._progress) as bar:
            results = run_tasks(
                tasks, self.executor, _LABELS, retries=self.retries, done=lambda task: bar.update()
            )
        draws = [{k: torch.as_tensor(v) for k, v in group.items()} for group, _ in results]
        self._samples = {k: torch.cat([group[k] for group in draws]) for k in draws[0]}
        self._diagnostics = [chain for _, each in results for chain in each]
        self._args, self._kwargs = args, kwargs
        self.num_chains = self.groups * self.kernel.chains
