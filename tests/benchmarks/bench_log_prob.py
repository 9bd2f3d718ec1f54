"""Log densities with all gradients beside the formula of a textbook, written by hand in plain torch.

    python tests/benchmarks/bench_log_prob.py

Both sides in turn in one process, least CPU time over repeats; ours includes the constructor, without validation. The plain
formulas lose digits or overflow where ours do not (at coinciding points, far from the origin, at large concentrations).
"""

import argparse
import math
from collections.abc import Callable

import geoopt
import torch
from timing import least
from torch import Tensor

import pyro_manifold.distributions as mdist

Density = Callable[[Tensor, Tensor, Tensor], Tensor]  # of x, loc and one number
LOG_TURN = math.log(2 * math.pi)


def sphere(x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    r = (x @ loc).clamp(-1 + 1e-6, 1 - 1e-6).acos()
    turned = r + 2 * math.pi * torch.arange(-2.0, 3.0).unsqueeze(-1)
    terms = -0.5 * (turned / scale).square() + turned.abs().log() - r.sin().log()
    return torch.logsumexp(terms, 0) - 2 * scale.log() - LOG_TURN


def ball(x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    ratio = (x - loc).square().sum(-1) / ((1 - x.square().sum(-1)) * (1 - loc.square().sum(-1)))
    r = (1 + 2 * ratio).acosh().clamp_min(1e-6)
    return -0.5 * (r / scale).square() - (r.sinh() / r).log() - 2 * scale.log() - LOG_TURN


def hyperboloid(x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    r = (x[..., 0] * loc[0] - x[..., 1:] @ loc[1:]).clamp_min(1 + 1e-6).acosh()
    return -0.5 * (r / scale).square() - (r.sinh() / r).log() - 2 * scale.log() - LOG_TURN


def von_mises_fisher(x: Tensor, loc: Tensor, k: Tensor) -> Tensor:
    return k * (x @ loc - 1) + k.log() - torch.log1p(-(-2 * k).exp()) - LOG_TURN


def power_spherical(x: Tensor, loc: Tensor, k: Tensor) -> Tensor:
    constant = (k + 2) * math.log(2) + math.log(math.pi) + torch.lgamma(k + 1) - torch.lgamma(k + 2)
    return k * torch.log1p(x @ loc) - constant


def projected_normal(x: Tensor, loc: Tensor, k: Tensor) -> Tensor:
    a = k * (x @ loc)
    tail = (-0.5 * a.square()).exp() / math.sqrt(2 * math.pi)
    integral = a * tail + (1 + a.square()) * torch.special.ndtr(a)
    return integral.log() + 0.5 * (a.square() - k.square()) - LOG_TURN


ROWS: dict[str, tuple[Density, Density, list[float], float]] = {
    "WrappedNormal, S^2": (
        lambda x, m, s: mdist.WrappedNormal(geoopt.Sphere(), m, s, validate_args=False).log_prob(x),
        sphere,
        [0.36, 0.48, 0.8],
        0.7,
    ),
    "WrappedNormal, ball": (
        lambda x, m, s: mdist.WrappedNormal(geoopt.PoincareBall(), m, s, validate_args=False).log_prob(x),
        ball,
        [0.3, -0.4],
        0.7,
    ),
    "WrappedNormal, hyperboloid": (
        lambda x, m, s: mdist.WrappedNormal(geoopt.Lorentz(), m, s, validate_args=False).log_prob(x),
        hyperboloid,
        [1.25, 0.45, 0.6],
        0.7,
    ),
    "VonMisesFisher, S^2": (
        lambda x, m, k: mdist.VonMisesFisher(m, k, validate_args=False).log_prob(x),
        von_mises_fisher,
        [0.36, 0.48, 0.8],
        3.0,
    ),
    "PowerSpherical, S^2": (
        lambda x, m, k: mdist.PowerSpherical(m, k, validate_args=False).log_prob(x),
        power_spherical,
        [0.36, 0.48, 0.8],
        3.0,
    ),
    "ProjectedNormal, S^2": (
        lambda x, m, k: mdist.ProjectedNormal(k * m, validate_args=False).log_prob(x),
        projected_normal,
        [0.36, 0.48, 0.8],
        1.5,
    ),
}


def points(name: str, n: int) -> Tensor:
    if "ball" in name:
        x = torch.randn(n, 2)
        return x / (1 + x.square().sum(-1, keepdim=True)).sqrt() * 0.9
    if "hyperboloid" in name:
        x = torch.randn(n, 2)
        return torch.cat([(1 + x.square().sum(-1, keepdim=True)).sqrt(), x], -1)
    return torch.nn.functional.normalize(torch.randn(n, 3), dim=-1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeat", type=int, default=30)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 16, 256, 100_000])
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    print("| distribution | " + " | ".join(f"n = {n}: us | ratio" for n in args.sizes) + " |")
    print("|---|" + "---|---|" * len(args.sizes))
    for name, (ours, plain, loc, number) in ROWS.items():
        cells = []
        for n in args.sizes:
            leaves = [points(name, n), torch.tensor(loc), torch.tensor(number)]
            for leaf in leaves:
                leaf.requires_grad_()
            error = (ours(*leaves) - plain(*leaves)).detach().abs()
            assert float(error.median()) < 1e-4  # near a pole float32 leaves the plain formula 2 digits

            def gradients(f: Density, leaves: list[Tensor] = leaves) -> Callable[[], object]:
                return lambda: torch.autograd.grad(f(*leaves).sum(), leaves)

            repeats = args.repeat if n < 10_000 else max(3, args.repeat // 5)
            a, b = least([gradients(ours), gradients(plain)], repeats)
            cells.append(f"{1e3 * a:.0f} | {a / b:.1f}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
