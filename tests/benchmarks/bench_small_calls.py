"""A wrapped normal made and scored at 4 points, against torch's MultivariateNormal made and scored alike,
without validation.

    python tests/benchmarks/bench_small_calls.py

What a guide step, a leapfrog or a small plate pays is the number of operators and Python frames, not
arithmetic. Both sides in turn in one process, least CPU time over repeats. The scale is a number, a vector or
a Cholesky factor (torch's normal is made from ``scale_tril`` each time); *gradients*: the scale and the
centre require gradients, and the graph is recorded (not walked).
"""

import argparse
import contextlib
from collections.abc import Callable

import geoopt
import torch
from timing import least

from pyro_manifold.distributions import WrappedNormal
from pyro_manifold.geometry import SpecialOrthogonal, Torus, geometry

MANIFOLDS = {
    "Euclidean": (geoopt.Euclidean(1), 2),
    "PoincareBall": (geoopt.PoincareBall(), 2),
    "Lorentz": (geoopt.Lorentz(), 2),
    "Sphere": (geoopt.Sphere(), 2),
    "SPD": (geoopt.SymmetricPositiveDefinite(), 3),
    "SO(3)": (SpecialOrthogonal(3), 3),
    "Torus": (Torus(), 2),
    "Sphere x ball": (geoopt.ProductManifold((geoopt.Sphere(), (3,)), (geoopt.PoincareBall(), (2,))), 4),
}
CALLS = 4  # a longer run is seldom left alone by other processes


def repeated(f: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        for _ in range(CALLS):
            f()

    return run


def row(
    manifold: geoopt.Manifold, dim: int, form: str, gradients: bool, repeats: int
) -> list[tuple[float, float]]:
    """Milliseconds of ours and torch's: constructor, log_prob, both."""
    geo = geometry(manifold)
    v = 0.5 * torch.randn(4, dim)
    loc = geo.base_point(geo.point_shape(dim))
    x = geo.exp_frame(loc.expand((4, *loc.shape)), v)
    tril = 0.7 * torch.eye(dim)
    spread = {"scalar": torch.tensor(0.7), "vector": torch.full((dim,), 0.7), "scale_tril": tril}[
        form
    ].clone()
    if gradients:
        loc.requires_grad_()
        spread.requires_grad_()
        tril.requires_grad_()
    mean = torch.zeros(dim, requires_grad=gradients)

    def ours() -> WrappedNormal:
        if form == "scale_tril":
            return WrappedNormal(manifold, loc, scale_tril=spread, validate_args=False)
        return WrappedNormal(manifold, loc, spread, validate_args=False)

    def torchs() -> torch.distributions.MultivariateNormal:
        return torch.distributions.MultivariateNormal(mean, scale_tril=tril, validate_args=False)

    made, peer = ours(), torchs()
    calls: list[Callable[[], object]] = [
        ours,
        torchs,
        lambda: made.log_prob(x),
        lambda: peer.log_prob(v),
        lambda: ours().log_prob(x),
        lambda: torchs().log_prob(v),
    ]
    with contextlib.nullcontext() if gradients else torch.no_grad():
        times = [t / CALLS for t in least([repeated(f) for f in calls], repeats)]
    return list(zip(times[::2], times[1::2], strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeat", type=int, default=100)
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    print(
        "| manifold | scale | gradients | constructor: us | ratio | log_prob: us | ratio | both: us | ratio |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for name, (manifold, dim) in MANIFOLDS.items():
        for form in ("scalar", "vector", "scale_tril"):
            for gradients in (False, True):
                cells = [
                    f"{1e3 * a:.0f} | {a / b:.1f}"
                    for a, b in row(manifold, dim, form, gradients, args.repeat)
                ]
                print(
                    f"| {name} | {form} | {'yes' if gradients else 'no'} | {' | '.join(cells)} |", flush=True
                )


if __name__ == "__main__":
    main()
