"""von Mises-Fisher against the published s-vae algorithm, scipy and power_spherical: accuracy, speed,
gradient bias.

    python tests/benchmarks/bench_von_mises_fisher.py

The s-vae peer (Davidson et al. 2018) is re-implemented here from the paper: scipy's exponentially scaled
Bessel functions for the normaliser, Wood's sampler with a Beta proposal and full-batch masks, a Householder
reflection; its gradient runs through the accepted proposal, without the rejection correction. PowerSpherical
is De Cao & Aziz's own package (``pip install power_spherical --no-deps``), or its construction around torch's
Beta where that is not installed. All sides in turn in one process without argument validation, least CPU time
of several repetitions.
"""

import argparse
import math

import numpy as np
import scipy.special
import scipy.stats
import torch
from timing import least
from torch import Tensor

from pyro_manifold.distributions import VonMisesFisher
from pyro_manifold.ops.special import bessel_ratio, log_bessel


class Ive(torch.autograd.Function):
    @staticmethod
    def forward(ctx, v: float, z: Tensor) -> Tensor:
        ctx.v = v
        ctx.save_for_backward(z)
        f = {0: scipy.special.i0e, 1: scipy.special.i1e}.get(v, lambda x: scipy.special.ive(v, x))
        return torch.from_numpy(np.asarray(f(z.detach().numpy()))).to(z.dtype)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (z,) = ctx.saved_tensors
        return None, grad * (Ive.apply(ctx.v - 1, z) - Ive.apply(ctx.v, z) * (ctx.v + z) / z)


def peer_log_normalizer(k: Tensor, n: int) -> Tensor:
    v = n / 2 - 1
    return v * k.log() - n / 2 * math.log(2 * math.pi) - (k + Ive.apply(v, k).log())


def peer_log_prob(x: Tensor, mu: Tensor, k: Tensor) -> Tensor:
    return k * (mu * x).sum(-1) + peer_log_normalizer(k, mu.shape[-1])


def peer_rsample(mu: Tensor, k: Tensor) -> Tensor:
    n, k = mu.shape[-1], k.unsqueeze(-1)
    if n == 3:
        u = torch.rand_like(k)
        w = 1 + torch.stack([u.log(), (1 - u).log() - 2 * k], 0).logsumexp(0) / k
    else:
        c = (4 * k**2 + (n - 1) ** 2).sqrt()
        b, a = (-2 * k + c) / (n - 1), (n - 1 + 2 * k + c) / 4
        d = 4 * a * b / (1 + b) - (n - 1) * math.log(n - 1)
        beta = torch.distributions.Beta((n - 1) / 2, (n - 1) / 2)
        w, todo = torch.zeros_like(k), torch.ones_like(k, dtype=torch.bool)
        for _ in range(1000):
            if not todo.any():
                break
            e, u = beta.sample(k.shape).to(k.dtype), torch.rand_like(k)
            fresh = (1 - (1 + b) * e) / (1 - (1 - b) * e)
            t = 2 * a * b / (1 - (1 - b) * e)
            ok = ((n - 1) * t.log() - t + d > u.log()) & todo
            w = torch.where(ok, fresh, w)
            todo = todo & ~ok
    v = torch.randn_like(mu)[..., 1:]
    v = v / v.norm(dim=-1, keepdim=True)
    x = torch.cat([w, (1 - w**2).clamp_min(1e-10).sqrt() * v], -1)
    h = -mu
    h = torch.cat([1 + h[..., :1], h[..., 1:]], -1)
    h = h / (h.norm(dim=-1, keepdim=True) + 1e-5)
    return x - 2 * (x * h).sum(-1, keepdim=True) * h


class PeerPowerSpherical:
    def __init__(self, mu: Tensor, k: Tensor) -> None:
        self.mu, self.k = mu, k
        self.beta = (mu.shape[-1] - 1) / 2

    def rsample(self) -> Tensor:
        t = (
            2
            * torch.distributions.Beta(self.k + self.beta, self.beta, validate_args=False)
            .rsample()
            .unsqueeze(-1)
            - 1
        )
        v = torch.randn_like(self.mu)[..., 1:]
        v = v / v.norm(dim=-1, keepdim=True)
        y = torch.cat([t, (1 - t * t).clamp_min(1e-7).sqrt() * v], -1)
        e = torch.nn.functional.pad(torch.ones_like(self.mu[..., :1]), (0, self.mu.shape[-1] - 1))
        u = (e - self.mu) / ((e - self.mu).norm(dim=-1, keepdim=True) + 1e-6)
        return y - 2 * (y * u).sum(-1, keepdim=True) * u

    def log_prob(self, x: Tensor) -> Tensor:
        a, b = self.k + self.beta, self.beta
        log_z = (a + b) * math.log(2) + b * math.log(math.pi) + torch.lgamma(a) - torch.lgamma(a + b)
        return self.k * torch.log1p((self.mu * x).sum(-1).clamp_min(-1 + 1e-6)) - log_z


try:
    from power_spherical import PowerSpherical
except ImportError:
    PowerSpherical = PeerPowerSpherical


def row(name: str, ours: float, **peers: float) -> None:
    print(
        f"| {name} | {ours:.1f} | "
        + " | ".join(f"{k} {p:.1f} ({p / ours:.1f}x)" for k, p in peers.items())
        + " |",
        flush=True,
    )


def speed(size: int, repeats: int) -> None:
    print(
        f"\n{size} distinct (loc, concentration in 0.1-100), float32, ms; in brackets the peer's time over "
        f"ours\n"
    )
    print("| what | ours | peers |\n|---|---|---|")
    for n in (2, 3, 10, 32, 64, 1000):
        k = (0.1 + 99.9 * torch.rand(size)).requires_grad_()
        fs = [
            lambda k=k, n=n: log_bessel(k, n / 2 - 1).sum().backward(),
            lambda k=k, n=n: peer_log_normalizer(k, n).sum().backward(),
        ]
        row(f"normaliser + gradient, n = {n}", *(t := least(fs, repeats))[:1], **{"s-vae": t[1]})
    for n in (3, 10, 64):
        mu = torch.nn.functional.normalize(torch.randn(size, n), dim=-1).requires_grad_()
        k = (0.1 + 99.9 * torch.rand(size)).requires_grad_()
        d = VonMisesFisher(mu, k, validate_args=False)
        x = d.sample()
        ps = PowerSpherical(mu, k)
        t = least(
            [
                lambda d=d, x=x: d.log_prob(x).sum().backward(),
                lambda x=x, mu=mu, k=k: peer_log_prob(x, mu, k).sum().backward(),
                lambda ps=ps, x=x: ps.log_prob(x).sum().backward(),
            ],
            repeats,
        )
        row(f"log_prob + backward, n = {n}", t[0], **{"s-vae": t[1], "PowerSpherical": t[2]})
        one = scipy.stats.vonmises_fisher(
            mu[0].detach().double().numpy() / np.linalg.norm(mu[0].detach().double()), 50.0
        )
        shared = VonMisesFisher(mu[0].detach(), 50.0, validate_args=False)
        with torch.no_grad():
            t = least(
                [
                    lambda d=d: d.sample(),
                    lambda mu=mu, k=k: peer_rsample(mu, k),
                    lambda ps=ps: ps.rsample(),
                    lambda shared=shared: shared.sample((size,)),
                    lambda one=one: one.rvs(size),
                ],
                repeats,
            )
        row(f"sample, n = {n}", t[0], **{"s-vae": t[1], "PowerSpherical": t[2]})
        row(f"sample, one shared (loc, concentration), n = {n}", t[3], scipy=t[4])
        t = least(
            [
                lambda d=d: d.rsample().sum().backward(),
                lambda mu=mu, k=k: peer_rsample(mu, k).sum().backward(),
                lambda ps=ps: ps.rsample().sum().backward(),
            ],
            repeats,
        )
        row(f"rsample + backward, n = {n}", t[0], **{"s-vae": t[1], "PowerSpherical": t[2]})


def accuracy() -> None:
    print("\nfinite cells of log C on n x concentration (17 x 17), and of its gradient\n")
    ns = [2, 3, 4, 5, 8, 10, 16, 20, 32, 50, 64, 100, 128, 256, 512, 1000, 2000]
    bad = [0] * 5
    for n in ns:
        k = torch.logspace(-6, 6, 17, dtype=torch.float64, requires_grad=True)
        for i, f in enumerate(
            (lambda x, n=n: log_bessel(x, n / 2 - 1), lambda x, n=n: peer_log_normalizer(x, n))
        ):
            value = f(k)
            (g,) = torch.autograd.grad(value.sum(), k)
            bad[2 * i] += int((~value.isfinite()).sum())
            bad[2 * i + 1] += int((~g.isfinite()).sum())
        with np.errstate(all="ignore"):
            mu = np.eye(n)[0]
            bad[4] += sum(not np.isfinite(scipy.stats.vonmises_fisher(mu, x).logpdf(mu)) for x in k.tolist())
    print("| | ours | s-vae, float64 | scipy |\n|---|---|---|---|")
    print(
        f"| non-finite values | {bad[0]} | {bad[2]} | {bad[4]} |\n| non-finite gradients | {bad[1]} | "
        f"{bad[3]} | - |"
    )
    print(
        "\nfloat32: largest error of log_prob against float64 of the same inputs, n = 10; largest | |x| - 1 "
        "| near e_1\n"
    )
    print("| concentration | ours | s-vae |\n|---|---|---|")
    mu = torch.nn.functional.normalize(torch.randn(2000, 10), dim=-1)
    for k in (1e3, 1e5, 1e6):
        d = VonMisesFisher(mu, k)
        x, kk = d.sample(), torch.full((2000,), k)
        exact = VonMisesFisher(mu.double(), k, validate_args=False).log_prob(x.double())
        errors = [(lp - exact).abs().max().item() for lp in (d.log_prob(x), peer_log_prob(x, mu, kk))]
        print(f"| {k:.0e} | {errors[0]:.1e} | {errors[1]:.1e} |")
    for tilt in (0.0, 1e-5, 1e-4):
        mu = torch.nn.functional.normalize(torch.eye(10)[0] + tilt * torch.eye(10)[1], dim=0).expand(2000, 10)
        xs = VonMisesFisher(mu, 10.0).sample(), peer_rsample(mu, torch.full((2000,), 10.0))
        off = [(x.double().norm(dim=-1) - 1).abs().max().item() for x in xs]
        print(f"| norm, tilt {tilt:.0e} | {off[0]:.1e} | {off[1]:.1e} |")


def bias(draws: int) -> None:
    print(f"\nE dt/dk over A'(k), less 1, {draws} draws, float64 (standard error in brackets)\n")
    print("| n, concentration | ours | s-vae |\n|---|---|---|")
    for n, c in ((2, 1.0), (3, 2.0), (5, 5.0), (10, 20.0), (50, 100.0)):
        mu = torch.eye(n, dtype=torch.float64)[0].expand(draws, n)
        k = torch.full((draws,), c, dtype=torch.float64, requires_grad=True)
        slope = bessel_ratio(torch.tensor(c, dtype=torch.float64), n / 2 - 1)[2]
        cells = []
        for f in (lambda mu=mu, k=k: VonMisesFisher(mu, k).rsample(), lambda mu=mu, k=k: peer_rsample(mu, k)):
            (g,) = torch.autograd.grad(f()[:, 0].sum(), k)
            g = g / slope - 1
            cells.append(f"{100 * g.mean():+.2f}% ({100 * g.std() / math.sqrt(draws):.2f}%)")
        print(f"| {n}, {c:.0f} | {cells[0]} | {cells[1]} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--n", type=int, default=100_000)
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    torch.distributions.Distribution.set_default_validate_args(False)
    print(
        f"one thread, torch {torch.__version__}, scipy {scipy.__version__}, power spherical: "
        f"{PowerSpherical.__module__}"
    )
    speed(args.n, args.repeats)
    accuracy()
    bias(4 * args.n)


if __name__ == "__main__":
    main()
