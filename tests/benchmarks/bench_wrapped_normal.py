"""Wrapped normal on the Poincaré ball: rsample + log_prob + backward, against the algorithm of the Poincaré
VAE's code.

    python tests/benchmarks/bench_wrapped_normal.py

The peer is the published algorithm (Mathieu et al. 2019) on geoopt's operations: draw in the tangent space at
0, transport, exponential map; for the density logarithmic map, transport back, and the ratio sinh(r)/r. Its
float32 density is NaN at ``loc``, so only draws are timed. Ours is timed twice: with the tangent vector kept
from the draw, and recomputed. Both sides in turn in one process, minimum over repeats. First the accuracy, on
four manifolds with correlated scales: mass by quadrature (beside it that of the formula with one winding, as
other libraries have it), volume change against automatic differentiation, value and gradients at the centre,
and the same distribution on ball and hyperboloid.
"""

import argparse
import time
from functools import partial

import geoopt
import torch
from timing import least

from pyro_manifold.constraints import on
from pyro_manifold.distributions import WrappedNormal
from pyro_manifold.geometry import SpecialOrthogonal, Torus, geometry
from pyro_manifold.testing import manifold_rule, normalisation
from pyro_manifold.testing._tools import log_volume_change
from pyro_manifold.transforms import BallToHyperboloid

F64 = torch.float64
MANIFOLDS = {
    "H2 (ball)": (geoopt.PoincareBall(c=torch.tensor(1.0, dtype=F64)), 2),
    "S2": (geoopt.Sphere(), 2),
    "SO(3)": (SpecialOrthogonal(3), 3),
    "torus": (Torus(), 2),
}


def accuracy() -> None:
    print(
        "| manifold | scale | mass - 1 | mass of one winding | log det - autodiff | value and gradients at "
        "the centre |"
    )
    print("|---|---|---|---|---|---|")
    for name, (manifold, dim) in MANIFOLDS.items():
        geo = geometry(manifold)
        shape = geo.point_shape(dim)
        loc = geo.exp_frame(geo.base_point(shape, dtype=F64), torch.full((dim,), 0.3, dtype=F64))
        for scale in (0.1, 1.0, 2.0):
            tril = scale * (
                torch.eye(dim, dtype=F64) * torch.linspace(1, 0.7, dim) + 0.5 * torch.ones(dim, dim).tril(-1)
            )
            distribution = WrappedNormal(manifold, loc, scale_tril=tril)
            rule = manifold_rule(manifold, loc, 12 * scale, 400, 64 if dim == 3 else 256)
            mass = float(normalisation(distribution, rule)) - 1
            at = loc.expand_as(rule.points)
            tangent = torch.distributions.MultivariateNormal(torch.zeros(dim, dtype=F64), scale_tril=tril)
            v = geo.log_frame(at, rule.points)
            single = float(rule.integrate((tangent.log_prob(v) - geo.log_det_exp(at, v)).exp()))
            u = scale * torch.randn(200, dim, dtype=F64)
            u = u * (0.9 * geo.injectivity_radius(shape) / u.norm(dim=-1, keepdim=True)).clamp(max=1)
            f = partial(lambda g, p, w: g.exp_frame(p.expand((len(w),) + p.shape), w), geo, loc)
            exp = log_volume_change(f, torch.distributions.constraints.real_vector, on(manifold), u)
            change = float((geo.log_det_exp(loc.expand((200,) + shape), u) - exp).abs().max())
            leaves = [loc.clone().requires_grad_(), tril.clone().requires_grad_()]
            value = WrappedNormal(manifold, leaves[0], scale_tril=leaves[1], validate_args=False).log_prob(
                loc
            )
            grads = torch.autograd.grad(value, leaves)
            finite = "finite" if all(bool(t.isfinite().all()) for t in (value, *grads)) else "NOT FINITE"
            print(f"| {name} | {scale} | {mass:+.0e} | {single:.3f} | {change:.0e} | {finite} |", flush=True)
    ball, hyperboloid = MANIFOLDS["H2 (ball)"][0], geoopt.Lorentz(k=torch.tensor(1.0, dtype=F64))
    to = BallToHyperboloid(ball, hyperboloid)
    loc, tril = torch.tensor([0.3, -0.2], dtype=F64), torch.tensor([[1.0, 0], [0.5, 0.7]], dtype=F64)
    x = WrappedNormal(ball, loc, scale_tril=tril).sample((1000,))
    there = WrappedNormal(hyperboloid, to(loc), scale_tril=tril).log_prob(to(x))
    apart = float((WrappedNormal(ball, loc, scale_tril=tril).log_prob(x) - there).abs().max())
    print(
        f"\nball and hyperboloid, 1000 draws of one distribution: log densities {apart:.0e} apart at most\n"
    )


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


def step(f, loc, scale) -> None:
    f(loc.detach().requires_grad_(), scale.detach().requires_grad_()).sum().backward()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--n", type=int, default=100_000)
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    accuracy()
    print(f"n = {args.n}, one thread, torch {torch.__version__}, geoopt {geoopt.__version__}\n")
    print(
        "| dtype | d | peer ms | ours, kept ms | ratio | ours, recomputed ms | ratio "
        "|\n|---|---|---|---|---|---|---|"
    )
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
            runs = [lambda f=f, a=loc, b=scale: step(f, a, b) for f in fs]
            times = least(runs, args.repeats, clock=time.perf_counter)
            name = str(dtype).removeprefix("torch.")
            print(
                f"| {name} | {dim} | {times[0]:.1f} | {times[1]:.1f} | {times[0] / times[1]:.1f} "
                f"| {times[2]:.1f} | {times[0] / times[2]:.1f} |"
            )


if __name__ == "__main__":
    main()
