"""exp + log of ours and of geoopt, in turn in one process, and the errors of both distances against mpmath.

``python tests/benchmarks/bench_geometry.py`` (``--help`` for options). Times are the least CPU time of
several repetitions, one thread, of ambient tangent vectors and of coordinates in the frame transported from
the origin (geoopt: transp0, transp0back); the backward pass differentiates exp in both arguments and log in
both. Fresh memory costs more than arithmetic here, and whether malloc returns it to the system after each
call depends on what the process did before. For times without page faults on either side:
``MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_TRIM_THRESHOLD_=4000000000 python ...``.
"""

import argparse
import math
from collections.abc import Callable

import geoopt
import mpmath as mp
import torch
from timing import least
from torch import Tensor

from pyro_manifold.geometry import geometry
from pyro_manifold.transforms import BallToHyperboloid

mp.mp.dps = 60


def speed(n: int, repeat: int) -> None:
    print(f"exp + log of {n} points, CPU ms of one thread\n")
    print(
        "| manifold | d | dtype | forward: geoopt | ours | ratio | forward + backward: geoopt | ours | ratio "
        "|"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for make in (geoopt.PoincareBall, geoopt.Lorentz, geoopt.Sphere):
        for d in (2, 10):
            for dtype in (torch.float32, torch.float64):
                torch.manual_seed(0)
                manifold = make().to(dtype)
                geo = geometry(manifold)
                o = geo.origin(d, dtype=dtype)
                p = geo.exp_frame(o.expand(n, -1), 0.5 * torch.randn(n, d, dtype=dtype)).contiguous()
                u = geo.to_tangent(p, 0.3 * torch.randn(n, d, dtype=dtype)).contiguous()

                def forward(
                    exp: Callable[..., Tensor], log: Callable[..., Tensor], p: Tensor = p, u: Tensor = u
                ) -> None:
                    with torch.no_grad():
                        log(p, exp(p, u))

                def both(
                    exp: Callable[..., Tensor], log: Callable[..., Tensor], p: Tensor = p, u: Tensor = u
                ) -> None:
                    a, b = p.detach().requires_grad_(), u.detach().requires_grad_()
                    q = exp(a, b)
                    log(a, q).sum().backward()

                def there(p: Tensor, v: Tensor) -> Tensor:
                    return manifold.expmap(p, manifold.transp0(p, v))  # noqa: B023

                def back(p: Tensor, q: Tensor) -> Tensor:
                    return manifold.transp0back(p, manifold.logmap(p, q))  # noqa: B023

                rows = [("ambient", (manifold.expmap, manifold.logmap), u, (geo.exp, geo.log), u)]
                if hasattr(manifold, "transp0back"):  # geoopt has no transport from the origin on the sphere
                    v = geo.from_tangent(p, u).contiguous()
                    at_origin = geo.to_tangent(o.expand(n, -1), v).contiguous()
                    rows.append(("frame", (there, back), at_origin, (geo.exp_frame, geo.log_frame), v))
                for kind, theirs, z, ours, w in rows:
                    sides = ((theirs, z), (ours, w))
                    runs = [lambda f=f, x=x, y=y: f(*x, u=y) for f in (forward, both) for x, y in sides]
                    a, b, c, e = least(runs, repeat)
                    name = f"{manifold.name}, {kind} | {d} | {str(dtype).removeprefix('torch.')}"
                    print(
                        f"| {name} | {a:.1f} | {b:.1f} | {a / b:.1f} | {c:.1f} | {e:.1f} | {c / e:.1f} |",
                        flush=True,
                    )


# passes over the vectors of n points that exp + log in ambient vectors make in our arrangement: inner
# products, scalar times
# vector added or not, plain differences
PASSES = {"Lorentz": (6, 6, 1), "PoincareBall": (6, 4, 1), "Sphere": (3, 4, 1)}


def floor(n: int, repeat: int) -> None:
    """What those passes cost in torch operators that write to warm memory, and nothing else: no scalar
    function, no result."""
    print(
        "\nCPU ms of one pass over the vectors of all points, and of the passes of exp + log (forward) "
        "alone\n"
    )
    names = list(PASSES)
    print(
        "| components | dtype | copy | inner product | scaled addition | difference | "
        + " | ".join(names)
        + " |"
    )
    print("|" + "---|" * (6 + len(names)))
    for d in (3, 11):
        for dtype in (torch.float32, torch.float64):
            x, y, z, s = *(torch.randn(n, d, dtype=dtype) for _ in "xyz"), torch.rand(n, 1, dtype=dtype)
            blocks, ones = (
                list(zip(*(t.split(n // 4) for t in (x, y, z, s)), strict=True)),
                torch.ones(d, dtype=dtype),
            )
            passes = (
                lambda x, y, z, s: z.copy_(x),
                lambda x, y, z, s: torch.mv(torch.mul(x, y, out=z), ones),  # noqa: B023
                lambda x, y, z, s: torch.addcmul(x, s, y, out=z),
                lambda x, y, z, s: torch.sub(x, y, out=z),
            )
            t = least([lambda f=f: [f(*b) for b in blocks] for f in passes], repeat)  # noqa: B023
            sums = [sum(a * b for a, b in zip(PASSES[m], t[1:], strict=True)) for m in names]
            cells = [f"{x:.2f}" for x in t] + [f"{x:.1f}" for x in sums]
            print(f"| {d} | {str(dtype).removeprefix('torch.')} | " + " | ".join(cells) + " |", flush=True)


def high(x: Tensor) -> list[list[mp.mpf]]:
    return [[mp.mpf(t) for t in row] for row in x.tolist()]


def norm(x: list[mp.mpf]) -> mp.mpf:
    return mp.sqrt(sum(t * t for t in x))


def exact(x: Tensor, y: Tensor) -> Tensor:
    """Distance on the hyperboloid k = 1 of points given by spatial coordinates as rounded."""
    out = []
    for a, b in zip(x.double().tolist(), y.double().tolist(), strict=True):
        a, b = [mp.mpf(t) for t in a], [mp.mpf(t) for t in b]
        ta, tb = (mp.sqrt(1 + sum(t * t for t in z)) for z in (a, b))
        out.append(float(mp.acosh(ta * tb - sum(s * t for s, t in zip(a, b, strict=True)))))
    return torch.tensor(out, dtype=torch.float64)


def accuracy(n: int) -> None:
    """Pairs at distance about 1 at each radius; the ball's points are the hyperboloid's, rounded again in the
    chart."""
    print(
        "\nlargest relative error of the distance between points one unit apart, same rounded coordinates\n"
    )
    print("| radius | dtype | Lorentz: geoopt | ours | ball: geoopt | ours |\n|---|---|---|---|---|---|")
    lorentz, ball = geoopt.Lorentz(), geoopt.Stereographic(k=-1.0)
    f = BallToHyperboloid(ball, lorentz)
    for radius in (1, 5, 8, 12, 16, 20):
        for dtype in (torch.float32, torch.float64):
            torch.manual_seed(radius)
            u, v = torch.randn(n, 3, dtype=torch.float64), torch.randn(n, 3, dtype=torch.float64)
            geo = geometry(lorentz)
            p = geo.exp_frame(geo.origin(3, dtype=torch.float64), radius * u / u.norm(dim=-1, keepdim=True))
            q = geo.project(geo.exp_frame(p, v / v.norm(dim=-1, keepdim=True)).to(dtype))
            p = geo.project(p.to(dtype))
            want = exact(p[:, 1:], q[:, 1:])
            cells = [
                ((d.double() - want) / want).abs() for d in (lorentz.to(dtype).dist(p, q), geo.dist(p, q))
            ]
            x, y = (f.inv(z.double()).to(dtype) for z in (p, q))
            inside = bool((x.square().sum(-1) < 1).all() and (y.square().sum(-1) < 1).all())
            if inside:
                pairs = list(zip(high(x), high(y), strict=True))
                chord = [norm([s - t for s, t in zip(i, j, strict=True)]) for i, j in pairs]
                den = [(1 - norm(i) ** 2) * (1 - norm(j) ** 2) for i, j in pairs]
                ratios = [s / mp.sqrt(t) for s, t in zip(chord, den, strict=True)]
                want = torch.tensor([float(2 * mp.asinh(s)) for s in ratios], dtype=torch.float64)
                known = want > 0
                for d in (ball.to(dtype).dist(x, y), geometry(ball).dist(x, y)):
                    cells.append(((d.double() - want) / want).abs()[known])
            shown = [f"{float(c.max()):.0e}" if len(c) else "-" for c in cells] + ["-"] * (4 - len(cells))
            print(f"| {radius} | {str(dtype).removeprefix('torch.')} | " + " | ".join(shown) + " |")
    print("\n| sphere, angle | dtype | geoopt | ours |\n|---|---|---|---|")
    sphere = geoopt.Sphere()
    for angle in (1e-6, 1e-3, 1.0, 3.0, math.pi - 1e-3):
        for dtype in (torch.float32, torch.float64):
            torch.manual_seed(0)
            p = geometry(sphere).uniform_sample((n,), (4,), dtype=torch.float64)
            u = geometry(sphere).project(geometry(sphere).project_tangent(p, torch.randn_like(p)))
            p, q = p.to(dtype), (math.cos(angle) * p + math.sin(angle) * u).to(dtype)
            pairs = zip(high(p), high(q), strict=True)
            chords = [
                [norm([s + g * t for s, t in zip(a, b, strict=True)]) for g in (-1, 1)] for a, b in pairs
            ]
            want = torch.tensor([float(2 * mp.atan2(*c)) for c in chords], dtype=torch.float64)
            errors = [
                ((d.double() - want) / want).abs().max().item()
                for d in (sphere.dist(p, q), geometry(sphere).dist(p, q))
            ]
            print(
                f"| {angle:.6g} | {str(dtype).removeprefix('torch.')} | {errors[0]:.0e} | {errors[1]:.0e} |"
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=100_000, help="points in the timing")
    parser.add_argument("--repeat", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(1)
    speed(args.n, args.repeat)
    floor(args.n, args.repeat)
    accuracy(200)
