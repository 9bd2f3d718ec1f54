"""An epoch of the Poincaré VAE against the Euclidean one: what the geometry costs.

    python tests/benchmarks/bench_vae.py

The step of the demo (batch 128, 64 pixels, 200 units, float64) and of the MNIST experiment (784 pixels, 600 units,
float32, amsgrad), validation off: loss, gradients, Adam. In turn in one process, least CPU time over repeats, so that a
busy minute falls on all. *Ratio*: to the Euclidean model of the same row, which has as many weights; the goal is 1.5. Two
ways to the loss: Pyro's ``Trace_ELBO`` of ``model`` and ``guide``, and ``vae.elbo``, which needs no trace. With
``--compiled trace`` (recorded as one graph) or ``--compiled inductor`` (and compiled) both ways are ``CompiledELBO`` and
``Trace_ELBO``; with ``--parts`` the CPU time of the pieces of one step is printed instead; with ``--profile`` what the profiler counts.
"""

import argparse
from collections.abc import Callable
from typing import Any

import geoopt
import pyro
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.elbo import ELBO
from timing import least
from torch import Tensor

from pyro_manifold.infer import CompiledELBO
from pyro_manifold.models import ManifoldVAE, PoincareVAE

STEPS = 10
SIZES = {"demo": (64, 200, torch.float64, False), "MNIST": (784, 600, torch.float32, True)}
MODELS: dict[str, dict[str, Any]] = {
    "Euclidean": dict(manifold=lambda: geoopt.Euclidean(1), decoder="linear"),
    "wrapped, gyroplane": dict(manifold=lambda: geoopt.PoincareBall(1.0)),
    "wrapped, one width": dict(manifold=lambda: geoopt.PoincareBall(1.0), isotropic=True),
    "Riemannian, gyroplane": dict(
        manifold=lambda: geoopt.PoincareBall(1.4), prior="riemannian", posterior="riemannian"
    ),
    "Riemannian, log map": dict(
        manifold=lambda: geoopt.PoincareBall(1.4),
        prior="riemannian",
        posterior="riemannian",
        decoder="wrapped",
    ),
    "hyperboloid, Riemannian": dict(
        manifold=lambda: geoopt.Lorentz(1 / 1.4), prior="riemannian", posterior="riemannian"
    ),
}


def build(name: str, size: str, dim: int) -> tuple[ManifoldVAE, Tensor]:
    pixels, hidden, dtype, _ = SIZES[size]
    options = dict(MODELS[name])
    manifold = options.pop("manifold")()
    torch.manual_seed(0)
    vae = PoincareVAE(manifold, dim, pixels, hidden=hidden, **options).to(dtype)
    return vae, (torch.rand(128, pixels) < 0.3).to(dtype)


def stepper(name: str, size: str, dim: int, elbo: ELBO | None) -> Callable[[], None]:
    vae, x = build(name, size, dim)
    parameters = [p for p in vae.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=1e-3, amsgrad=SIZES[size][3])

    def run() -> None:
        for _ in range(STEPS):
            if elbo is not None:
                loss = elbo.differentiable_loss(vae.model, vae.guide, x)
            else:
                loss = -vae.elbo(x).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return run


def table(size: str, dim: int, repeats: int, compiled: str) -> None:
    print(f"\n{size}, {dim} latent dimensions, CPU ms of a step\n")
    other = f"CompiledELBO ({compiled})" if compiled else "vae.elbo"
    print(f"| model | Trace_ELBO | ratio | {other} | ratio |\n|---|---|---|---|---|")
    runs = [stepper(name, size, dim, Trace_ELBO()) for name in MODELS]
    for name in MODELS:
        elbo = CompiledELBO(compile=compiled == "inductor" or "trace") if compiled else None
        runs.append(stepper(name, size, dim, elbo))
    times = [t / STEPS for t in least(runs, repeats)]
    n = len(MODELS)
    for i, name in enumerate(MODELS):
        a, b = times[i], times[n + i]
        print(f"| {name} | {a:.2f} | {a / times[0]:.2f} | {b:.2f} | {b / times[n]:.2f} |")


def parts(size: str, dim: int, repeats: int) -> None:
    print(f"\n{size}, {dim} latent dimensions, CPU ms of the parts of a step, forward\n")
    for name in MODELS:
        vae, x = build(name, size, dim)
        q, p = vae.encode(x), vae.prior
        z = q.rsample((1,))
        fs: dict[str, Callable[[], Any]] = {
            "encoder": lambda vae=vae, x=x: vae.encoder(x),
            "encode": lambda vae=vae, x=x: vae.encode(x),
            "prior": lambda vae=vae: vae.prior,
            "rsample": lambda q=q: q.rsample((1,)),
            "log q": lambda q=q, z=z: q.log_prob(z),
            "log p": lambda p=p, z=z: p.log_prob(z),
            "decode": lambda vae=vae, z=z: vae.decode(z),
            "elbo": lambda vae=vae, x=x: vae.elbo(x),
        }
        times = least([lambda f=f: [f() for _ in range(STEPS)] for f in fs.values()], repeats)  # type: ignore[misc]
        print(f"{name:>26}: " + ", ".join(f"{k} {t / STEPS:.2f}" for k, t in zip(fs, times, strict=True)))


def profile(size: str, dim: int) -> None:
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    for name in MODELS:
        run = stepper(name, size, dim, None)
        run()
        with profiler(activities=[ProfilerActivity.CPU]) as prof:
            run()
        rows = prof.key_averages()
        count = sum(r.count for r in rows) / STEPS
        print(f"\n{name}: {count:.0f} events a step")
        print(rows.table(sort_by="self_cpu_time_total", row_limit=25))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dims", type=int, nargs="+", default=[2, 10])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--compiled", default="", choices=["trace", "inductor"])
    parser.add_argument("--models", nargs="+", default=[])
    parser.add_argument("--parts", action="store_true")
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    pyro.enable_validation(False)
    for name in list(MODELS)[1:]:
        if args.models and name not in args.models:
            MODELS.pop(name)
    for size in args.sizes:
        for dim in args.dims:
            if args.profile:
                profile(size, dim)
            else:
                if args.parts:
                    parts(size, dim, args.repeats)
                else:
                    table(size, dim, args.repeats, args.compiled)


if __name__ == "__main__":
    main()
