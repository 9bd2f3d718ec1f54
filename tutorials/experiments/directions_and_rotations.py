r"""A mean direction with its cone of confidence, and a rotation between two catalogues, by NUTS along
geodesics.

**Mean direction.** Palaeomagnetists summarise N measured directions by their mean and Fisher's 95% cone [1].
Here the directions are those from the Earth's centre to the 11 volcanoes of Iceland in NOAA's catalogue of
eruptions: real data on the sphere, and a cluster by itself (the next volcano is 27 degrees away), so that
nothing is cut off. They are *not* magnetic directions, not a random sample (every place with a recorded
eruption is there, once), and they lie along rifts: a round distribution is a summary of them, not a truth.

.. math:: x_i \sim \mathrm{vMF}(\mu, \kappa), \quad \mu \sim \mathrm{uniform}(S^2), \quad p(\kappa) \propto
    1/\kappa

Given kappa the posterior of mu is :math:`\mathrm{vMF}(\bar x/|\bar x|, \kappa R)`, R the length of the sum;
kappa's own is one integral away. For large kappa the 95% cone of this posterior *is* Fisher's:
:math:`\cos\alpha_{95} = 1 - \frac{N-R}R(20^{1/(N-1)} - 1)`.

**Rotation (Wahba's problem [2]).** A catalogue x of places and a rotated, noisy copy
:math:`y_i \sim \mathrm{vMF}(Qx_i, \kappa)`: find Q. With kappa known the posterior of Q is exactly the matrix
Fisher distribution of parameter :math:`\kappa\sum_i y_ix_i^\top`, whose mode is the solution by singular
values. The copy is simulated, so that the truth is known; kappa is given to NUTS in one run and not in the
other.

**Calibration**: both inferences on simulated data sets, rank statistics (:func:`pyro_manifold.infer.sbc`).

    python tutorials/experiments/directions_and_rotations.py --folder ../shared/data/earth --figure
    picture.png python tutorials/experiments/directions_and_rotations.py --smoke          # half a minute's
    check that it runs

[1] Fisher, *Dispersion on a sphere*, Proc. R. Soc. A 217 (1953). [2] Wahba, SIAM Review 7 (1965).
"""

import argparse
import math
from functools import partial
from pathlib import Path
from typing import Any

import arviz
import geoopt
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.autoguide import init_to_generated, init_to_value
from torch import Tensor

import pyro_manifold.distributions as mdist
from pyro_manifold.datasets import earth
from pyro_manifold.geometry import SpecialOrthogonal, geometry
from pyro_manifold.infer import GeodesicNUTS, SBCResult, VectorizedMCMC, sbc
from pyro_manifold.infer.sbc.uniformity import ecdf_band

SPHERE, ROTATIONS = geoopt.Sphere(), SpecialOrthogonal(3)
WIDE, NARROW = (
    (1.0, 1e6),
    (20.0, 500.0),
)  # bounds of kappa: for the data; for calibration, whose runs share a step size
ICELAND = torch.tensor([0.4093, -0.1330, 0.9026])  # 64.5 N, 18 W


# --- models -------------------------------------------------------------------------------------------------
def concentration(bounds: tuple[float, float]) -> Tensor:
    """kappa with density 1/kappa between two bounds; equal bounds mean that it is known."""
    low, high = (math.log(b) for b in bounds)
    if low == high:
        return torch.tensor(low).exp()
    return pyro.sample("log_kappa", dist.Uniform(torch.tensor(low), torch.tensor(high))).exp()


def direction_model(n: int, bounds: tuple[float, float] = WIDE) -> None:
    kappa = concentration(bounds)
    mu = pyro.sample("mu", mdist.ManifoldUniform(SPHERE, 3))
    with pyro.plate("n", n):
        pyro.sample("x", mdist.VonMisesFisher(mu, kappa))


def rotation_model(x: Tensor, bounds: tuple[float, float] = WIDE) -> None:
    kappa = concentration(bounds)
    q = pyro.sample("q", mdist.ManifoldUniform(ROTATIONS, (3, 3)))
    with pyro.plate("n", len(x)):
        pyro.sample("y", mdist.VonMisesFisher((q @ x.unsqueeze(-1)).squeeze(-1), kappa))


def nuts(model: Any, start: dict[str, Any], draws: int, warmup: int, chains: int) -> dict[str, Tensor]:
    """Posterior draws, (chains, draws) + shape; all chains in one kernel, each started at a draw of the
    distributions ``start``."""
    near = init_to_generated(
        generate=lambda: init_to_value(values={k: distribution.sample() for k, distribution in start.items()})
    )
    kernel = GeodesicNUTS(model, chains=chains, init_strategy=near)
    mcmc = VectorizedMCMC(kernel, num_samples=draws, warmup_steps=warmup, disable_progbar=True)
    mcmc.run()
    return mcmc.get_samples(group_by_chain=True)


# --- closed forms -------------------------------------------------------------------------------------------
def log_constant(kappa: Tensor) -> Tensor:
    """log of kappa / (4 pi sinh kappa): the density of vMF on the sphere is its exponential times exp(kappa
    mu.x)."""
    pole = torch.tensor([0.0, 0.0, 1.0])
    return mdist.VonMisesFisher(pole, kappa).log_prob(pole) - kappa


def grid(bounds: tuple[float, float], points: int) -> Tensor:
    return torch.linspace(math.log(bounds[0]), math.log(bounds[1]), points)


def fisher(x: Tensor) -> tuple[Tensor, float, float, float]:
    """Mean direction, R, Fisher's estimate of kappa and his 95% cone in degrees [1]."""
    total = x.sum(0)
    r, n = float(total.norm()), len(x)
    return (
        total / r,
        r,
        (n - 1) / (n - r),
        math.degrees(math.acos(1 - (n - r) / r * (20 ** (1 / (n - 1)) - 1))),
    )


def direction_posterior(n: int, r: float, points: int = 4001) -> tuple[Tensor, Tensor, float]:
    """log kappa on a grid, its posterior weights, and the exact 95% cone in degrees."""
    u = grid(WIDE, points)
    w = torch.softmax(n * log_constant(u.exp()) - log_constant(u.exp() * r), 0)
    low, high = 0.0, 2.0  # of 1 - cos(angle), whose distribution given kappa is a truncated exponential
    for _ in range(60):
        t = (low + high) / 2
        k = u.exp() * r
        outside = ((-k * t).exp() - (-2 * k).exp()) / -torch.expm1(-2 * k)
        low, high = (t, high) if float(w @ outside) > 0.05 else (low, t)
    return u, w, math.degrees(math.acos(1 - low))


def rotation_posterior(
    x: Tensor, y: Tensor, bounds: tuple[float, float], points: int = 801
) -> tuple[Tensor, Tensor, Tensor]:
    """log kappa on a grid, its posterior weights, and the exact posterior mean of Q (a matrix inside the
    rotations)."""
    s = y.mT @ x
    best = len(x) / (
        len(x) - float(torch.linalg.svdvals(s).sum())
    )  # the posterior lies within a few 1/sqrt(n) of it
    u = (
        torch.tensor([math.log(bounds[0])])
        if points == 1
        else grid((max(bounds[0], best / 8), min(bounds[1], best * 8)), points)
    )
    distribution = mdist.MatrixFisher(u.exp()[:, None, None] * s)
    mode = distribution.mode
    log_c = (distribution.matrix * mode).sum((-1, -2)) - distribution.log_prob(mode)
    w = torch.softmax(len(x) * log_constant(u.exp()) + log_c, 0)
    return u, w, (w[:, None, None] * distribution.mean).sum(0)


def wahba(x: Tensor, y: Tensor) -> Tensor:
    """The rotation that minimises the sum of squared chords |y - Qx|, by singular values."""
    u, _, vt = torch.linalg.svd(y.mT @ x)
    return u @ torch.diag(torch.tensor([1.0, 1.0, float(torch.linalg.det(u @ vt))])) @ vt


# --- reading the draws --------------------------------------------------------------------------------------
def degrees_from(manifold: geoopt.Manifold, centre: Tensor, draws: Tensor) -> Tensor:
    """Coordinates of draws in the orthonormal frame at ``centre``, in degrees: the logarithm of the
    manifold."""
    return torch.rad2deg(geometry(manifold).log_frame(centre.expand_as(draws), draws))


def table(columns: dict[str, Tensor]) -> Any:
    """ArviZ's summary of (chains, draws, ...) arrays."""
    values = {k: v.numpy() for k, v in columns.items()}
    data = (
        arviz.from_dict(values)
        if arviz.__version__.startswith("0.")
        else arviz.from_dict({"posterior": values})
    )
    return arviz.summary(data)


def report(name: str, draws: Tensor, exact: float) -> None:
    """A Monte Carlo mean beside the exact number, and the difference in Monte Carlo standard errors."""
    ess = float(arviz.ess(draws.numpy()))
    error = float(draws.std()) / math.sqrt(ess)
    z = (
        f"{(float(draws.mean()) - exact) / error:+.1f}" if error > 0 else "-"
    )  # no draw outside, in a short run
    print(f"| {name} | {float(draws.mean()):.4f} | {exact:.4f} | {z} | {ess:.0f} |")


def cone(centre: Tensor, draws: Tensor) -> float:
    """The 95% quantile of the angle between draws and a centre, in degrees."""
    return math.degrees(float(geometry(SPHERE).dist(centre.expand_as(draws), draws).flatten().quantile(0.95)))


# --- the two problems ---------------------------------------------------------------------------------------
def mean_direction(folder: str | None, draws: int, warmup: int, chains: int) -> dict[str, Any]:
    places = earth("volcano", folder=folder)
    x = places[places @ ICELAND.to(places) > math.cos(math.radians(5))]
    gap = math.degrees(math.acos(float((places @ ICELAND.to(places)).sort(descending=True).values[len(x)])))
    mean, r, kappa, alpha = fisher(x)
    u, w, exact_alpha = direction_posterior(len(x), r)
    start = {"mu": mdist.VonMisesFisher(mean, kappa * r / 4), "log_kappa": dist.Normal(math.log(kappa), 0.5)}
    z = nuts(poutine.condition(partial(direction_model, len(x)), data={"x": x}), start, draws, warmup, chains)
    lat, lon = (
        math.degrees(math.asin(float(mean[2]))),
        math.degrees(math.atan2(float(mean[1]), float(mean[0]))),
    )
    print(f"\n## Mean direction: {len(x)} volcanoes of Iceland, next one {gap:.0f} degrees from the centre")
    print(
        f"Fisher: mean {lat:.2f} N {lon:.2f} E, R = {r:.5f}, kappa = {kappa:.0f}, alpha95 = {alpha:.3f} "
        f"degrees\n"
    )
    print("| quantity | NUTS | exact posterior | difference, se | ESS |\n|---|---|---|---|---|")
    report("kappa", z["log_kappa"].exp(), float(w @ u.exp()))
    report("log kappa", z["log_kappa"], float(w @ u))
    angle = geometry(SPHERE).dist(mean.expand_as(z["mu"]), z["mu"])
    report("share outside the exact cone", (angle > math.radians(exact_alpha)).to(x), 0.05)
    print(f"| 95% cone, degrees | {cone(mean, z['mu']):.3f} | {exact_alpha:.3f} (Fisher {alpha:.3f}) | | |\n")
    tangent = degrees_from(SPHERE, mean, z["mu"])
    print(table({"mu, degrees from Fisher's mean": tangent, "log_kappa": z["log_kappa"]}))
    return {"x": x, "mean": mean, "z": z, "grid": (u, w), "alpha": alpha}


def rotation(
    folder: str | None, n: int, kappa: float, known: bool, draws: int, warmup: int, chains: int
) -> dict[str, Any]:
    places = earth("volcano", folder=folder)
    x = places[torch.randperm(len(places), generator=torch.Generator().manual_seed(1))[:n]]
    truth = mdist.ManifoldUniform(ROTATIONS, (3, 3)).sample()
    y = mdist.VonMisesFisher(x @ truth.mT, kappa).sample()
    bounds = (kappa, kappa) if known else WIDE
    u, w, mean = rotation_posterior(x, y, bounds, 1 if known else 801)
    best = wahba(x, y)
    estimate = (n - 1.5) / (n - float(torch.linalg.svdvals(y.mT @ x).sum()))
    start = {
        "q": mdist.MatrixFisher(estimate / 4 * (y.mT @ x)),
        "log_kappa": dist.Normal(math.log(estimate), 0.5),
    }
    z = nuts(
        poutine.condition(partial(rotation_model, x, bounds), data={"y": y}), start, draws, warmup, chains
    )
    off = math.degrees(float(geometry(ROTATIONS).dist(truth, best)))
    gap = math.degrees(float(geometry(ROTATIONS).dist(best, mdist.MatrixFisher(y.mT @ x).mode)))
    print(f"\n## Rotation of {n} places, noise kappa = {kappa:.0f} ({'known' if known else 'unknown'})")
    print(
        f"singular values' solution: {off:.3f} degrees from the truth, {gap:.1e} from the mode of the matrix "
        f"Fisher distribution\n"
    )
    print("| quantity | NUTS | exact posterior | difference, se | ESS |\n|---|---|---|---|---|")
    for i, j in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)):
        report(
            f"E Q[{i},{j}], relative to the solution",
            (best.mT @ z["q"])[..., i, j],
            float((best.mT @ mean)[i, j]),
        )
    if not known:
        report("log kappa", z["log_kappa"], float(w @ u))
    many = min(20_000, 50 * draws * chains)
    k = torch.full((many,), kappa) if known else u.exp()[torch.multinomial(w, many, replacement=True)]
    exact = mdist.MatrixFisher(k[:, None, None] * (y.mT @ x)).sample()
    angles = [torch.rad2deg(geometry(ROTATIONS).dist(best.expand_as(a), a)) for a in (z["q"], exact)]
    report("angle from the solution, degrees", angles[0], float(angles[1].mean()))
    vector = degrees_from(ROTATIONS, best, z["q"])
    print()
    print(table({"rotation vector, degrees": vector} | ({} if known else {"log_kappa": z["log_kappa"]})))
    return {
        "vector": vector,
        "exact": degrees_from(ROTATIONS, best, exact),
        "truth": degrees_from(ROTATIONS, best, truth),
    }


def calibrate(name: str, simulations: int, draws: int, warmup: int, most: int | None = None) -> SBCResult:
    """Ranks among ``draws`` that are nearly independent, for which a chain makes ``most`` of them at most."""
    if name == "direction":
        model, data = partial(direction_model, 11, NARROW), "x"
    else:
        model, data = partial(rotation_model, mdist.ManifoldUniform(SPHERE, 3).sample((12,)), NARROW), "y"
    result = sbc(
        model, GeodesicNUTS, [data], num_simulations=simulations, num_draws=draws, warmup_steps=warmup,
        simulations_per_batch=min(128, simulations), max_samples=most, disable_progbar=True,
    )  # fmt: skip
    print(f"\n## Calibration: {name}\n{result}")
    return result


# --- pictures -----------------------------------------------------------------------------------------------
def draw(results: dict[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    direction, turn = results["mean direction"], results["rotation"]
    ranks = {"direction": results["direction"], "rotation": results["rotation ranks"]}
    figure = Figure(figsize=(11, 10), layout="constrained")
    (a, b), (c, d) = figure.subplots(2, 2)
    mean = direction["mean"]
    east = torch.nn.functional.normalize(torch.linalg.cross(torch.tensor([0.0, 0.0, 1.0]), mean), dim=0)
    axes = torch.stack([east, torch.linalg.cross(mean, east)])

    def on_map(p: Tensor) -> tuple[Any, Any]:
        u = torch.rad2deg(geometry(SPHERE).log(mean.expand_as(p), p)) @ axes.mT
        return u[..., 0].numpy(), u[..., 1].numpy()

    means = direction["z"]["mu"].flatten(0, 1)
    a.scatter(*on_map(means[::2]), s=2, color="tab:orange", alpha=0.4, label="posterior draws of the mean")
    a.scatter(*on_map(direction["x"]), s=40, color="black", marker="^", label="volcanoes")
    t = torch.linspace(0, 2 * math.pi, 200)
    a.plot(
        direction["alpha"] * t.cos(),
        direction["alpha"] * t.sin(),
        color="tab:blue",
        label=r"Fisher's $\alpha_{95}$",
    )
    a.set(
        aspect="equal",
        xlabel="degrees east of the mean",
        ylabel="degrees north",
        title="Iceland: mean direction",
    )
    a.legend(fontsize="small", framealpha=0.6, loc="upper left")

    u, w = direction["grid"]
    logs = direction["z"]["log_kappa"].flatten()
    b.hist(logs.numpy(), bins=50, density=True, color="tab:orange", alpha=0.6, label="NUTS")
    b.plot(u, w / (u[1] - u[0]), color="tab:blue", label="quadrature")
    b.set(
        xlim=(float(logs.min()) - 0.2, float(logs.max()) + 0.2),
        xlabel=r"$\log\kappa$",
        title="Iceland: concentration",
    )
    b.legend(fontsize="small", framealpha=0.6, loc="upper left")

    vector, exact = turn["vector"].flatten(0, 1), turn["exact"]
    c.scatter(*vector[::4, :2].mT.numpy(), s=2, color="tab:orange", alpha=0.4, label="NUTS")
    level = _ellipse(exact[:, :2])
    c.plot(*level.mT.numpy(), color="tab:blue", label="95% ellipse, exact draws")
    c.plot(0, 0, "k+", markersize=12, label="singular values")
    c.plot(*turn["truth"][:2].tolist(), "r*", markersize=11, label="truth")
    c.set(
        aspect="equal",
        xlabel="rotation vector 1, degrees",
        ylabel="rotation vector 2",
        title="Rotation between catalogues",
    )
    c.legend(fontsize="small", framealpha=0.6, loc="upper right")

    band = ecdf_band(ranks["direction"].num_simulations, ranks["direction"].num_draws)
    d.fill_between(
        band.points,
        band.lower - band.points,
        band.upper - band.points,
        color="0.88",
        linewidth=0,
        label="95% band",
    )
    for (name, result), colour in zip(ranks.items(), ("tab:orange", "tab:blue"), strict=True):
        for i, r in enumerate(result.ranks.values()):
            level = torch.bincount(r, minlength=result.num_draws + 1).cumsum(0)[:-1] / len(r)
            label = f"{name}, {len(result.ranks)} statistics" if i == 0 else None
            d.plot(band.points, level - band.points, color=colour, alpha=0.7, linewidth=1, label=label)
    n = ranks["direction"].num_simulations
    d.axhline(0, color="0.5", linewidth=0.8)
    d.set(
        xlabel="rank / number of draws",
        ylabel="ecdf - uniform",
        title=f"Calibration, {n} simulated data sets",
    )
    d.legend(fontsize="small", framealpha=0.6, loc="upper left")
    figure.savefig(path, dpi=110)


def _ellipse(points: Tensor) -> Tensor:
    """Where a normal distribution of these moments holds 95%."""
    factor = torch.linalg.cholesky(points.mT.cov())
    t = torch.linspace(0, 2 * math.pi, 200)
    return points.mean(0) + math.sqrt(-2 * math.log(0.05)) * torch.stack([t.cos(), t.sin()], -1) @ factor.mT


def parts(args: argparse.Namespace) -> dict[str, Any]:
    """What this script does, piece by piece."""
    run = args.draws, args.warmup, args.chains
    data, ranks = (
        (args.folder, args.places, args.kappa),
        (args.simulations, *((3, args.warmup, 6) if args.smoke else (31, args.warmup))),
    )
    return {
        "mean direction": partial(mean_direction, args.folder, *run),
        "rotation, known": partial(rotation, *data, True, *run),
        "rotation": partial(rotation, *data, False, *run),
        "direction": partial(calibrate, "direction", *ranks),
        "rotation ranks": partial(calibrate, "rotation", *ranks),
    }


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", help="where volerup.csv is; else it is downloaded")
    parser.add_argument("--draws", type=int, default=150, help="per chain (default 150)")
    parser.add_argument("--chains", type=int, default=16)
    parser.add_argument("--warmup", type=int, default=100, help="per chain (default 100)")
    parser.add_argument(
        "--places", type=int, default=40, help="in the catalogue that is rotated (default 40)"
    )
    parser.add_argument("--kappa", type=float, default=300.0, help="of its noise (default 300)")
    parser.add_argument(
        "--simulations", type=int, default=128, help="data sets for calibration (default 128)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--figure", type=Path, help="where to save the picture")
    parser.add_argument("--smoke", action="store_true", help="few draws and simulations")
    args = parser.parse_args()
    if args.smoke:
        args.draws, args.warmup, args.chains, args.simulations = 10, 8, 4, 8
    return args


def main() -> None:
    args = options()
    torch.set_default_dtype(torch.float64)
    results = {}
    for k, (name, part) in enumerate(
        parts(args).items()
    ):  # each with its own seed, so that they may also be run apart
        pyro.set_rng_seed(args.seed + k)
        results[name] = part()
    if args.figure:
        draw(results, args.figure)


if __name__ == "__main__":
    main()
