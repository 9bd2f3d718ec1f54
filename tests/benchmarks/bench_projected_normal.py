"""Projected normal against Pyro's, accuracy to mpmath at 40 digits and speed.

    python tests/benchmarks/bench_projected_normal.py

Accuracy: the largest |error| / max(1, |log p|) over concentrations 0 to 100 and points from the mode to its
antipode; Pyro's ``log_prob`` ends at n = 4. Speed: log_prob + backward and rsample + backward of distinct
concentrations, both sides in turn in one process, minimum over repeats.
"""

import argparse
import math
import time
from functools import partial

import mpmath
import pyro.distributions as dist
import torch
from timing import least
from torch import Tensor

from pyro_manifold.distributions import ProjectedNormal

LENGTHS = (0.0, 0.1, 1.0, 5.0, 20.0, 100.0)
ANGLES = (0.0, 0.01, 0.5, 1.5, 2.0, 2.7, 3.1, math.pi)


def exact(mu: Tensor, x: Tensor) -> float:
    """log p at these very coordinates: of the parabolic cylinder function."""
    n = len(mu)
    with mpmath.workdps(40):
        a = mpmath.fsum(mpmath.mpf(m) * mpmath.mpf(y) for m, y in zip(mu.tolist(), x.tolist(), strict=True))
        a /= mpmath.sqrt(mpmath.fsum(mpmath.mpf(y) ** 2 for y in x.tolist()))
        length2 = mpmath.fsum(mpmath.mpf(m) ** 2 for m in mu.tolist())
        m = mpmath.gamma(n) * mpmath.pcfu(n - mpmath.mpf(1) / 2, -a)
        return float(mpmath.log(m) + a * a / 4 - length2 / 2 - mpmath.mpf(n) / 2 * mpmath.log(2 * mpmath.pi))


def error(distribution: type, n: int, dtype: torch.dtype, lengths: tuple[float, ...]) -> tuple[float, int]:
    worst, bad = 0.0, 0
    e = torch.eye(n, dtype=torch.float64)
    for k in lengths:
        for t in ANGLES:
            mu, x = (k * e[0]).to(dtype), (math.cos(t) * e[0] + math.sin(t) * e[-1]).to(dtype)
            got, expected = distribution(mu, validate_args=False).log_prob(x).item(), exact(mu, x)
            bad += not math.isfinite(got)
            if math.isfinite(got):
                worst = max(worst, abs(got - expected) / max(1, abs(expected)))
    return worst, bad


def accuracy() -> None:
    print("\nlargest error of log_prob, over max(1, |log p|); in brackets non-finite values if any\n")
    print("| n, dtype | ours | Pyro, concentration <= 1 | Pyro, <= 5 | Pyro, <= 100 |\n|---|---|---|---|---|")
    for n in (2, 3, 4, 5, 10, 32, 100):
        for dtype in (torch.float64, torch.float32):
            cells = [error(ProjectedNormal, n, dtype, LENGTHS)]
            if n <= 4:
                cells += [error(dist.ProjectedNormal, n, dtype, LENGTHS[:i]) for i in (3, 4, 6)]
            text = [f"{e:.0e}" + (f" ({bad})" if bad else "") for e, bad in cells] + ["-"] * (4 - len(cells))
            print(f"| {n}, {str(dtype).removeprefix('torch.')} | " + " | ".join(text) + " |", flush=True)


milliseconds = partial(least, clock=time.perf_counter, warm=False)


def speed(size: int, repeats: int) -> None:
    print(f"\n{size} distinct concentrations (lengths about 3), float32, ms\n")
    print("| what | ours | Pyro | Pyro / ours |\n|---|---|---|---|")
    for n in (2, 3, 4, 10, 100):
        mu = (3 / math.sqrt(n) * torch.randn(size, n)).requires_grad_()
        distributions = [
            ProjectedNormal(mu, validate_args=False),
            dist.ProjectedNormal(mu, validate_args=False),
        ]
        x = distributions[0].sample()
        for name, f in (("log_prob", lambda d, x=x: d.log_prob(x)), ("rsample", lambda d, x=x: d.rsample())):
            sides = distributions if n <= 4 or name == "rsample" else distributions[:1]
            ours, *pyro = milliseconds([lambda d=d, f=f: f(d).sum().backward() for d in sides], repeats)
            cells = f"{pyro[0]:.1f} | {pyro[0] / ours:.1f}" if pyro else "- | -"
            print(f"| {name} + backward, n = {n} | {ours:.1f} | {cells} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--n", type=int, default=100_000)
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    print(f"one thread, torch {torch.__version__}, Pyro's ProjectedNormal")
    accuracy()
    speed(args.n, args.repeats)


if __name__ == "__main__":
    main()
