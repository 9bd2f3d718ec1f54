"""Fisher-Bingham normaliser: accuracy, acceptance of the samplers, time; against the published saddlepoint
approximation.

    python tests/benchmarks/bench_fisher_bingham.py

Peers, re-implemented here in torch: the third-order saddlepoint approximation (Kume & Wood 2005, eq. 16), the
contour integral on the parabola s = t(1 + iu)^2 with 32 nodes (24 to 32 are usual), and the angular Gaussian
proposals of Kent, Ganeiber & Mardia (2018, sec. 4) for the Kent distribution. References: mpmath at 60
digits. Times: both sides in turn in one process, minimum over repeats.
"""

import argparse
import math
import time
from collections.abc import Callable

import mpmath
import torch
from scipy.special import gammaln, ive
from timing import least
from torch import Tensor

from pyro_manifold.ops import bingham_sampler, kent_sampler
from pyro_manifold.ops.fisher_bingham import log_normalizer, relative_moments


def ours(lam: Tensor, g: Tensor) -> Tensor:
    """The package's, whose linear term is along the first axis."""
    return log_normalizer(lam, g[..., 0])


def ours_with_moments(lam: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    return relative_moments(lam - lam[..., :1] + g[..., :1] / 2)


def _saddle(lam: Tensor, g2: Tensor) -> Tensor:
    """Root t of the sum of 1/2(l + t) + g^2/4(l + t)^2 = 1, for the peers."""
    t = ((1 + (1 + 4 * g2).sqrt()) / 4 - lam).amax(-1, keepdim=True)
    for _ in range(12):
        v = 1 / (lam + t)
        h = (v * (0.5 + 0.25 * g2 * v)).sum(-1, keepdim=True)
        slope = (v * v * (0.5 + 0.5 * g2 * v)).sum(-1, keepdim=True)
        t = t + 2 * h * (h.sqrt() - 1) / slope
    return t


def saddlepoint(lam: Tensor, g: Tensor) -> Tensor:
    shift = lam.amin(-1, keepdim=True)
    lam = lam - shift
    t = _saddle(lam, g * g)
    v = 1 / (lam + t)
    b = g * g * v / 4
    cumulants = [(v**r * (0.5 * math.factorial(r - 1) + math.factorial(r) * b)).sum(-1) for r in (2, 3, 4)]
    k2, k3, k4 = cumulants
    d = lam.shape[-1]
    log_c = 0.5 * math.log(2) + (d - 1) / 2 * math.log(math.pi) - 0.5 * k2.log()
    log_c = log_c + (t + b.sum(-1, keepdim=True) + 0.5 * v.log().sum(-1, keepdim=True) - shift).squeeze(-1)
    return log_c + k4 / k2**2 / 8 - 5 * k3**2 / k2**3 / 24


def parabola(lam: Tensor, g: Tensor, nodes: int = 32) -> Tensor:
    shift = lam.amin(-1, keepdim=True)
    lam = lam - shift
    t = _saddle(lam, g * g)
    v = 1 / (lam + t)
    b = g * g * v / 4
    phi2 = (v * v * (0.5 + 2 * b)).sum(-1, keepdim=True)
    top = torch.minimum(
        (38 / t).sqrt(), 12 / (2 * t * phi2.sqrt())
    )  # e^s alone, or the Gaussian peak, is over by then
    u = top * (torch.arange(nodes, dtype=lam.dtype) + 0.5) / nodes
    z = torch.complex(-t * u * u, 2 * t * u).unsqueeze(-1) * v.unsqueeze(-2)
    e = (
        torch.complex(-t * u * u, 2 * t * u)
        - 0.5 * (1 + z).log().sum(-1)
        - (b.unsqueeze(-2) * z / (1 + z)).sum(-1)
    )
    total = (e.exp() * torch.complex(torch.ones_like(u), u)).real.sum(-1, keepdim=True) * 2 * t * top / nodes
    out = t + (b + 0.5 * v.log()).sum(-1, keepdim=True) + total.log() - shift
    return out.squeeze(-1) + math.log(2) + (lam.shape[-1] / 2 - 1) * math.log(math.pi)


def first(d: int, values: list[float]) -> Tensor:
    return torch.nn.functional.pad(torch.tensor(values, dtype=torch.float64).unsqueeze(-1), (0, d - 1))


def vmf(d: int, k: float) -> float:
    v = mpmath.mpf(d) / 2 - 1
    return float(mpmath.log(2 * mpmath.pi) * d / 2 - v * mpmath.log(k) + mpmath.log(mpmath.besseli(v, k)))


def watson(d: int, z: float) -> float:
    area = 2 * mpmath.pi ** (mpmath.mpf(d) / 2) / mpmath.gamma(mpmath.mpf(d) / 2)
    return float(mpmath.log(area * mpmath.hyp1f1(0.5, mpmath.mpf(d) / 2, z, maxterms=10**6)))


def kent(k: float, b: float) -> float:
    k, b, total, j = mpmath.mpf(k), mpmath.mpf(b), mpmath.mpf(0), 0
    while True:
        power = b ** (2 * j) if j else mpmath.mpf(1)
        term = (
            mpmath.gamma(j + 0.5)
            / mpmath.factorial(j)
            * power
            * (k / 2) ** (-2 * j - 0.5)
            * mpmath.besseli(2 * j + 0.5, k)
        )
        total, j = total + term, j + 1
        if term < total * mpmath.mpf(10) ** -30:
            return float(mpmath.log(2 * mpmath.pi * total))


def circle(lam: Tensor, g: Tensor, n: int = 400_000) -> list[float]:
    """Trapezoidal rule on the circle itself: exact to rounding for any coefficients up to 1e4."""
    phi = torch.arange(n, dtype=torch.float64) * (2 * math.pi / n)
    x = torch.stack([phi.cos(), phi.sin()], -1)
    exponents = (r @ x.mT - q @ x.square().mT for q, r in zip(lam, g, strict=True))
    return [float(torch.logsumexp(e, -1)) + math.log(2 * math.pi / n) for e in exponents]


def accuracy() -> None:
    ks = [1e-6, 1e-3, 0.1, 1.0, 10.0, 100.0, 1e3, 1e4]
    cells: list[tuple[str, Tensor, Tensor, list[float]]] = []
    for d in (2, 3, 10, 50, 200):
        zero = torch.zeros(len(ks), d, dtype=torch.float64)
        cells.append((f"von Mises-Fisher d={d}", zero, first(d, ks), [vmf(d, k) for k in ks]))
        zs = ks + [-k for k in ks]
        cells.append(
            (f"Bingham (Watson) d={d}", -first(d, zs), first(d, [0.0] * 16), [watson(d, z) for z in zs])
        )
    for r in (0.1, 0.4, 0.5):
        bs = [r * k for k in ks[2:-1]]
        lam = torch.stack([torch.tensor([0.0, -b, b], dtype=torch.float64) for b in bs])
        expected = [kent(k, b) for k, b in zip(ks[2:-1], bs, strict=True)]
        cells.append((f"Kent S^2, beta = {r} kappa", lam, first(3, ks[2:-1]), expected))
    lam = (10 ** (7 * torch.rand(200, 2, dtype=torch.float64) - 3)).clamp(max=1e4)
    g = 2 * lam * (1 + 0.1 * torch.randn(200, 1, dtype=torch.float64)) * torch.tensor([1.0, 0.0])
    g = g.clamp(0, 1e4)
    cells.append(("circle, l over 7 decades, g near 2 l", lam, g, circle(lam, g)))
    print("Largest |error of log C| (NaN counts as inf); coefficients up to 1e4. Bar: 1e-11.\n")
    print(
        "| distribution | cells | ours | parabola, 32 nodes | saddlepoint, third order "
        "|\n|---|---|---|---|---|"
    )
    for name, lam, g, expected in cells:
        exact = torch.tensor(expected, dtype=torch.float64)
        e = [
            float((f(lam, g) - exact).abs().nan_to_num(math.inf).max()) for f in (ours, parabola, saddlepoint)
        ]
        print(f"| {name} | {len(lam)} | {e[0]:.1e} | {e[1]:.1e} | {e[2]:.1e} |")


def published_kent_acceptance(kappa: Tensor, beta: Tensor) -> Tensor:
    """kappa x_1 <= kappa (1 + x_1^2) / 2 turns the Kent distribution into a Bingham distribution, which an
    angular Gaussian covers."""
    coef = torch.cat([-0.5 * kappa.unsqueeze(-1), -beta], -1)
    log_c = log_normalizer(torch.nn.functional.pad(-beta, (1, 0)), kappa)
    return (log_c - 0.5 * kappa - bingham_sampler.log_envelope_mass(coef, torch.zeros_like(kappa))).exp()


def acceptances() -> None:
    scale = torch.logspace(-1, 6, 29, dtype=torch.float64)
    print("\nProbability of accepting a proposal, worst over concentrations 0.1 to 1e6. Bar: 0.15.\n")
    print("| distribution | d | ours | Kent, Ganeiber & Mardia |\n|---|---|---|---|")
    for d in (3, 4, 10, 30):
        shapes = [torch.logspace(-k, 0, d, dtype=torch.float64) for k in (0.3, 1, 3, 6)]
        shapes += [torch.cat([torch.zeros(m), torch.ones(d - m)]).double() for m in (1, d - 1)]
        worst = min(
            float(bingham_sampler.acceptance(scale.unsqueeze(-1) * s, torch.zeros_like(scale)).min())
            for s in shapes
        )
        print(f"| Bingham{' (and matrix Fisher)' if d == 4 else ''} | {d} | {worst:.2f} | same |")
    for d in (3, 4, 10, 30):
        for r in (0.0, 0.25, 0.4, 0.5):
            beta = torch.zeros(len(scale), d - 1, dtype=torch.float64)
            beta[:, 0], beta[:, -1] = r * scale, -r * scale
            here, there = (
                float(f(scale, beta).min()) for f in (kent_sampler.acceptance, published_kent_acceptance)
            )
            print(f"| Kent, beta = {r} kappa | {d} | {here:.2f} | {there:.3f} |")


def seconds(f: Callable[[], object], repeats: int) -> float:
    return 1e-3 * least([f], repeats, clock=time.perf_counter, warm=False)[0]


def times(n: int, repeats: int) -> None:
    print(f"\nMicroseconds for one normaliser, {n} at a time, float64.\n")
    print(
        "| d | ours, log C | with E[x], E[x^2] | saddlepoint, log C | its gradient too | scipy ive (vMF "
        "only) |"
    )
    print("|---|---|---|---|---|---|")
    for d in (3, 4, 10, 50):
        rows = max(n // d, 100)
        lam, g = (
            50 * torch.rand(rows, d, dtype=torch.float64),
            first(d, torch.rand(rows, dtype=torch.float64).tolist()),
        )
        k = g.norm(dim=-1).numpy()

        def gradient(lam: Tensor = lam, g: Tensor = g) -> None:
            a, b = lam.clone().requires_grad_(), g.clone().requires_grad_()
            saddlepoint(a, b).sum().backward()

        with torch.no_grad():
            fs = [
                lambda lam=lam, g=g: ours(lam, g),
                lambda lam=lam, g=g: ours_with_moments(lam, g),
                lambda lam=lam, g=g: saddlepoint(lam, g),
                torch.enable_grad()(gradient),
                lambda k=k, d=d: ive(d / 2 - 1, k) + gammaln(d / 2),
            ]
            us = [1e6 * seconds(f, repeats) / rows for f in fs]
        print(f"| {d} | " + " | ".join(f"{t:.2f}" for t in us) + " |")
    print("\n| draws of one distribution, 1e5 | ms | scipy vonmises_fisher.rvs ms |\n|---|---|---|")
    from scipy.stats import vonmises_fisher

    for name, kappa, beta in (
        ("Kent S^2, kappa 10, beta 0 (vMF)", 10.0, 0.0),
        ("Kent S^2, kappa 100, beta 45", 100.0, 45.0),
    ):
        betas = torch.tensor([beta, -beta], dtype=torch.float64)
        k = torch.tensor(kappa, dtype=torch.float64)
        ms = 1e3 * seconds(lambda k=k, b=betas: kent_sampler.sample(k, b, 100_000), repeats)
        peer = 1e3 * seconds(lambda k=kappa: vonmises_fisher([1.0, 0.0, 0.0], k).rvs(100_000), repeats)
        print(f"| {name} | {ms:.0f} | {peer:.0f} (beta = 0) |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--n", type=int, default=10_000)
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    mpmath.mp.dps = 60
    accuracy()
    acceptances()
    times(args.n, args.repeats)


if __name__ == "__main__":
    main()
