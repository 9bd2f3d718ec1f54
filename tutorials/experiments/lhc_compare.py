"""Posteriors of theta for the LHC tutorial: learned likelihoods, held against the exact one; calibration; the
picture."""

import json
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyro_manifold.contrib.lhc import LHC, MorphingHead, Posterior, grid_posterior, importance_posterior
from pyro_manifold.infer.sbc.calibration import SBCResult
from pyro_manifold.models import ManifoldFlow

LogLikelihood = Callable[[Tensor], Tensor]
N_OBS = 20


def report(args: Any, part: str, **values: Any) -> None:
    with (args.out / "results.jsonl").open("a") as f:
        f.write(json.dumps({"part": part, **values}) + "\n")
    shown = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in values.items() if k != "validation"}
    print(f"{part}: " + ", ".join(f"{k} {v}" for k, v in shown.items()), flush=True)


def log_likelihood(flow: ManifoldFlow, x: Tensor) -> LogLikelihood:
    """Of fixed events, at each of many theta: no volume, since it does not depend on theta."""
    u, step = flow.transform.inv(x), 20_000 if isinstance(flow.latent, MorphingHead) else 500
    if isinstance(flow.latent, MorphingHead):
        m = flow.latent.amplitudes(u)
        form = (m @ m.mT).reshape(len(u), -1).mT  # as LHC.likelihood: all theta and events in one product
        direction = flow.latent._direction

        def quick(theta: Tensor) -> Tensor:
            s = direction(theta)
            return ((s.unsqueeze(-1) * s.unsqueeze(-2)).flatten(-2) @ form).log().sum(-1)

        return lambda theta: torch.cat([quick(t) for t in theta.split(step)])
    return lambda theta: torch.cat(
        [flow.latent.condition(t.unsqueeze(1)).log_prob(u).sum(-1) for t in theta.split(step)]
    )


def observed_sets(args: Any, lhc: LHC, sets: int) -> tuple[Tensor, list[Tensor]]:
    """True theta (3 sets, k), the paper's three points with f_WW = 0, 0, 0.5 where there is one; and the
    events y of each."""
    points = torch.cat([torch.tensor(lhc.true_points), torch.tensor([[0.0], [0.0], [0.5]])], -1)[
        :, : args.theta
    ]
    truths = points.double().repeat_interleave(sets, 0)
    return truths, [lhc.simulate(t, N_OBS).y for t in truths]


def posterior(args: Any, f: LogLikelihood) -> Posterior:
    """On a grid of two theta; of three, on draws of the prior, the same for every likelihood."""
    if args.theta == 2:
        return grid_posterior(f, size=args.grid)
    return importance_posterior(f, args.theta, num=args.prior_draws, seed=args.seed)


def score_sets(
    args: Any,
    name: str,
    truths: Tensor,
    exact: list[Posterior],
    learned: list[Posterior],
    part: str = "posteriors",
    **more: Any,
) -> None:
    kl = torch.stack([p.kl(q) for p, q in zip(exact, learned, strict=True)])
    c2st = torch.stack([p.optimal_c2st(q) for p, q in zip(exact, learned, strict=True)])
    at = torch.stack([q.log_kde(t) for q, t in zip(learned, truths, strict=True)])
    gap = at - torch.stack([p.log_kde(t) for p, t in zip(exact, truths, strict=True)])
    report(
        args, part, name=name, log_posterior_at_truth=float(at.mean()), less_exact=float(gap.mean()),
        gap_of_a_set=float(gap.abs().mean()), c2st=float(c2st.mean()), kl=float(kl.mean()), sets=len(kl),
        standard_errors=[float(v.std() / len(kl) ** 0.5) for v in (c2st, kl)], worst_c2st=float(c2st.max()),
        worst_kl=float(kl.max()), least_ess=min(p.effective_sample_size for p in learned), **more,
    )  # fmt: skip


def score_heads(args: Any, lhc: LHC, flows: dict[str, ManifoldFlow]) -> None:
    """On more sets than the others, since a posterior of theirs takes little time."""
    truths, y = observed_sets(args, lhc, args.head_sets)
    exact = [posterior(args, lhc.likelihood(events)) for events in y]
    for name, flow in flows.items():
        learned = [posterior(args, log_likelihood(flow, lhc.observables(events))) for events in y]
        score_sets(args, name, truths, exact, learned, part="heads")


def score_head(args: Any, name: str, flow: ManifoldFlow, lhc: LHC) -> None:
    """R^2 of the score of single events, and how far the integral of the density is from one at the true
    points."""
    num = 500 if args.smoke else 5000
    t = lhc.prior(num)
    y = lhc.simulate(t).y
    theta = t.clone().requires_grad_()
    u = flow.transform.inv(lhc.observables(y))
    (own,) = torch.autograd.grad(flow.latent.log_ratio(u, theta).sum(), theta)
    score = lhc.score(y, t)
    r2 = 1 - (own - score).square().mean(0) / score.var(0)
    points = observed_sets(args, lhc, 1)[0]
    report(
        args,
        "score",
        name=name,
        r2=r2.tolist(),
        log_integral=flow.latent.log_normaliser(points, 4 * num).tolist(),
    )


# --- calibration --------------------------------------------------------------------------------------------
def calibrate(args: Any, lhc: LHC, flows: dict[str, ManifoldFlow], num_draws: int = 63) -> None:
    """Ranks of theta from the prior among draws of the posterior, and of its log density among theirs."""
    theta = lhc.prior(args.simulations)
    y = lhc.simulate(theta.repeat_interleave(N_OBS, 0)).y.reshape(len(theta), N_OBS, 14)
    how: dict[str, Callable[[Tensor], LogLikelihood]] = {"exact": lhc.likelihood}
    for name, flow in flows.items():
        how[name] = lambda events, flow=flow: log_likelihood(flow, lhc.observables(events))  # type: ignore[misc]
    for name, likelihood in how.items():
        ranks: dict[str, list[Tensor]] = {k: [] for k in (*lhc.names, "log density")}
        for i, (t, events) in enumerate(zip(theta, y, strict=True)):
            f = likelihood(events)
            p = importance_posterior(f, args.theta, num=args.prior_draws // 10, seed=i)
            torch.manual_seed(i)
            index = torch.multinomial(p.weight, num_draws, replacement=True)
            at = f(t.unsqueeze(0)) - 0.5 * t.square().sum() - 0.5 * len(t) * math.log(2 * math.pi)
            low = torch.cat([(p.theta[index] < t).sum(0), (p.log_density[index] < at).sum(0, keepdim=True)])
            for column, value in zip(ranks.values(), low, strict=True):
                column.append(value)
        result = SBCResult({k: torch.stack(v) for k, v in ranks.items()}, num_draws)
        print(f"{name}:\n{result}", flush=True)
        report(
            args,
            "SBC",
            name=name,
            simulations=len(theta),
            chi2=result.p_values("chi2"),
            ecdf=result.p_values("ecdf"),
        )


# --- the picture --------------------------------------------------------------------------------------------
def finer(p: Posterior, size: int = 241) -> tuple[Tensor, Tensor]:
    """An axis, and the weights of a grid of ``size`` points along it: log densities interpolated by cubics,
    for pictures."""
    side, axis = math.isqrt(len(p.theta)), p.theta[:, 1]
    field = p.log_density.reshape(1, 1, side, side)
    field = torch.nn.functional.interpolate(field, size=(size, size), mode="bicubic", align_corners=True)[
        0, 0
    ]
    return torch.linspace(float(axis[0]), float(axis[side - 1]), size), (
        field - field.logsumexp((0, 1))
    ).exp()


def contour_levels(weight: Tensor) -> list[float]:
    """Densities on the rims of the 95 % and 68 % regions."""
    w = weight.flatten().sort(descending=True).values
    return [float(w[int((w.cumsum(0) < mass).sum())]) for mass in (0.95, 0.68)]


def corner(
    args: Any, truths: Tensor, grids: dict[str, list[Posterior]], drawn: dict[str, Any], best: str
) -> None:
    """A set of one mode and one of several: contours of each posterior and draws of NUTS under ``best``."""
    from matplotlib.figure import Figure

    colours = {
        "head, joint score": "C1",
        "head, joint ratio": "C4",
        "head, both": "C0",
        "spline, SCANDAL": "C2",
    }
    figure = Figure(figsize=(11, 5.4), layout="constrained")
    for part, (kind, (i, theta)) in zip(figure.subfigures(1, len(drawn)), drawn.items(), strict=True):
        axes = part.subplots(2, 2, sharex="col", width_ratios=(3, 1.2), height_ratios=(1.2, 3))
        axes[0, 1].axis("off")
        part.suptitle(f"{kind} set, n = {N_OBS}", fontsize=10)
        for name, ps in grids.items():
            if "seed" in name:
                continue
            axis, w = finer(ps[i])
            style: dict[str, Any] = {"color": colours.get(name, "0.6"), "lw": 1.3}
            if name == "exact":
                axes[1, 0].contourf(
                    axis, axis, w.mT, levels=[*contour_levels(w), 1.0], colors=["0.88", "0.72"]
                )
                axes[0, 0].fill_between(axis, w.sum(1), color="0.8", label="exact")
                axes[1, 1].fill_betweenx(axis, w.sum(0), color="0.8")
                continue
            axes[1, 0].contour(
                axis, axis, w.mT, levels=contour_levels(w), colors=[style["color"]], linewidths=1.2
            )
            axes[0, 0].plot(axis, w.sum(1), label=name, **style)
            axes[1, 1].plot(w.sum(0), axis, **style)
        some = theta[:: max(1, len(theta) // 400)]
        axes[1, 0].scatter(some[:, 0], some[:, 1], s=2, color="k", alpha=0.4, lw=0, label=f"NUTS, {best}")
        axes[1, 0].plot(*truths[i], "r*", ms=10, label="truth")
        q = grids["exact"][i]
        spread = 4.5 * q.covariance.diagonal().sqrt()
        for a, m, s in zip((axes[1, 0].set_xlim, axes[1, 0].set_ylim), q.mean, spread, strict=True):
            a(max(-4, float(m - s)), min(4, float(m + s)))
        axes[1, 1].set_ylim(axes[1, 0].get_ylim())
        axes[1, 0].set(xlabel="$f_W$", ylabel=r"$f_{\tilde W}$")
        handles = [h for a in (axes[0, 0], axes[1, 0]) for h in a.get_legend_handles_labels()[0]]
        axes[0, 1].legend(handles=handles, fontsize=6.5, loc="center", frameon=False)
        for a in (axes[0, 0], axes[1, 1]):
            a.tick_params(labelleft=False, labelbottom=False, left=False, bottom=False)
            a.spines[["top", "right", "left" if a is axes[0, 0] else "bottom"]].set_visible(False)
    figure.savefig(args.out / "lhc.png", dpi=110)
