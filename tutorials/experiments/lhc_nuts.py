"""The learned density as a likelihood inside Pyro: NUTS, modes and their masses, for the LHC tutorial."""

import math
import time
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from lhc_compare import LogLikelihood, log_likelihood, report
from pyro.infer import MCMC, NUTS
from pyro.ops.stats import effective_sample_size, split_gelman_rubin
from torch import Tensor

from pyro_manifold.contrib.lhc import LHC, Posterior, importance_posterior
from pyro_manifold.infer import GeodesicNUTS, VectorizedMCMC, to_inference_data
from pyro_manifold.models import ManifoldFlow


# --- modes on a grid ----------------------------------------------------------------------------------------
def basins(p: Posterior) -> Tensor:
    """Which local maximum each point of a grid leads to by steepest ascent, largest mass first: integers from
    0."""
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
    order = (
        torch.zeros(len(peaks), dtype=p.weight.dtype).index_add(0, label, p.weight).argsort(descending=True)
    )
    return order.argsort()[label]


def masses(weight: Tensor, label: Tensor, count: int = 2) -> Tensor:
    return torch.stack([weight[label == i].sum() for i in range(count)])


def nearest(p: Posterior, theta: Tensor) -> Tensor:
    """Index of the point of a regular grid next to each theta."""
    axis, side = p.theta[:, 1].unique(), math.isqrt(len(p.theta))
    ij = ((theta - axis[0]) / (axis[1] - axis[0])).round().long().clamp(0, side - 1)
    return ij[..., 0] * side + ij[..., 1]


# --- NUTS
#
# ------------------------------------------------------------------------------------------------
def model(flow: ManifoldFlow, x: Tensor) -> None:
    theta = pyro.sample("theta", dist.Normal(x.new_zeros(flow.latent.context_dim), 1.0).to_event(1))
    with pyro.plate("events", len(x)):
        pyro.sample("x", flow.condition(theta.unsqueeze(-2)), obs=x)


def nuts(
    args: Any, flow: ManifoldFlow, x: Tensor, chains: int, seed: int, plain: bool = False
) -> tuple[Any, dict[str, float]]:
    """Chains that start from draws of the prior; with the seconds of CPU that they took, warm-up and all."""
    pyro.set_rng_seed(seed)
    start = {"theta": torch.randn(chains, flow.latent.context_dim, dtype=x.dtype)}
    draws, warmup = args.draws, args.draws // 2
    began = time.process_time()
    if plain:
        mcmc: Any = MCMC(
            NUTS(model), draws, warmup, initial_params={"theta": start["theta"][0]}, disable_progbar=True
        )
    else:
        mcmc = VectorizedMCMC(
            GeodesicNUTS(model, chains=chains), draws, warmup, initial_params=start, disable_progbar=True
        )
    mcmc.run(flow, x)
    seconds = time.process_time() - began
    theta = mcmc.get_samples(group_by_chain=True)["theta"]
    ess = float(effective_sample_size(theta, 0, 1).min())
    r_hat = float(split_gelman_rubin(theta, 0, 1).max())
    told = {
        "chains": chains,
        "draws": draws,
        "ess": ess,
        "r_hat": r_hat,
        "cpu_seconds": seconds,
        "ess_per_s": ess / seconds,
    }
    return mcmc, told


def reweighted(
    p: Posterior, label: Tensor, f: LogLikelihood, theta: Tensor, num: int, seed: int
) -> tuple[Tensor, float]:
    """Masses of modes by importance sampling from normals fitted to the draws that chains made in each, and
    the prior."""
    prior = dist.Normal(torch.zeros(2).to(theta), 1.0).to_event(1)
    where = label[nearest(p, theta)]
    parts: list[Any] = [prior]
    for i in range(2):
        here = theta[where == i]
        if len(here) > 20:
            parts.append(
                dist.MultivariateNormal(here.mean(0), 1.5 * here.mT.cov() + 1e-6 * torch.eye(2).to(theta))
            )
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


def sample_sets(
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
            args,
            "NUTS",
            kind=kind,
            set=i,
            **told,
            gradient_error=gradient_error(flow, x),
            mode_masses={
                "exact, grid": masses(exact[i].weight, labels[i]).tolist(),
                "grid": masses(learned[i].weight, labels[i]).tolist(),
                "chains": counted.tolist(),
                "re-weighted": weight.tolist(),
                "prior importance sampling": by_prior.tolist(),
            },
            reweighted_ess=ess,
            prior_ess=prior.effective_sample_size,
            mean={
                "grid": learned[i].mean.tolist(),
                "NUTS": theta.mean(0).tolist(),
                "prior": prior.mean.tolist(),
            },
        )
        if kind == "unimodal":
            report(
                args, "NUTS", kind="unimodal, 64 chains", set=i, **nuts(args, flow, x, 64, args.seed + 1)[1]
            )
            report(
                args,
                "NUTS",
                kind="unimodal, Pyro's NUTS",
                set=i,
                **nuts(args, flow, x, 1, args.seed + 1, plain=True)[1],
            )
        posterior = to_inference_data(mcmc)["posterior"]
        if hasattr(posterior, "to_dataset"):  # ArviZ 1.x has trees
            posterior = posterior.to_dataset()
        posterior = posterior.rename({"theta_dim_0": "component"})
        posterior = posterior.assign_coords(component=["f_W", "f_Wt"])
        import arviz

        (args.out / f"summary_{kind}.txt").write_text(str(arviz.summary(posterior)) + "\n")
        out[kind] = (i, theta)
    return out


def sample_one(args: Any, lhc: LHC, flow: ManifoldFlow, y: Tensor, learned: Posterior) -> None:
    """Chains for one set of three theta, whose modes no grid tells: means beside those of importance
    sampling."""
    x = lhc.observables(y)
    mcmc, told = nuts(args, flow, x, 4, args.seed)
    means = {"NUTS": mcmc.get_samples()["theta"].mean(0).tolist(), "prior": learned.mean.tolist()}
    report(
        args, "NUTS", kind="three theta", **told, mean=means, sd=learned.covariance.diagonal().sqrt().tolist()
    )
