"""LHC parameter inference with a learned 14-dimensional manifold, against the exact posterior.

Parts: events; manifold and theta-free density; four densities given theta (the morphing head by joint score, by joint ratios or
by both, and a conditional spline flow with SCANDAL); posteriors of 24 sets of 20 events; NUTS; calibration; with --sbi also
sbi's NPE, NRE and NLE. What is trained is kept in --out and not trained again.
"""

import argparse
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import MCMC, NUTS
from pyro.ops.stats import effective_sample_size, split_gelman_rubin
from torch import Tensor

from pyro_manifold.datasets import LHC
from pyro_manifold.datasets.lhc import Posterior, closure, grid_posterior, importance_posterior
from pyro_manifold.flows import LatentFlow, MorphingHead, coupling_chain
from pyro_manifold.infer import GeodesicNUTS, VectorizedMCMC, to_inference_data
from pyro_manifold.infer.calibration import SBCResult
from pyro_manifold.models import ManifoldFlow, fit_md

LogLikelihood = Callable[[Tensor], Tensor]
N_OBS = 20


# --- data and manifold ----------------------------------------------------------------------------------------------------
def simulate(args: Any) -> dict[str, Tensor]:
    """Training events, one for each theta of the prior, with the joint score and joint ratios to ``args.ratios`` other theta."""
    path = args.out / "events.pt"
    if path.exists():
        return torch.load(path)
    lhc = LHC(2, seed=args.seed)
    theta = lhc.prior(args.events)
    events = lhc.simulate(theta, progress=args.progress)
    other = lhc.prior(args.events * args.ratios).reshape(args.events, args.ratios, 2)
    ratios = [lhc.joint_ratio(events, theta, t).log() for t in other.unbind(1)]
    out = {
        "theta": theta, "y": events.y, "swapped": events.swapped, "x": lhc.observables(events.y), "other": other,
        "score": lhc.joint_score(events, theta), "log_ratio": torch.stack(ratios, 1),
    }  # fmt: skip
    torch.save(out, path)
    return out


def manifold(args: Any, data: dict[str, Tensor]) -> ManifoldFlow:
    """The M-flow: g by reconstruction, then a density of its coordinates that knows nothing of theta."""
    x = data["x"].float()
    torch.manual_seed(args.seed)
    flow = ManifoldFlow.from_data(x, 14, depth=4, hidden=(args.width,) * 2, latent_depth=4)
    path = args.out / "manifold.pt"
    if not path.exists():
        start = time.process_time()
        history = fit_md(
            flow, x, epochs=(args.manifold_epochs, args.latent_epochs), batch_size=256, lr=(3e-3, 1e-3), validation=0.05,
            seed=args.seed, checkpoint=args.out / "manifold_checkpoint.pt", disable_progbar=not args.progress,
        )  # fmt: skip
        torch.save({"flow": flow.state_dict(), "losses": history.losses, "cpu_seconds": time.process_time() - start}, path)
    flow.load_state_dict(torch.load(path)["flow"])
    return flow.requires_grad_(False)


def densities(args: Any, data: dict[str, Tensor], flow: ManifoldFlow) -> dict[str, ManifoldFlow]:
    """Densities of the coordinates given theta, on the manifold that is there."""
    x, theta, score, log_ratio, other = (data[k].float() for k in ("x", "theta", "score", "log_ratio", "other"))
    out: dict[str, ManifoldFlow] = {}
    for name in ("head, joint score", "head, joint ratio", "head, both", "spline, SCANDAL"):
        torch.manual_seed(args.seed + 1)
        if name.startswith("head"):
            latent: Any = MorphingHead(flow.latent, LHC(2).S, theta, hidden=(args.head_width,) * 3)
            epochs, batch, lr = args.head_epochs, 500, 2e-3
        else:
            latent = LatentFlow(14, coupling_chain(14, 5, 2, hidden=(64, 64)), 2)
            epochs, batch, lr = args.spline_epochs, 500, 1e-3
        part = out[name] = ManifoldFlow(flow.transform, latent)
        given: dict[str, Any] = {} if "ratio" in name else {"score": score}
        if "ratio" in name or "both" in name:
            given["ratio"] = (other, log_ratio)
        path = args.out / f"{name.replace(', ', '_').replace(' ', '_')}.pt"
        if not path.exists():
            start = time.process_time()
            history = fit_md(
                part, x, theta, epochs=epochs, batch_size=batch, lr=lr, validation=0.05, seed=args.seed,
                checkpoint=path.with_suffix(".checkpoint"), disable_progbar=not args.progress, **given,
            )  # fmt: skip
            torch.save({"flow": part.state_dict(), "losses": history.losses, "cpu_seconds": time.process_time() - start}, path)
        saved = torch.load(path)
        part.load_state_dict(saved["flow"])
        report(args, "training", name=name, cpu_seconds=saved["cpu_seconds"], validation=saved["losses"]["D"])
    return {name: part.requires_grad_(False).double() for name, part in out.items()}


# --- posteriors of small data sets ----------------------------------------------------------------------------------------
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
    return lambda theta: torch.cat([flow.latent.condition(t.unsqueeze(1)).log_prob(u).sum(-1) for t in theta.split(step)])


def observed_sets(args: Any, lhc: LHC) -> tuple[Tensor, list[Tensor]]:
    """True theta (sets, 2), and the events y of each."""
    truths = torch.tensor(lhc.true_points, dtype=torch.float64).repeat_interleave(args.sets, 0)
    return truths, [lhc.simulate(t, N_OBS).y for t in truths]


def score_sets(args: Any, name: str, truths: Tensor, exact: list[Posterior], learned: list[Posterior]) -> None:
    kl = torch.stack([p.kl(q) for p, q in zip(exact, learned, strict=True)])
    c2st = torch.stack([p.optimal_c2st(q) for p, q in zip(exact, learned, strict=True)])
    at = torch.stack([q.log_kde(t) for q, t in zip(learned, truths, strict=True)])
    report(
        args, "posteriors", name=name, log_posterior_at_truth=float(at.mean()), c2st=float(c2st.mean()), kl=float(kl.mean()),
        worst_c2st=float(c2st.max()), worst_kl=float(kl.max()),
    )  # fmt: skip


def basins(p: Posterior) -> Tensor:
    """Which local maximum each point of a grid leads to by steepest ascent, largest mass first: integers from 0."""
    side = math.isqrt(len(p.theta))
    field = torch.nn.functional.pad(p.log_density.reshape(side, side), (1, 1, 1, 1), value=-math.inf)
    index = torch.nn.functional.pad(torch.arange(side * side).reshape(side, side), (1, 1, 1, 1))
    shifts = [(i, j) for i in range(3) for j in range(3)]
    around = torch.stack([field[i : i + side, j : j + side] for i, j in shifts])
    of = torch.stack([index[i : i + side, j : j + side] for i, j in shifts])
    to = of.gather(0, around.argmax(0, keepdim=True))[0].flatten()
    for _ in range(side.bit_length() + 1):
        to = to[to]
    peaks, label = to.unique(return_inverse=True)
    order = torch.zeros(len(peaks), dtype=p.weight.dtype).index_add(0, label, p.weight).argsort(descending=True)
    return order.argsort()[label]


def masses(weight: Tensor, label: Tensor, count: int = 2) -> Tensor:
    return torch.stack([weight[label == i].sum() for i in range(count)])


def nearest(p: Posterior, theta: Tensor) -> Tensor:
    """Index of the point of a regular grid next to each theta."""
    axis, side = p.theta[:, 1].unique(), math.isqrt(len(p.theta))
    ij = ((theta - axis[0]) / (axis[1] - axis[0])).round().long().clamp(0, side - 1)
    return ij[..., 0] * side + ij[..., 1]


# --- NUTS -----------------------------------------------------------------------------------------------------------------
def model(flow: ManifoldFlow, x: Tensor) -> None:
    theta = pyro.sample("theta", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
    with pyro.plate("events", len(x)):
        pyro.sample("x", flow.condition(theta.unsqueeze(-2)), obs=x)


def nuts(args: Any, flow: ManifoldFlow, x: Tensor, chains: int, seed: int, plain: bool = False) -> tuple[Any, dict[str, float]]:
    """Chains that start from draws of the prior; with the seconds of CPU that they took, warm-up and all."""
    pyro.set_rng_seed(seed)
    start = {"theta": torch.randn(chains, 2, dtype=x.dtype)}
    draws, warmup = args.draws, args.draws // 2
    began = time.process_time()
    if plain:
        mcmc: Any = MCMC(NUTS(model), draws, warmup, initial_params={"theta": start["theta"][0]}, disable_progbar=True)
    else:
        mcmc = VectorizedMCMC(GeodesicNUTS(model, chains=chains), draws, warmup, initial_params=start, disable_progbar=True)
    mcmc.run(flow, x)
    seconds = time.process_time() - began
    theta = mcmc.get_samples(group_by_chain=True)["theta"]
    ess = float(effective_sample_size(theta, 0, 1).min())
    r_hat = float(split_gelman_rubin(theta, 0, 1).max())
    told = {"chains": chains, "draws": draws, "ess": ess, "r_hat": r_hat, "cpu_seconds": seconds, "ess_per_s": ess / seconds}
    return mcmc, told


def reweighted(p: Posterior, label: Tensor, f: LogLikelihood, theta: Tensor, num: int, seed: int) -> tuple[Tensor, float]:
    """Masses of modes by importance sampling from normals fitted to the draws that chains made in each, and the prior."""
    prior = dist.Normal(torch.zeros(2).to(theta), 1.0).to_event(1)
    where = label[nearest(p, theta)]
    parts: list[Any] = [prior]
    for i in range(2):
        here = theta[where == i]
        if len(here) > 20:
            parts.append(dist.MultivariateNormal(here.mean(0), 1.5 * here.mT.cov() + 1e-6 * torch.eye(2).to(theta)))
    torch.manual_seed(seed)
    draws = torch.cat([q.sample((num // len(parts),)) for q in parts])
    log_q = torch.stack([q.log_prob(draws) for q in parts]).logsumexp(0)
    w = (f(draws) + prior.log_prob(draws) - log_q).softmax(0)
    return masses(w, label[nearest(p, draws)]), float(1 / w.square().sum())


def gradient_error(flow: ManifoldFlow, x: Tensor) -> float:
    """Largest relative difference between the gradient of log p in theta and central differences, float64."""
    worst, step = 0.0, 1e-5
    for theta in torch.randn(10, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)):
        t = theta.clone().requires_grad_()
        (got,) = torch.autograd.grad(flow.condition(t).log_prob(x).sum(), t)
        shifted = theta + step * torch.cat([torch.eye(2), -torch.eye(2)]).to(theta)
        up, down = flow.condition(shifted.unsqueeze(1)).log_prob(x).sum(-1).reshape(2, 2)
        worst = max(worst, float((got - (up - down) / (2 * step)).norm() / got.norm()))
    return worst


def sample_nuts(
    args: Any, lhc: LHC, flow: ManifoldFlow, y: list[Tensor], exact: list[Posterior], learned: list[Posterior]
) -> dict[str, tuple[int, Tensor]]:
    """A set with one mode and one with two; draws for the picture."""
    labels = [basins(q) for q in learned]
    second = torch.stack([masses(q.weight, label)[1] for q, label in zip(learned, labels, strict=True)])
    one, two = int(second.argmin()), int((second - 0.3).abs().argmin())
    out = {}
    for kind, i in (("unimodal", one), ("bimodal", two)):
        x = lhc.observables(y[i])
        f = log_likelihood(flow, x)
        mcmc, told = nuts(args, flow, x, 4, args.seed)
        theta = mcmc.get_samples()["theta"]
        weight, ess = reweighted(learned[i], labels[i], f, theta, 20_000, args.seed)
        prior = importance_posterior(f, num=args.prior_draws, seed=args.seed)
        counted = torch.bincount(labels[i][nearest(learned[i], theta)], minlength=2)[:2] / len(theta)
        by_prior = masses(prior.weight, labels[i][nearest(learned[i], prior.theta)])
        report(
            args, "NUTS", kind=kind, set=i, **told, gradient_error=gradient_error(flow, x),
            mode_masses={
                "exact, grid": masses(exact[i].weight, labels[i]).tolist(), "grid": masses(learned[i].weight, labels[i]).tolist(),
                "chains": counted.tolist(), "re-weighted": weight.tolist(), "prior importance sampling": by_prior.tolist(),
            },
            reweighted_ess=ess, prior_ess=prior.effective_sample_size,
            mean={"grid": learned[i].mean.tolist(), "NUTS": theta.mean(0).tolist(), "prior": prior.mean.tolist()},
        )  # fmt: skip
        if kind == "unimodal":
            report(args, "NUTS", kind="unimodal, 64 chains", set=i, **nuts(args, flow, x, 64, args.seed + 1)[1])
            report(args, "NUTS", kind="unimodal, Pyro's NUTS", set=i, **nuts(args, flow, x, 1, args.seed + 1, plain=True)[1])
        posterior = to_inference_data(mcmc)["posterior"].rename({"theta_dim_0": "component"})
        posterior = posterior.assign_coords(component=["f_W", "f_Wt"])
        import arviz

        (args.out / f"summary_{kind}.txt").write_text(str(arviz.summary(posterior)) + "\n")
        out[kind] = (i, theta)
    return out


# --- calibration ----------------------------------------------------------------------------------------------------------
def calibrate(args: Any, lhc: LHC, flows: dict[str, ManifoldFlow], num_draws: int = 63) -> None:
    """Ranks of theta from the prior among draws of the grid posterior, and of its log density among theirs."""
    theta = lhc.prior(args.simulations)
    y = lhc.simulate(theta.repeat_interleave(N_OBS, 0)).y.reshape(len(theta), N_OBS, 14)
    how: dict[str, Callable[[Tensor], LogLikelihood]] = {"exact": lhc.likelihood}
    for name, flow in flows.items():
        if name.startswith("head"):
            how[name] = lambda events, flow=flow: log_likelihood(flow, lhc.observables(events))  # type: ignore[misc]
    for name, likelihood in how.items():
        ranks: dict[str, list[Tensor]] = {"f_W": [], "f_Wt": [], "log density": []}
        for i, (t, events) in enumerate(zip(theta, y, strict=True)):
            f = likelihood(events)
            p = importance_posterior(f, num=args.prior_draws // 10, seed=i)
            torch.manual_seed(i)
            index = torch.multinomial(p.weight, num_draws, replacement=True)
            at = f(t.unsqueeze(0)) - 0.5 * t.square().sum() - math.log(2 * math.pi)
            for k, low in enumerate((p.theta[index, 0] < t[0], p.theta[index, 1] < t[1], p.log_density[index] < at)):
                list(ranks.values())[k].append(low.sum())
        result = SBCResult({k: torch.stack(v) for k, v in ranks.items()}, num_draws)
        print(f"{name}:\n{result}", flush=True)
        report(args, "SBC", name=name, simulations=len(theta), chi2=result.p_values("chi2"), ecdf=result.p_values("ecdf"))


# --- reports --------------------------------------------------------------------------------------------------------------
def report(args: Any, part: str, **values: Any) -> None:
    with (args.out / "results.jsonl").open("a") as f:
        f.write(json.dumps({"part": part, **values}) + "\n")
    shown = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in values.items() if k != "validation"}
    print(f"{part}: " + ", ".join(f"{k} {v}" for k, v in shown.items()), flush=True)


def finer(p: Posterior, size: int = 241) -> tuple[Tensor, Tensor]:
    """An axis, and the weights of a grid of ``size`` points along it: log densities interpolated by cubics, for pictures."""
    side, axis = math.isqrt(len(p.theta)), p.theta[:, 1]
    field = p.log_density.reshape(1, 1, side, side)
    field = torch.nn.functional.interpolate(field, size=(size, size), mode="bicubic", align_corners=True)[0, 0]
    return torch.linspace(float(axis[0]), float(axis[side - 1]), size), (field - field.logsumexp((0, 1))).exp()


def contour_levels(weight: Tensor) -> list[float]:
    """Densities on the rims of the 95 % and 68 % regions."""
    w = weight.flatten().sort(descending=True).values
    return [float(w[int((w.cumsum(0) < mass).sum())]) for mass in (0.95, 0.68)]


def corner(args: Any, truths: Tensor, grids: dict[str, list[Posterior]], drawn: dict[str, Any]) -> None:
    from matplotlib.figure import Figure

    colours = {"head, joint score": "C1", "head, joint ratio": "C4", "head, both": "C0", "spline, SCANDAL": "C2"}
    figure = Figure(figsize=(11, 5.4), layout="constrained")
    for part, (kind, (i, theta)) in zip(figure.subfigures(1, len(drawn)), drawn.items(), strict=True):
        axes = part.subplots(2, 2, sharex="col", width_ratios=(3, 1.2), height_ratios=(1.2, 3))
        axes[0, 1].axis("off")
        part.suptitle(f"{kind} set, n = {N_OBS}", fontsize=10)
        for name, ps in grids.items():
            axis, w = finer(ps[i])
            style: dict[str, Any] = {"color": colours.get(name, "0.6"), "lw": 1.3}
            if name == "exact":
                axes[1, 0].contourf(axis, axis, w.mT, levels=[*contour_levels(w), 1.0], colors=["0.88", "0.72"])
                axes[0, 0].fill_between(axis, w.sum(1), color="0.8", label="exact")
                axes[1, 1].fill_betweenx(axis, w.sum(0), color="0.8")
                continue
            axes[1, 0].contour(axis, axis, w.mT, levels=contour_levels(w), colors=[style["color"]], linewidths=1.2)
            axes[0, 0].plot(axis, w.sum(1), label=name, **style)
            axes[1, 1].plot(w.sum(0), axis, **style)
        some = theta[:: max(1, len(theta) // 400)]
        axes[1, 0].scatter(some[:, 0], some[:, 1], s=2, color="k", alpha=0.4, lw=0, label="NUTS, head, both")
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("lhc"), help="folder for everything that is made (default lhc)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--events", type=int, default=140_000, help="training events (default 140000)")
    parser.add_argument("--ratios", type=int, default=4, help="other theta for each event's joint ratios (default 4)")
    parser.add_argument("--width", type=int, default=192, help="hidden units of g (default 192)")
    parser.add_argument("--manifold-epochs", type=int, default=26, help="passes of the M phase (default 26)")
    parser.add_argument("--latent-epochs", type=int, default=4, help="passes of the theta-free density (default 4)")
    parser.add_argument("--head-width", type=int, default=256, help="hidden units of the head (default 256)")
    parser.add_argument("--head-epochs", type=int, default=30, help="passes of the head (default 30)")
    parser.add_argument("--spline-epochs", type=int, default=5, help="passes of the conditional splines (default 5)")
    parser.add_argument("--sets", type=int, default=8, help="sets of events at each of the 3 true points (default 8)")
    parser.add_argument("--grid", type=int, default=61, help="points of the grid of theta along each axis (default 61)")
    parser.add_argument("--draws", type=int, default=1000, help="draws of a chain, after half as many (default 1000)")
    parser.add_argument("--prior-draws", type=int, default=200_000, help="for importance sampling (default 200000)")
    parser.add_argument("--simulations", type=int, default=300, help="of the calibration (default 300)")
    parser.add_argument("--sbi", action="store_true", help="also sbi's NPE, NRE, NLE on as many events (pip install sbi)")
    parser.add_argument("--sbi-epochs", type=int, nargs=3, default=[40, 6, 6], help="caps for NPE, NRE, NLE (default 40 6 6)")
    parser.add_argument("--smoke", action="store_true", help="few events, one pass of everything")
    parser.add_argument("--no-progress", dest="progress", action="store_false")
    args = parser.parse_args()
    if args.smoke:
        args.events, args.width, args.head_width, args.sets, args.draws, args.prior_draws = 3000, 16, 16, 1, 8, 2000
        args.manifold_epochs, args.latent_epochs, args.head_epochs, args.spline_epochs, args.simulations = 1, 1, 1, 1, 6
        args.sbi_epochs, args.grid = [1, 1, 1], 21
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "results.jsonl").write_text("")
    data = simulate(args)
    flow = manifold(args, data)
    lhc = LHC(2, seed=args.seed + 1000)
    fresh = lhc.observables(lhc.simulate(lhc.prior(2000)).y)
    saved = torch.load(args.out / "manifold.pt")
    flow.double()
    report(
        args, "manifold", reconstruction_error=float(flow.ood_score(fresh).mean()), passes=len(saved["losses"]["M"]),
        closure_of_reconstructions=float(closure(flow.denoise(fresh)).mean()), closure_of_events=float(closure(fresh).mean()),
        closure_of_draws=float(closure(flow.condition().sample((2000,))).mean()), cpu_seconds=saved["cpu_seconds"],
    )  # fmt: skip
    flow.float()
    flows = densities(args, data, flow)
    lhc = LHC(2, seed=args.seed + 2000)
    truths, y = observed_sets(args, lhc)
    grids = {"exact": [grid_posterior(lhc.likelihood(events), size=args.grid) for events in y]}
    score_sets(args, "exact", truths, grids["exact"], grids["exact"])
    for name, part in flows.items():
        start = time.process_time()
        grids[name] = [grid_posterior(log_likelihood(part, lhc.observables(events)), size=args.grid) for events in y]
        score_sets(args, name, truths, grids["exact"], grids[name])
        report(args, "grids", name=name, cpu_seconds=time.process_time() - start)
        if isinstance(part.latent, MorphingHead):
            points = torch.tensor(lhc.true_points)
            report(args, "normaliser", name=name, log_integral=part.latent.log_normaliser(points, 20_000).tolist())
            t = lhc.prior(5000)
            events = lhc.simulate(t)
            theta = t.requires_grad_()
            u = part.transform.inv(lhc.observables(events.y))
            (own,) = torch.autograd.grad(part.latent.log_ratio(u, theta).sum(), theta)
            score = lhc.score(events.y, t.detach())
            r2 = 1 - (own - score).square().mean(0) / score.var(0)
            report(args, "score", name=name, r2=r2.tolist())
    best = "head, both"
    drawn = sample_nuts(args, lhc, flows[best], y, grids["exact"], grids[best])
    corner(args, truths, grids, drawn)
    calibrate(args, LHC(2, seed=args.seed + 3000), flows)
    if args.sbi:
        import lhc_sbi

        args.out = args.out.resolve()
        os.chdir(args.out)  # sbi writes its logs to where it runs
        for name, ps, told in lhc_sbi.posteriors(args, data, [lhc.observables(events) for events in y]):
            score_sets(args, name, truths, grids["exact"], ps)
            report(args, "sbi", name=name, **told)


if __name__ == "__main__":
    main()
