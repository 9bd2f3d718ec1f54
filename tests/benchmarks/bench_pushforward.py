r"""Exact volume of an injective flow: tangents pushed layer by layer against other exact ways, and what
log_prob costs.

    python tests/benchmarks/bench_pushforward.py        # some minutes, nearly all of them the last peer's

Peers, on the same flow in the same process: ``vmap(jvp)`` over the n tangents (``torch.func``),
``vmap(jacrev)`` by row, and the arrangement of the published manifold-flow code written anew: of every layer
the dense d x d Jacobian, multiplied together and cut to n columns at the end; its rows by one backward pass
for the whole batch (which the published code could do), or by one for each output of each event (which it
does, once). CPU time of one thread, least of several repetitions. A second table is of conformal embeddings,
whose volume is a sum of logarithms, against ``vmap(jacrev)`` of the same map. A third: the random estimate
(Hutchinson, conjugate gradients) against the exact push, value and gradient, on flows that hardly bend.
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch
from timing import least
from torch import Tensor

from pyro_manifold.distributions import Pushforward
from pyro_manifold.flows import Coupling, InjectiveFlow, LatentFlow, LULinear, coupling_chain
from pyro_manifold.transforms import ConformalEmbedding, Pad, hutchinson_log_volume
from pyro_manifold.transforms.jvp import forward_mode_jvp, half_log_det_gram

CONFORMAL = [(3, 2), (40, 14), (256, 64)]  # d, n
RANDOM = [(40, 14, 0.05), (256, 64, 0.01), (256, 64, 0.05), (512, 256, 0.01)]  # d, n, size of the parameters
CASES = [(3, 2, 5, 100), (40, 14, 5, 100), (40, 14, 20, 100)]  # d, n, layers, batch


def flow(d: int, n: int, depth: int, size: float = 0.3) -> InjectiveFlow:
    torch.manual_seed(0)
    parts: list[Any] = []
    for i in range(depth):
        parts += [Coupling(d, range(i % 2, d, 2), hidden=(100, 100)), LULinear(d)]
    g = InjectiveFlow(Pad(n, d), parts)
    with torch.no_grad():
        for p in g.parameters():
            p.add_(size * torch.randn_like(p) / (p.shape[-1] if p.dim() > 1 else 1) ** 0.5)
    return g


def dense(g: InjectiveFlow, u: Tensor, each: bool) -> Tensor:
    """Jacobians of the layers, composed; ``each``: one backward pass for each output of each event, as
    published."""
    x, J = g.embedding._call(u), torch.eye(g.codomain_dim).expand(len(u), -1, -1)
    for layer in g.layers:
        x = x.detach().requires_grad_()
        y = layer._call(x)
        if each:
            step = torch.zeros(len(x), y.shape[1], x.shape[1])
            for b in range(len(x)):
                for i in range(y.shape[1]):
                    step[b, i] = torch.autograd.grad(y[b, i], x, retain_graph=True)[0][b]
        else:
            step = torch.stack(
                [torch.autograd.grad(y[:, i].sum(), x, retain_graph=True)[0] for i in range(y.shape[1])], 1
            )
        J, x = step @ J, y.detach()
    return half_log_det_gram(J[..., : g.dim].mT)


def cpu_ms(f: Callable[[], Any], repeats: int, warm: bool = True) -> float:
    return least([f], repeats, warm=warm)[0]


def row(d: int, n: int, depth: int, batch: int, repeats: int, published: bool) -> str:
    g = flow(d, n, depth)
    u = torch.randn(batch, n)
    eye, x = torch.eye(n).expand(batch, n, n), g(u).detach()
    distribution = Pushforward(
        LatentFlow(n, coupling_chain(n, 5, hidden=(100, 100))).condition(), g, validate_args=False
    )
    rev = torch.func.vmap(torch.func.jacrev(g._call))

    def jvp() -> Tensor:
        return half_log_det_gram(forward_mode_jvp(g._call, u, eye)[1])

    def backward(volume: Callable[[], Tensor]) -> None:
        g.zero_grad()
        volume().sum().backward()

    exact = jvp()
    for peer in (g.log_volume(u), dense(g, u, False)):
        assert torch.allclose(peer, exact, rtol=1e-3, atol=1e-3), "the ways disagree"
    with torch.no_grad():
        decode, ours, log_prob = least(
            [lambda: g._call(u), lambda: g.forward_and_log_volume(u), lambda: distribution.log_prob(x)],
            10 * repeats,
        )
        peers = [cpu_ms(jvp, repeats), cpu_ms(lambda: half_log_det_gram(rev(u).mT), 2)]
    peers += [cpu_ms(lambda: dense(g, u, False), 2)]
    peers += [cpu_ms(lambda: dense(g, u, True), 1, warm=False)] if published else []
    told = " | ".join(f"{t:.0f} ({t / ours:.1f}x)" for t in peers) + ("" if published else " | -")
    back = cpu_ms(lambda: backward(lambda: g.log_volume(u)), repeats)
    back_jvp = cpu_ms(lambda: backward(jvp), repeats)
    return (
        f"| {d}, {n} | {depth} | {batch} | {decode:.1f} | {ours:.1f} | {told} | {log_prob:.1f} "
        f"({log_prob / decode:.1f} decodes) | {back:.0f} | {back_jvp:.0f} ({back_jvp / back:.1f}x) |"
    )


def conformal_row(d: int, n: int, blocks: int, repeats: int) -> str:
    torch.manual_seed(0)
    g, u = ConformalEmbedding(n, d, blocks=blocks), torch.randn(100, n)
    rev = torch.func.vmap(torch.func.jacrev(g._call))
    exact = half_log_det_gram(rev(u).mT)
    assert torch.allclose(g.log_volume(u), exact, rtol=1e-4, atol=1e-3), "the ways disagree"
    with torch.no_grad():
        times = least([lambda: g._call(u), lambda: g.forward_and_log_volume(u)], 20 * repeats)
        times.append(cpu_ms(lambda: half_log_det_gram(rev(u).mT), repeats))
    return f"| {d}, {n} | {blocks} | {times[0]:.2f} | {times[1]:.2f} | {times[2]:.1f} ({times[2] / times[1]:.0f}x) |"


def conformal_table(repeats: int) -> None:
    print("\nConformal embedding, batch 100: CPU ms, float32\n")
    print("| d, n | blocks | decode | value and log-volume | vmap(jacrev) |\n|---|---|---|---|---|")
    for d, n in CONFORMAL:
        for blocks in (1, 5):
            print(conformal_row(d, n, blocks, repeats), flush=True)


def random_row(d: int, n: int, size: float, batch: int = 10) -> str:
    g = flow(d, n, 5, size)
    u = torch.randn(batch, n)
    with torch.no_grad():
        singular = torch.linalg.svdvals(g.jvp(u, torch.eye(n).expand(batch, n, n))[1].double())
    condition = float((singular[:, 0] / singular[:, -1]).square().median())

    def gradient(volume: Tensor) -> Tensor:
        g.zero_grad()
        volume.sum().backward()
        return torch.cat([p.grad.flatten() for p in g.parameters() if p.grad is not None])

    def estimate() -> Tensor:
        return hutchinson_log_volume(g, u, rtol=1e-3)

    times = least([lambda: gradient(g.log_volume(u)), lambda: gradient(estimate())], 2)
    exact, draws = g.log_volume(u).detach(), [estimate().detach() for _ in range(4)]
    rmse = float((torch.stack(draws) - exact).square().mean().sqrt())
    exact_grad = gradient(g.log_volume(u))
    off = float((gradient(estimate()) - exact_grad).norm() / exact_grad.norm())
    cost = f"{times[0]:.0f} | {times[1]:.0f} ({times[1] / times[0]:.1f}x)"
    return f"| {d}, {n} | {condition:.0f} | {cost} | {rmse:.1f} | {off:.1f} |"


def random_table() -> None:
    print("\nRandom volume, one probe, batch 10, 5 layers: CPU ms of value and gradient, float32\n")
    print("| d, n | condition of J^T J | push | random | rms error, nats | relative error of the gradient |")
    print("|---" * 6 + "|")
    for d, n, size in RANDOM:
        print(random_row(d, n, size), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", choices=["flows", "conformal", "random"], help="one of the tables")
    parser.add_argument("--skip-published", action="store_true", help="leave the slowest peer out: minutes")
    args = parser.parse_args()
    repeats = args.repeats
    torch.set_num_threads(1)
    if args.only in (None, "conformal"):
        conformal_table(repeats)
    if args.only in (None, "random"):
        random_table()
    if args.only not in (None, "flows"):
        return
    print("\nCPU ms a batch, float32; in brackets the time over that of the push\n")
    columns = "d, n | layers | batch | decode | push | vmap(jvp) | vmap(jacrev) | dense by row | dense as published | log_prob"
    print(f"| {columns} | push + backward | jvp + backward |")
    print("|---" * 12 + "|")
    for case in CASES:
        print(row(*case, repeats, not args.skip_published), flush=True)


if __name__ == "__main__":
    main()
