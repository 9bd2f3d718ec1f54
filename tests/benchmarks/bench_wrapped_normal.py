"""Wrapped normal on the Poincaré ball: rsample + log_prob + backward, against the algorithm of the Poincaré VAE's code.

    python tests/benchmarks/bench_wrapped_normal.py

The peer is the published algorithm (Mathieu et al. 2019) on geoopt's operations: draw in the tangent space at 0, transport,
exponential map; for the density logarithmic map, transport back, and the ratio sinh(r)/r. Its float32 density is NaN at
``loc``, so only draws are timed. Ours is timed twice: with the tangent vector kept from the draw, and recomputed.
Both sides in turn in one process, minimum over repeats.
"""

import argparse
import time

import geoopt
import torch

from pyro_manifold.distributions import WrappedNormal


def peer(ball: geoopt.PoincareBall, loc: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    dim = loc.shape[-1]
    zero = torch.zeros_like(loc)
    v = scale * torch.randn_like(loc)
    v = v / ball.lambda_x(zero, keepdim=True)
    x = ball.expmap(loc, ball.transp(zero, loc, v))
    u = ball.transp(loc, zero, ball.logmap(loc, x)) * ball.lambda_x(zero, keepdim=True)
    normal = torch.distributions.Normal(torch.zeros_like(scale), scale).log_prob(u).sum(-1, keepdim=True)
    r = ball.dist(loc, x, keepdim=True) * ball.c.sqrt()
    return normal - (dim - 1) * (torch.sinh(r) / r).log()


def ours(ball: geoopt.PoincareBall, loc: torch.Tensor, scale: torch.Tensor, cached: bool) -> torch.Tensor:
    d = WrappedNormal(ball, loc, scale, validate_args=False)
    x = d.rsample()
    return d.log_prob(x if cached else x.clone())


def seconds(f, loc, scale, repeats: int) -> float:
    best = float("inf")
    for _ in range(repeats):
        a, b = loc.detach().requires_grad_(), scale.detach().requires_grad_()
        start = time.perf_counter()
        f(a, b).sum().backward()
        best = min(best, time.perf_counter() - start)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--n", type=int, default=100_000)
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    print(f"n = {args.n}, one thread, torch {torch.__version__}, geoopt {geoopt.__version__}\n")
    print("| dtype | d | peer ms | ours, kept ms | ratio | ours, recomputed ms | ratio |\n|---|---|---|---|---|---|---|")
    for dtype in (torch.float32, torch.float64):
        for dim in (2, 10):
            ball = geoopt.PoincareBall().to(dtype)
            loc = 0.6 * torch.nn.functional.normalize(torch.randn(args.n, dim, dtype=dtype), dim=-1)
            scale = 0.2 + torch.rand(args.n, dim, dtype=dtype)
            fs = [
                lambda a, b, m=ball: peer(m, a, b),
                lambda a, b, m=ball: ours(m, a, b, True),
                lambda a, b, m=ball: ours(m, a, b, False),
            ]
            times = [1e3 * seconds(f, loc, scale, args.repeats) for f in fs]
            name = str(dtype).removeprefix("torch.")
            print(
                f"| {name} | {dim} | {times[0]:.1f} | {times[1]:.1f} | {times[0] / times[1]:.1f} "
                f"| {times[2]:.1f} | {times[0] / times[2]:.1f} |"
            )


if __name__ == "__main__":
    main()
