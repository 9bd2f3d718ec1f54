"""The one clock of the benchmark scripts."""

import math
import time
from collections.abc import Callable, Sequence


def least(
    runs: Sequence[Callable[[], object]],
    repeats: int,
    *,
    clock: Callable[[], float] = time.process_time,
    warm: bool = True,
) -> list[float]:
    """Least time in ms of each of ``runs``, in turn, so that a busy minute falls on all; ``warm``: after one
    untimed round."""
    best = [math.inf] * len(runs)
    for i in range(repeats + warm):
        for j, f in enumerate(runs):
            start = clock()
            f()
            if i >= warm:
                best[j] = min(best[j], 1e3 * (clock() - start))
    return best
