"""What a run of a sampler gave and what it cost.

ESS: the smallest bulk ESS (ArviZ) of its statistics. Cost: gradients, and CPU seconds of compiling (recording or tracing
included), of warm-up and of sampling; those of processes that were waited for, such as a C++ compiler, are counted.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import arviz
import torch

from pyro_manifold.infer import GeodesicHMC, GeodesicNUTS, VectorizedMCMC, recording


def used() -> float:
    """CPU seconds of this process and of those it has waited for."""
    t = os.times()
    return time.process_time() + t.children_user + t.children_system


def flat(parts: Iterable[torch.Tensor]) -> torch.Tensor:
    """Statistics along one last axis."""
    return torch.cat([v.reshape(v.shape[:2] + (-1,)) for v in parts], -1)


def effective(x: torch.Tensor) -> float:
    """Smallest bulk ESS over the last axis of (chains, draws, statistics)."""
    values = x.detach().double().numpy()
    return min(float(arviz.ess(values[..., i], method="bulk")) for i in range(values.shape[-1]))


@dataclass
class Result:
    values: torch.Tensor  # (chains, draws, statistics)
    gradients: int
    warm_gradients: int
    seconds: float
    divergences: int = 0
    warm_seconds: float = 0.0
    compile_seconds: float = 0.0

    def __add__(self, other: "Result") -> "Result":
        values = torch.cat([self.values, other.values])
        names = [k for k in vars(self) if k != "values"]
        return Result(values, **{k: getattr(self, k) + getattr(other, k) for k in names})

    def __str__(self) -> str:
        ess = effective(self.values)
        div = f", {self.divergences} div" if self.divergences else ""
        each, all_ = ess / self.gradients, ess / (self.gradients + self.warm_gradients)
        return f"{each:.3f} ({all_:.3f}), {ess / self.seconds:.0f}/s{div}"


HEADER = (
    "sampler | draws | ESS | per gradient | div | CPU s: compiling | warm-up | sampling | ESS/s of sampling | without "
    "compiling | in all |"
)


def row(name: str, results: list[Result], again: float | None = None) -> str:
    """Medians over the seeds; the first seed pays for compiling. ``again``: what compiling costs with a cache on disk."""
    compiling = results[0].compile_seconds
    ess = [effective(r.values) for r in results]

    def figure(f: Callable[[float, Result], float], how: str) -> str:
        return format(median(f(e, r) for e, r in zip(ess, results, strict=True)), how)

    chains, draws = results[0].values.shape[:2]
    cells = [
        f"{chains} x {draws}",
        figure(lambda e, r: e, ".0f"),
        figure(lambda e, r: e / r.gradients, ".3f"),
        figure(lambda e, r: r.divergences, ".0f"),
        f"{compiling:.1f}" + ("" if again is None else f" ({again:.1f})"),
        figure(lambda e, r: r.warm_seconds, ".2f"),
        figure(lambda e, r: r.seconds, ".2f"),
        figure(lambda e, r: e / r.seconds, ".0f"),
        figure(lambda e, r: e / (r.warm_seconds + r.seconds), ".0f"),
        figure(lambda e, r: e / (compiling + r.warm_seconds + r.seconds), ".0f"),
    ]
    if again is not None:
        cells[-1] += " (" + figure(lambda e, r: e / (again + r.warm_seconds + r.seconds), ".0f") + ")"
    return f"{name} | " + " | ".join(cells) + " |"


@contextmanager
def compiling() -> Iterator[list[float]]:
    """CPU seconds that geodesic kernels spend on recording and compiling, added up in the list's one entry."""
    spent, cls = [0.0], recording.Recording
    own = {name: getattr(cls, name) for name in ("__init__", "compile")}

    def timed(f: Callable[..., Any]) -> Callable[..., Any]:
        def g(*args: Any, **kwargs: Any) -> Any:
            start = used()
            try:
                return f(*args, **kwargs)
            finally:
                spent[0] += used() - start

        return g

    for name, f in own.items():
        setattr(cls, name, timed(f))
    try:
        yield spent
    finally:
        for name, f in own.items():
            setattr(cls, name, f)


def forget_compiled() -> None:
    """As a new process would: torch's cache on disk stays."""
    recording._COMPILED.clear()
    torch.compiler.reset()


@contextmanager
def empty_cache() -> Iterator[None]:
    """Nothing that the compiler made before counts, but for what it prepares once for all code: that is said here."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        start = used()
        torch.compile(torch.sin)(torch.ones(100))
        print(
            f"{time.strftime('%Y-%m-%d %H:%M')}, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}; the compiler's "
            f"first use on a machine takes {used() - start:.1f} CPU s more than the table says\n"
        )
        yield


def with_kernels(
    run: Callable[[type, int], Result], seeds: int, again: Callable[[type], Result] | None = None
) -> dict[str, tuple[list[Result], float | None]]:
    """``run(kernel, seed)`` for HMC and for NUTS, whose compiled code is not the same. ``again``: a short run, for what
    compiling costs with torch's cache on disk."""
    found: dict[str, tuple[list[Result], float | None]] = {}
    for cls in (GeodesicHMC, GeodesicNUTS):
        forget_compiled()
        results, short = [run(cls, seed) for seed in range(seeds)], None
        if again is not None:
            forget_compiled()
            short = again(cls).compile_seconds
        found[cls.__name__[8:]] = results, short
    return found


def lockstep(
    kernel: Any, statistics: Callable[[Any], torch.Tensor], warmup: int, draws: int, *data: Any, **kwargs: Any
) -> Result:
    """A run of a geodesic kernel, and what ``statistics`` make of its draws."""
    seen = []

    def mark(kernel: Any, params: Any, stage: str, i: int) -> None:
        if stage.startswith("Warmup") and i == warmup - 1:
            seen.append((used(), spent[0]))

    with compiling() as spent:
        mcmc = VectorizedMCMC(
            kernel, num_samples=draws, warmup_steps=warmup, disable_progbar=True, hook_fn=mark, **kwargs
        )
        begin = used()
        mcmc.run(*data)
        end = used()
    (middle, compiled), all_compiled = seen[0], spent[0]
    d = mcmc.diagnostics()
    warm = sum(d["warmup gradients"].values())
    return Result(
        statistics(mcmc.get_samples(group_by_chain=True)),
        sum(d["gradients"].values()) - warm,
        warm,
        end - middle - (all_compiled - compiled),
        sum(map(len, d["divergences"].values())),
        middle - begin - compiled,
        all_compiled,
    )
