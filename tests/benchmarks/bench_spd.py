"""The Riemannian normal on SPD matrices against pyriemann's sampler; its normaliser against mpmath; geometry
against geoopt.

    python tests/benchmarks/bench_spd.py        # needs: pip install -c constraints.txt pyriemann

Peers: pyriemann 0.12 ``sample_gaussian`` (n = 2 rejection, n > 2 slice sampling) at the identity, and geoopt
0.5.1. The mean squared distance tells whether draws follow the distribution: the exact value is sigma^3 d log
Z/d sigma. Accuracy: float64 table and the plain formula (slogdet of the erf matrix) against determinants of
hundreds of digits. One thread, both sides in turn, minimum over repeats.
"""

import argparse
import math
import time
import warnings
from collections.abc import Callable
from typing import Any

import geoopt
import mpmath
import numpy as np
import torch
from timing import least

from pyro_manifold.distributions import RiemannianNormal
from pyro_manifold.geometry import geometry
from pyro_manifold.ops.spd_normal import acceptance
from pyro_manifold.ops.spd_normalizer import log_normalizer, normalizer_table

F64 = torch.float64


def seconds(f: Callable[[], Any], repeats: int) -> float:
    return 1e-3 * least([f], repeats, clock=time.perf_counter)[0]


def exact_log_pfaffian(n: int, s: float) -> Any:
    with mpmath.workdps(60 + int(n * n * max(1.0, -math.log10(s)))):
        m = n + n % 2
        a = mpmath.matrix(m, m)
        for j in range(n):
            for k in range(n):
                a[j, k] = mpmath.erf(mpmath.mpf(s) * (k - j) / 2)
            if n % 2:
                a[j, n], a[n, j] = 1, -1
        return mpmath.log(mpmath.det(a)) / 2


def plain_log_pfaffian(n: int, s: float) -> float:
    k = torch.arange(n, dtype=F64)
    a = torch.erf(s * (k - k[:, None]) / 2)
    if n % 2:
        a = torch.nn.functional.pad(a, (0, 1, 0, 1))
        a[:n, n], a[n, :n] = 1, -1
    return float(torch.linalg.slogdet(a).logabsdet) / 2


def accuracy() -> None:
    scales = (0.05, 0.1, 0.3, 1.0, 2.0, 3.0)
    print("\nabsolute error of log Z in nats: ours (plain float64 formula)\n")
    print(
        "| n | table built, ms | "
        + " | ".join(f"s={s}" for s in scales)
        + " |\n|"
        + "---|" * (len(scales) + 2)
    )
    for n in (2, 3, 5, 8, 10):
        start = time.perf_counter()
        table = normalizer_table(n)
        built, cells = 1e3 * (time.perf_counter() - start), []
        for s in scales:
            truth = exact_log_pfaffian(n, s)
            z = float(log_normalizer(torch.tensor(s, dtype=F64), table, n))
            with mpmath.workdps(40):
                half = mpmath.mpf(1) / 2
                rest = (mpmath.mpf(n * (n + 1)) / 4) * mpmath.log(2 * mpmath.pi) + mpmath.loggamma(n + 1)
                rest -= sum(
                    mpmath.loggamma(1 + j * half) - mpmath.loggamma(3 * half) for j in range(1, n + 1)
                )
                rest += n * mpmath.log(mpmath.mpf(s)) + mpmath.mpf(s) ** 2 * n * (n * n - 1) / 24
                ours = abs(float(z - rest - truth))
            cells.append(f"{ours:.0e} ({abs(plain_log_pfaffian(n, s) - float(truth)):.0e})")
        print(f"| {n} | {built:.0f} | " + " | ".join(cells) + " |", flush=True)


def sampling(count: int, peer_count: int, repeats: int) -> None:
    try:
        from pyriemann.datasets.sampling import sample_gaussian
    except ImportError:
        sample_gaussian = None
    print(
        f"\nsampling: {count} draws ours, {peer_count} pyriemann; E d^2 of each (z: standard errors from the "
        f"exact value)\n"
    )
    print(
        "| n | s | acceptance | ours us/draw | pyriemann us/draw | ratio | exact E d^2 | ours (z) | "
        "pyriemann |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    spd = geoopt.SymmetricPositiveDefinite()
    geo = geometry(spd)
    for n, s in ((2, 0.5), (2, 1.0), (3, 0.5), (3, 1.0), (5, 0.5), (5, 1.5)):
        scale, eye = torch.tensor(s, dtype=F64), torch.eye(n, dtype=F64)
        d = RiemannianNormal(spd, eye, scale)
        exact = float(2 * s * s * (d.entropy() - d._log_z))
        ours = seconds(lambda d=d: d.sample((count,)), repeats) / count
        square = geo.dist(eye, d.sample((count,))).square()
        z = float((square.mean() - exact) / square.std()) * math.sqrt(count)
        row = f"| {n} | {s} | {float(acceptance(scale, n)):.2f} | {1e6 * ours:.1f} "
        if sample_gaussian is None:
            print(
                row + f"| not installed | | {exact:.3f} | {float(square.mean()):.3f} ({z:+.1f}) | |",
                flush=True,
            )
            continue
        start = time.perf_counter()
        x = torch.from_numpy(np.asarray(sample_gaussian(peer_count, np.eye(n), s, random_state=0)))
        peer = (time.perf_counter() - start) / peer_count
        theirs = float(geo.dist(eye, x).square().mean())
        row += f"| {1e6 * peer:.0f} | {peer / ours:.0f}x | {exact:.3f} "
        print(row + f"| {float(square.mean()):.3f} ({z:+.1f}) | {theirs:.3f} |", flush=True)


def geometry_speed(count: int, repeats: int) -> None:
    print(f"\ngeometry, {count} matrices: geoopt ms / ours ms = ratio, forward and with backward\n")
    print("| n | dtype | operation | forward | with backward |\n|---|---|---|---|---|")
    spd = geoopt.SymmetricPositiveDefinite()
    geo = geometry(spd)

    def with_backward(f: Callable[[torch.Tensor], torch.Tensor], p: torch.Tensor) -> None:
        a = p.clone().requires_grad_()
        torch.autograd.grad(f(a).sum(), a)

    for n in (2, 3, 5):
        for dtype in (torch.float32, F64):
            d = n * (n + 1) // 2
            p, q = (geo.chart(0.5 * torch.randn(count, d, dtype=dtype)) for _ in range(2))
            u = geo.to_tangent(p, 0.5 * torch.randn(count, d, dtype=dtype))
            pairs = {
                "exp": (lambda a, u=u: spd.expmap(a, u), lambda a, u=u: geo.exp(a, u)),
                "log": (lambda a, q=q: spd.logmap(a, q), lambda a, q=q: geo.log(a, q)),
                "dist": (lambda a, q=q: spd.dist(a, q), lambda a, q=q: geo.dist(a, q)),
            }
            for name, (theirs, ours) in pairs.items():
                cells = []
                for run in (lambda f, p=p: f(p), lambda f, p=p: with_backward(f, p)):
                    a, b = (1e3 * seconds(lambda f=f, run=run: run(f), repeats) for f in (theirs, ours))
                    cells.append(f"{a:.1f} / {b:.1f} = {a / b:.1f}x")
                print(f"| {n} | {str(dtype)[6:]} | {name} | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--peer-count", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print(f"torch {torch.__version__}, geoopt {geoopt.__version__}, one thread")
    accuracy()
    sampling(args.count, args.peer_count, args.repeats)
    geometry_speed(args.count // 2, args.repeats)


if __name__ == "__main__":
    main()
