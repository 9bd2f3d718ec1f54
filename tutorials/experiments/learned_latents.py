r"""A latent variable on a learned manifold: half a picture of a turned digit is seen, with noise; what is the
whole?

A handwritten digit (real, 8 x 8 pixels, from scikit-learn), turned by a random angle and enlarged by a random
factor, is a point of a smooth surface in R^64, which nobody tells the model. An M-flow learns the surface and
the density on it from turned pictures. Then it is the *prior of a latent site* in a Pyro model,

    x ~ M-flow                                a whole picture, on the learned surface
    y ~ Normal(x[left half], noise)           what is seen

and the posterior of x is found in three ways: by Pyro's ``AutoMultivariateNormal`` and by Pyro's plain
``NUTS``, which both work in the chart of the surface because ``Pushforward`` says how to get there, and by a
*guide that is an M-flow itself*: a conditional spline flow in the chart, pushed onto the surface, trained
once by SVI for all y.

Everything is compared with what is exact. The surface has two dimensions, so the posterior of the learned
model is summed on a grid; and the posterior under the true process too, on a grid of angles and factors,
which tells what learning the surface cost.

    python tutorials/experiments/learned_latents.py --out results         # about 15 CPU minutes; goes on
    where it was interrupted python tutorials/experiments/learned_latents.py --out results --smoke
"""

import argparse
import math
import time
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal
from torch import Tensor
from tqdm import tqdm

from pyro_manifold.datasets import digits
from pyro_manifold.distributions import ConditionalPushforward
from pyro_manifold.evaluation import mmd2
from pyro_manifold.flows import LatentFlow, coupling_chain
from pyro_manifold.models import ManifoldFlow
from pyro_manifold.training import digest, fit_md, load_checkpoint, save_checkpoint

SPREAD = torch.tensor([0.6, 0.15])  # standard deviations of the angle (radians) and of the log factor
SEEN = torch.arange(64).reshape(8, 8)[:, :4].flatten()  # pixels of the left half
HIDDEN = torch.arange(64).reshape(8, 8)[:, 4:].flatten()


def pictures(t: Tensor, ink: Tensor) -> Tensor:
    """The digit ``ink``, (64,), turned by ``t[..., 0]`` and enlarged by exp(``t[..., 1]``): every pixel a
    blot of 0.8 pixels."""
    at = torch.cartesian_prod(torch.arange(8.0) - 3.5, torch.arange(8.0) - 3.5)
    cos, sin = t[..., 0].cos(), t[..., 0].sin()
    turn = (
        torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)
        * t[..., 1].exp()[..., None, None]
    )
    moved = at @ turn.mT
    blots = (-0.5 * torch.cdist(at.expand(moved.shape), moved).square() / 0.8**2).exp() / (
        2 * math.pi * 0.8**2
    )
    return blots @ ink


class Problem:
    """The learned surface as a prior, and the exact posteriors on grids."""

    def __init__(self, flow: ManifoldFlow, ink: Tensor, noise: float, cells: int) -> None:
        self.flow, self.noise = flow.requires_grad_(False), noise
        self.t = self._grid(torch.zeros(2), 5 * SPREAD, cells)
        self.t_x = torch.cat([pictures(part, ink) for part in self.t.split(2048)])
        self.t_prior = dist.Normal(0.0, SPREAD).log_prob(self.t).sum(-1)
        u = flow.condition().base_dist.sample((20000,))
        middle, reach = (u.amax(0) + u.amin(0)) / 2, 0.65 * (u.amax(0) - u.amin(0))
        self.u = self._grid(middle, reach, cells)
        self.cell = float((2 * reach / (cells - 1)).prod())
        self.u_x = flow.transform(self.u)
        self.u_prior = flow.latent.condition().log_prob(self.u)

    @staticmethod
    def _grid(middle: Tensor, reach: Tensor, cells: int) -> Tensor:
        return middle + reach * torch.cartesian_prod(*[torch.linspace(-1, 1, cells)] * 2)

    def likelihood(self, x: Tensor, y: Tensor) -> Tensor:
        return dist.Normal(x[..., SEEN], self.noise).log_prob(y).sum(-1)

    def model(self, y: Tensor) -> None:
        """Rows of ``y``, the left halves of so many pictures."""
        with pyro.plate("pictures", len(y)):
            x = pyro.sample("x", self.flow.condition())
            pyro.sample("y", dist.Normal(x[..., SEEN], self.noise).to_event(1), obs=y)

    def exact(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """For one half: log evidence, weights of the grid of u, weights of the true grid of (angle, log
        factor)."""
        joint = self.u_prior + self.likelihood(self.u_x, y)
        true = self.t_prior + self.likelihood(self.t_x, y)
        return joint.logsumexp(0) + math.log(self.cell), joint.softmax(0), true.softmax(0)

    def kl(self, y: Tensor, u: Tensor, log_q: Tensor, log_evidence: Tensor) -> float:
        """Divergence of a guide from the exact posterior, by its draws ``u``; volumes cancel in the chart."""
        log_p = (
            self.flow.latent.condition().log_prob(u)
            + self.likelihood(self.flow.transform(u), y)
            - log_evidence
        )
        return float((log_q - log_p).mean())


# --- training
#
# ------------------------------------------------------------------------------------------------
def learn_surface(ink: Tensor, args: argparse.Namespace) -> tuple[ManifoldFlow, Tensor]:
    torch.manual_seed(args.seed)
    x = pictures(SPREAD * torch.randn(args.rows, 2), ink)
    flow = ManifoldFlow.from_data(x, 2, depth=4, hidden=(64, 64), mix=False)
    fit_md(
        flow,
        x,
        epochs=tuple(args.epochs),
        lr=2e-3,
        batch_size=100,
        seed=args.seed,
        checkpoint=args.out / "surface.pt",
        disable_progbar=args.quiet,
    )
    return flow, x


def learn_guide(problem: Problem, x: Tensor, args: argparse.Namespace) -> LatentFlow:
    """SVI of the conditional M-flow, over halves of pictures with fresh noise at each step."""
    torch.manual_seed(args.seed + 1)
    inside = LatentFlow(2, coupling_chain(2, 6, len(SEEN), hidden=(64, 64)), len(SEEN))
    on_surface = ConditionalPushforward(inside, problem.flow.transform)
    file = args.out / "guide.pt"
    made_of = {
        "surface": digest(problem.flow.state_dict()),
        "rows": digest(x),
        "seed": args.seed,
        "steps": args.steps,
    }
    if file.exists():
        inside.load_state_dict(load_checkpoint(file, made_of))
        return inside

    def guide(y: Tensor) -> None:
        pyro.module("guide", inside)
        with pyro.plate("pictures", len(y)):
            pyro.sample("x", on_surface.condition(y))

    pyro.clear_param_store()
    adam = pyro.optim.ClippedAdam({"lr": 2e-3, "lrd": 0.01 ** (1 / args.steps), "clip_norm": 5.0})
    svi = SVI(problem.model, guide, adam, Trace_ELBO())
    losses = []
    bar = tqdm(range(args.steps), disable=args.quiet, desc="guide")
    for _ in bar:
        rows = x[torch.randint(len(x), (args.batch,))][:, SEEN]
        losses.append(svi.step(rows + problem.noise * torch.randn_like(rows)) / args.batch)
        bar.set_postfix(loss=f"{losses[-1]:.2f}", refresh=False)
    save_checkpoint(file, inside.state_dict(), made_of)
    return inside


def by_autoguide(problem: Problem, y: Tensor, args: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Draws in the chart and their log densities, of a normal distribution in the chart."""
    pyro.clear_param_store()
    guide = AutoMultivariateNormal(problem.model, init_scale=0.3)
    svi = SVI(
        problem.model,
        guide,
        pyro.optim.ClippedAdam({"lr": 0.05, "lrd": 0.1 ** (1 / args.auto_steps)}),
        Trace_ELBO(),
    )
    for _ in range(args.auto_steps):
        svi.step(y.unsqueeze(0))
    with torch.no_grad():
        q = guide.get_posterior()
        u = q.sample((args.draws,))
        return u, q.log_prob(u)


def by_nuts(problem: Problem, y: Tensor, args: argparse.Namespace) -> Tensor:
    """Draws in the chart, of one chain of Pyro's own NUTS."""
    mcmc = MCMC(
        NUTS(problem.model),
        num_samples=args.nuts_draws,
        warmup_steps=args.nuts_draws // 2,
        disable_progbar=True,
    )
    mcmc.run(y.unsqueeze(0))
    return problem.flow.transform.inv(mcmc.get_samples()["x"].squeeze(-2))


# --- comparison
#
# ------------------------------------------------------------------------------------------------
def picked(points: Tensor, weight: Tensor, n: int) -> Tensor:
    return points[torch.multinomial(weight, n, replacement=True)]


def compare(
    problem: Problem, inside: LatentFlow, x: Tensor, ink: Tensor, args: argparse.Namespace
) -> list[dict[str, Any]]:
    """One row for each test picture: divergences, discrepancies, errors of the hidden half."""
    torch.manual_seed(args.seed + 2)
    truth = pictures(SPREAD * torch.randn(args.tests, 2), ink)
    halves = truth[:, SEEN] + problem.noise * torch.randn(args.tests, len(SEEN))
    noisy = torch.cat(
        [x[:, SEEN] + problem.noise * torch.randn(len(x), len(SEEN)), torch.ones(len(x), 1)], -1
    )
    linear = torch.linalg.lstsq(noisy, x[:, HIDDEN]).solution  # the best linear guess, without a manifold
    rows = []
    for i, (whole, y) in enumerate(zip(truth, tqdm(halves, disable=args.quiet, desc="compare"), strict=True)):
        log_evidence, w_u, w_t = problem.exact(y)
        row: dict[str, Any] = {
            "truth": whole,
            "y": y,
            "w_u": w_u,
            "draws": {},
            "kl": {},
            "mmd": {},
            "cpu": {},
        }
        draws = {"exact": picked(problem.u, w_u, args.draws)}
        began = time.process_time()
        with torch.no_grad():
            q = inside.condition(y)
            draws["M-flow guide"] = q.sample((args.draws,))
            log_q = q.log_prob(draws["M-flow guide"])
        row["cpu"]["M-flow guide"] = time.process_time() - began
        row["kl"]["M-flow guide"] = problem.kl(y, draws["M-flow guide"], log_q, log_evidence)
        if i < args.each:
            began = time.process_time()
            draws["AutoMultivariateNormal"], log_q = by_autoguide(problem, y, args)
            row["cpu"]["AutoMultivariateNormal"] = time.process_time() - began
            row["kl"]["AutoMultivariateNormal"] = problem.kl(
                y, draws["AutoMultivariateNormal"], log_q, log_evidence
            )
            began = time.process_time()
            draws["NUTS"] = by_nuts(problem, y, args)
            row["cpu"]["NUTS"] = time.process_time() - began
        again = picked(problem.u, w_u, 1000)
        row["mmd"] = {name: mmd2(u[:1000], again) for name, u in draws.items()}
        means = {name: problem.flow.transform(u).mean(0) for name, u in draws.items()}
        means |= {"true process": w_t @ problem.t_x, "learned, grid": w_u @ problem.u_x}
        guesses = {name: m[HIDDEN] for name, m in means.items() if name != "exact"}
        guesses |= {"linear": torch.cat([y, torch.ones(1)]) @ linear, "mean picture": x[:, HIDDEN].mean(0)}
        row["error"] = {
            name: float((g - whole[HIDDEN]).square().mean().sqrt()) for name, g in guesses.items()
        }
        row["draws"], row["means"] = draws, means
        rows.append(row)
    return rows


def report(rows: list[dict[str, Any]], each: int) -> None:
    def stats(key: str, name: str, few: bool) -> str:
        values = torch.tensor([r[key][name] for r in (rows[:each] if few else rows) if name in r[key]])
        if not len(values):
            return ""
        return f"{values.median():.4f} [{values.min():.4f}, {values.max():.4f}]"

    print(
        f"\nthe first {each} test pictures; median [least, greatest]; MMD^2 of up to 1000 draws against 1000 "
        f"exact ones\n"
    )
    print(
        "| posterior of the learned model | KL to the exact one, nats | MMD² | CPU s a picture "
        "|\n|---|---|---|---|"
    )
    for name in ("exact", "M-flow guide", "AutoMultivariateNormal", "NUTS"):
        print(
            f"| {name} | {stats('kl', name, True)} | {stats('mmd', name, True)} | {stats('cpu', name, True)} "
            f"|"
        )
    print(f"\nall {len(rows)} test pictures\n")
    print(
        f"M-flow guide: KL {stats('kl', 'M-flow guide', False)}, MMD² {stats('mmd', 'M-flow guide', False)}"
    )
    print("\n| guess of the hidden half | rms error of its pixels |\n|---|---|")
    for name in ("true process", "learned, grid", "M-flow guide", "linear", "mean picture"):
        errors = torch.tensor([r["error"][name] for r in rows])
        print(f"| {name} | {errors.square().mean().sqrt():.4f} |")


def draw(problem: Problem, rows: list[dict[str, Any]], file: Path) -> None:
    import matplotlib.pyplot as plt

    cells = round(len(problem.u) ** 0.5)
    names = [
        "seen",
        "truth",
        "mean, true process",
        "mean, learned",
        "mean, guide",
        "draws of the guide",
        "",
        "",
    ]
    figure, axes = plt.subplots(
        len(rows), 9, figsize=(13, 1.6 * len(rows)), width_ratios=[1] * 8 + [1.9], layout="constrained"
    )
    for axis, row in zip(axes.reshape(len(rows), 9), rows, strict=True):
        seen = torch.full((64,), 0.5)
        seen[SEEN] = row["y"]
        guide = row["draws"]["M-flow guide"]
        shown = [
            seen,
            row["truth"],
            row["means"]["true process"],
            row["means"]["learned, grid"],
            row["means"]["M-flow guide"],
        ]
        for ax, picture, name in zip(axis, [*shown, *problem.flow.transform(guide[:3])], names, strict=False):
            ax.imshow(picture.reshape(8, 8).numpy(), cmap="Greys", vmin=0, vmax=1.2)
            ax.set(xticks=[], yticks=[])
            if row is rows[0]:
                ax.set_title(name, fontsize=8)
        ax, w = axis[8], row["w_u"].reshape(cells, cells)
        levels = w.flatten().sort(descending=True).values
        cuts = [
            float(levels[int((levels.cumsum(0) < p).sum().clamp_max(len(levels) - 1))]) for p in (0.95, 0.5)
        ]
        u0, u1 = problem.u[::cells, 0], problem.u[:cells, 1]
        ax.contour(
            u0.numpy(), u1.numpy(), w.mT.numpy(), levels=sorted(set(cuts)), colors="black", linewidths=1
        )
        for name, color in (("M-flow guide", "#4477aa"), ("NUTS", "#ee6677")):
            if name in row["draws"]:
                ax.scatter(
                    *row["draws"][name][:250].T.numpy(), s=3, color=color, label=name, alpha=0.6, linewidths=0
                )
        centre, spread = row["draws"]["exact"].mean(0), row["draws"]["exact"].std(0)
        (left, low), (right, high) = centre - 4 * spread, centre + 4 * spread
        ax.set(xlim=(float(left), float(right)), ylim=(float(low), float(high)))
        ax.tick_params(labelsize=6)
        if row is rows[0]:
            ax.set_title("posterior in the chart, exact 50% and 95%", fontsize=8)
            ax.legend(fontsize=6, markerscale=3)
    figure.savefig(file, dpi=75)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=Path("learned_latents"), help="folder of results; what it holds is reused"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--digit", type=int, default=3, help="which digit is turned (default 3)")
    parser.add_argument(
        "--noise", type=float, default=0.3, help="standard deviation of a seen pixel; ink is about 0 to 1.2"
    )
    parser.add_argument("--rows", type=int, default=4000, help="pictures to learn from")
    parser.add_argument(
        "--epochs", type=int, nargs=2, default=[120, 40], help="passes of the manifold and the density phase"
    )
    parser.add_argument("--steps", type=int, default=2000, help="steps of SVI of the M-flow guide")
    parser.add_argument("--batch", type=int, default=64, help="pictures a step")
    parser.add_argument("--tests", type=int, default=50, help="test pictures")
    parser.add_argument(
        "--each", type=int, default=3, help="of which so many get an autoguide and a NUTS chain of their own"
    )
    parser.add_argument("--auto-steps", type=int, default=500)
    parser.add_argument(
        "--nuts-draws", type=int, default=200, help="of one chain, after half as many for warm-up"
    )
    parser.add_argument("--draws", type=int, default=4000, help="draws of a guide")
    parser.add_argument("--cells", type=int, default=201, help="of a grid, each way")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    parser.add_argument("--smoke", action="store_true", help="a minute's check that it runs")
    args = parser.parse_args()
    if args.smoke:
        args.rows, args.epochs, args.steps, args.tests, args.each, args.auto_steps = 200, [2, 2], 5, 2, 1, 5
        args.nuts_draws, args.draws, args.cells = 4, 50, 31
    args.out.mkdir(parents=True, exist_ok=True)
    grey, label = digits(binarize=False)
    ink = grey[label == args.digit][args.seed].float()

    began = time.process_time()
    flow, x = learn_surface(ink, args)
    fresh = pictures(SPREAD * torch.randn(1000, 2), ink)
    with torch.no_grad():
        off, spread = (
            (fresh - near).square().sum(-1).mean().sqrt() for near in (flow.denoise(fresh), x.mean(0))
        )
    print(
        f"surface: new pictures at rms distance {off:.4f}, of {spread:.3f}; "
        f"{time.process_time() - began:.0f} CPU s"
    )
    problem = Problem(flow, ink, args.noise, args.cells)
    began = time.process_time()
    inside = learn_guide(problem, x, args)
    print(f"guide: {args.steps} steps, {time.process_time() - began:.0f} CPU s")
    rows = compare(problem, inside, x, ink, args)
    report(rows, args.each)
    draw(problem, rows[: args.each], args.out / "learned_latents.png")


if __name__ == "__main__":
    main()
