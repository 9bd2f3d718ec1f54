"""Log densities with all gradients beside the formula of a textbook, written by hand in plain torch.

    python tests/benchmarks/bench_log_prob.py

Both sides in turn in one process, least CPU time over repeats; ours includes the constructor, without validation. The plain
formulas lose digits or overflow where ours do not (at coinciding points, far from the origin, at large concentrations).
"""

import argparse
from collections.abc import Callable

import geoopt
import textbook_densities as plain
import torch
from timing import least
from torch import Tensor

import pyro_manifold.distributions as mdist
from pyro_manifold.geometry import SpecialOrthogonal, geometry

Density = Callable[..., Tensor]  # of x and parameters
AXIS, BALL, HYPERBOLOID = [0.36, 0.48, 0.8], [0.3, -0.4], [1.25, 0.45, 0.6]
FORM = [[1.0, 0.3, -0.2], [0.3, -1.5, 0.4], [-0.2, 0.4, 0.5]]
FRAME = [[0.36, 0.48, 0.8], [0.48, 0.64, -0.6], [0.8, -0.6, 0.0]]
ROTATION = [[0.36, 0.48, -0.8], [0.48, 0.64, 0.6], [0.8, -0.6, 0.0]]
SPD = [[1.5, 0.3], [0.3, 0.8]]
_SPD = geoopt.SymmetricPositiveDefinite()


def wrapped(manifold: geoopt.Manifold) -> Density:
    return lambda x, m, s: mdist.WrappedNormal(manifold, m, s, validate_args=False).log_prob(x)


def family(cls: Callable[..., torch.distributions.Distribution]) -> Density:
    return lambda x, *parameters: cls(*parameters, validate_args=False).log_prob(x)


def riemannian(manifold: geoopt.Manifold) -> Density:
    return lambda x, m, s: mdist.RiemannianNormal(manifold, m, s, validate_args=False).log_prob(x)


def riemannian_spd(x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """With our own normaliser, which no textbook has in closed form."""
    eye = torch.eye(2)
    log_z = -mdist.RiemannianNormal(_SPD, eye, scale, validate_args=False).log_prob(eye)
    return plain.affine_invariant(x, loc, scale, log_z)


ROWS: dict[str, tuple[Density, Density, str, list[object]]] = {
    "WrappedNormal, S^2": (wrapped(geoopt.Sphere()), plain.sphere, "sphere", [AXIS, 0.7]),
    "WrappedNormal, ball": (wrapped(geoopt.PoincareBall()), plain.ball, "ball", [BALL, 0.7]),
    "WrappedNormal, hyperboloid": (
        wrapped(geoopt.Lorentz()), plain.hyperboloid, "hyperboloid", [HYPERBOLOID, 0.7],
    ),
    "VonMisesFisher, S^2": (family(mdist.VonMisesFisher), plain.von_mises_fisher, "sphere", [AXIS, 3.0]),
    "PowerSpherical, S^2": (family(mdist.PowerSpherical), plain.power_spherical, "sphere", [AXIS, 3.0]),
    "ProjectedNormal, S^2": (
        lambda x, m, k: mdist.ProjectedNormal(k * m, validate_args=False).log_prob(x),
        plain.projected_normal, "sphere", [AXIS, 1.5],
    ),
    "Watson, S^2": (family(mdist.Watson), plain.watson, "sphere", [AXIS, 3.0]),
    "Bingham, S^2": (family(mdist.Bingham), plain.bingham, "sphere", [FORM]),
    "Kent, S^2": (family(mdist.Kent), plain.kent, "sphere", [FRAME, 5.0, 1.5]),
    "FisherBingham, S^2": (family(mdist.FisherBingham), plain.fisher_bingham, "sphere", [AXIS, 2.0, FORM]),
    "MatrixFisher": (family(mdist.MatrixFisher), plain.matrix_fisher, "rotations", [FORM]),
    "IsotropicGaussian": (family(mdist.IsotropicGaussian), plain.isotropic_gaussian, "rotations", [ROTATION, 0.7]),
    "RiemannianNormal, ball": (riemannian(geoopt.PoincareBall()), plain.riemannian_ball, "ball", [BALL, 0.7]),
    "RiemannianNormal, SPD(2)": (riemannian(_SPD), riemannian_spd, "SPD", [SPD, 0.7]),
}  # fmt: skip


def points(kind: str, n: int) -> Tensor:
    if kind == "ball":
        x = torch.randn(n, 2)
        return x / (1 + x.square().sum(-1, keepdim=True)).sqrt() * 0.9
    if kind == "hyperboloid":
        x = torch.randn(n, 2)
        return torch.cat([(1 + x.square().sum(-1, keepdim=True)).sqrt(), x], -1)
    if kind == "rotations":
        return geometry(SpecialOrthogonal(3)).uniform_sample((n,), (3, 3))
    if kind == "SPD":
        geo = geometry(_SPD)
        return geo.exp_frame(torch.eye(2).expand(n, 2, 2), 0.7 * torch.randn(n, 3))
    return torch.nn.functional.normalize(torch.randn(n, 3), dim=-1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeat", type=int, default=30)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 16, 256, 100_000])
    parser.add_argument("--rows", nargs="*", default=[""], help="of names that contain one of these")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    print("| distribution | " + " | ".join(f"n = {n}: us | ratio" for n in args.sizes) + " |")
    print("|---|" + "---|---|" * len(args.sizes))
    for name, (ours, textbook, kind, parameters) in ROWS.items():
        if not any(part in name for part in args.rows):
            continue
        cells = []
        for n in args.sizes:
            leaves = [points(kind, n), *(torch.tensor(p) for p in parameters)]
            for leaf in leaves:
                leaf.requires_grad_()
            error = (ours(*leaves) - textbook(*leaves)).detach().abs()
            assert float(error.median()) < 1e-4, name  # near a pole float32 leaves the plain formula 2 digits

            def gradients(f: Density, leaves: list[Tensor] = leaves) -> Callable[[], object]:
                return lambda: torch.autograd.grad(f(*leaves).sum(), leaves)

            repeats = args.repeat if n < 10_000 else max(3, args.repeat // 5)
            a, b = least([gradients(ours), gradients(textbook)], repeats)
            cells.append(f"{1e3 * a:.0f} | {a / b:.1f}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
