"""Seeded tasks on any ``concurrent.futures`` executor: results in the order of the tasks, errors with the seeds that
caused them, pools that died made anew."""

import contextlib
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, as_completed
from typing import Any, NamedTuple

import numpy as np
import pyro

__all__ = ["Labels", "MakesExecutor", "own_state", "run_tasks", "seed_of"]

MakesExecutor = Executor | Callable[[], Executor]
_LOCK = (
    threading.RLock()
)  # Pyro's handler stack and torch's generator are global: tasks of one process take turns


class Labels(NamedTuple):
    """Words for messages: the function that the user called, what one task is and what several are, what is sent to
    workers, and how to look at a seed that failed."""

    caller: str
    one: str
    several: str
    sent: str
    remedy: str


def seed_of(seed: int, index: int) -> int:
    """The seed of task number ``index``, a hash: neighbouring seeds give unrelated tasks."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1)[0])


@contextlib.contextmanager
def own_state(parameters: Any = None) -> Iterator[None]:
    """A context with Pyro's random state put back at its end, and with a parameter store of its own, which starts as
    ``parameters`` (a state of Pyro's store) or empty."""
    with _LOCK:
        state = pyro.util.get_rng_state()
        try:
            with pyro.get_param_store().scope(parameters):
                yield
        finally:
            pyro.util.set_rng_state(state)


def run_tasks(
    tasks: Sequence[Any],
    executor: MakesExecutor | None,
    labels: Labels,
    *,
    retries: int = 0,
    done: Callable[[Any], Any] = lambda task: None,
) -> list[Any]:
    """The results of calls of ``tasks`` without arguments, in order; each task has ``seeds``.

    :param executor: an executor; a function that makes one, which is used and shut down here; or None, to run the tasks
        here one after another.
    :param retries: how often a pool whose worker died is made anew; for a function that makes executors.
    :param done: is called with each task that has ended.
    :raises ValueError: for tasks that do not pickle, or retries of an executor that is not made here.
    :raises RuntimeError: when a task fails or its worker dies; the others are cancelled.
    """
    if executor is None:
        return [_then(task, task(), done) for task in tasks]
    if isinstance(executor, Executor):
        if retries:
            raise ValueError(
                f"retries: got {retries} with an executor, which stays broken when a worker dies; expected a function "
                "that makes one, e.g. executor=lambda: ProcessPoolExecutor(4)."
            )
        results: dict[int, Any] = {}
        _attempt(tasks, executor, results, labels, done)
        return [results[i] for i in range(len(tasks))]
    results = {}
    for attempt in range(retries + 1):
        with executor() as pool:
            try:
                _attempt(tasks, pool, results, labels, done)
            except RuntimeError as error:
                if attempt == retries or not isinstance(error.__cause__, BrokenExecutor):
                    raise
                warnings.warn(f"{error} Trying again.", RuntimeWarning, stacklevel=3)
            else:
                break
    return [results[i] for i in range(len(tasks))]


def _then(task: Any, result: Any, done: Callable[[Any], Any]) -> Any:
    done(task)
    return result


def _attempt(
    tasks: Sequence[Any], pool: Executor, results: dict[int, Any], labels: Labels, done: Callable[[Any], Any]
) -> None:
    """Run the tasks that have no result yet."""
    futures: dict[Future, int] = {}
    try:
        for i, task in enumerate(tasks):
            if i not in results:
                futures[pool.submit(task)] = i
        for future in as_completed(futures):
            results[futures[future]] = future.result()
            done(tasks[futures[future]])
    except Exception as error:
        raise _explained(error, tasks, futures, pool, labels) from error
    finally:
        for future in futures:
            future.cancel()


def _explained(
    error: Exception, tasks: Sequence[Any], futures: dict[Future, int], pool: Executor, labels: Labels
) -> Exception:
    """What is known of the error of a task that ran elsewhere: its own report, or the seeds that may have caused
    it."""
    if str(error).startswith(f"{labels.caller}: "):
        return RuntimeError(str(error))
    if "pickle" in f"{type(error).__name__} {error}".lower():
        return ValueError(
            f"executor: {labels.sent} cannot be sent to another process; expected functions "
            f"defined at the top level of a module ({error})."
        )
    ended = {i: f.exception() for f, i in futures.items() if f.done() and not f.cancelled()}
    dead = [i for i, e in ended.items() if e is error]
    if isinstance(error, BrokenExecutor):  # of all tasks that have not succeeded; workers take them in order
        unfinished = [i for i in futures.values() if i not in ended or ended[i] is not None]
        dead = unfinished[: getattr(pool, "_max_workers", len(tasks))]
    seeds = [seed for i in dead for seed in tasks[i].seeds]
    which = (
        f"the {labels.one} with seed {seeds[0]}"
        if len(seeds) == 1
        else f"one of the {labels.several} with seeds {seeds}"
    )
    return RuntimeError(
        f"{labels.caller}: a worker died while it ran {which} ({type(error).__name__}: {error}); it was killed "
        f"(memory?) or crashed. {labels.remedy}"
    )
