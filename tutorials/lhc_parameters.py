"""Parameters of the Higgs boson from 20 events: a posterior by simulation, with a learned density on a learned surface.

    python tutorials/lhc_parameters.py

Takes about four minutes of one core and writes two pictures.
"""

# %% [markdown]
# # LHC parameters from simulated events
#
# A particle collider does not measure a parameter of nature. It records events, and a simulator says what events
# look like for given parameters. The likelihood of an event is an integral over everything that is not seen,
# which nobody can do. What can be done is to simulate many events and to *learn* a likelihood from them. This
# page does it for Higgs bosons made by the fusion of two W bosons: 40 observables for each event, two parameters,
# a posterior from 20 events. It takes fifteen minutes to read.
#
# The simulator here is a leading-order calculation in which everything is known exactly
# ({doc}`../explanation/lhc`), so that what is learned can be held against the truth. It is not an experiment's
# simulator, and no figure below says anything about nature.
#
# ## Events

# %% tags=["options"]
import argparse
import warnings
from pathlib import Path

parser = argparse.ArgumentParser(description="LHC parameters from simulated events.")
parser.add_argument("--out", type=Path, default=Path("lhc_parameters"), help="folder for the pictures")
parser.add_argument("--quick", action="store_true", help="a few steps only: to see that everything runs")
args = parser.parse_args()
args.out.mkdir(parents=True, exist_ok=True)
rows, passes, draws = (600, 1, 8) if args.quick else (40_000, 14, 300)
if args.quick:
    warnings.simplefilter("ignore")  # one pass fits nothing, and says so

# %%
import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch

from pyro_manifold.contrib.lhc import LHC, MorphingHead, closure, grid_posterior
from pyro_manifold.infer import GeodesicNUTS, VectorizedMCMC
from pyro_manifold.models import ManifoldFlow
from pyro_manifold.training import fit_md

torch.manual_seed(0)
lhc = LHC(2, seed=0)
theta = lhc.prior(rows)  # two parameters f_W and f_Wt, standard normal beforehand; one pair for each event
events = lhc.simulate(theta)
x = lhc.observables(events.y)
print("parameters", tuple(theta.shape), "observables", tuple(x.shape))

# %% [markdown]
# ## Forty numbers, fourteen dimensions
#
# The observables of an event, energies, angles, masses, are functions of the momenta of two photons and two jets:
# 14 numbers. So the events lie on a surface of 14 dimensions in $\mathbb R^{40}$, and a density in $\mathbb
# R^{40}$ has no finite value there. Learn the surface first, by distance, and on it a density that knows nothing
# of the parameters.

# %%
fixed = dict(batch_size=256, validation=0.05, disable_progbar=True)
flow = ManifoldFlow.from_data(x.float(), 14, depth=4, hidden=(96, 96), mix=False, latent_depth=4)
fit_md(flow, x.float(), epochs=(passes, 0), lr=6e-3, warmup=0.03, huber_delta=0.03, whitening_fraction=0.4,
       reconstruction_weight=6700.0, **fixed)  # fmt: skip
flow.transform.requires_grad_(False)
flow = flow.whitened(x.float())
fit_md(flow, x.float(), epochs=max(1, passes // 3), lr=1e-3, **fixed)
flow.requires_grad_(False)

fresh = lhc.observables(lhc.simulate(lhc.prior(200 if args.quick else 2000)).y).float()
print(
    f"distance of new events from the surface {flow.ood_score(fresh).mean():.3f}, of observables of unit spread"
)
print(f"constraints of physics violated by {closure(flow.denoise(fresh).double()).mean():.3f}")

# %% [markdown]
# ## A likelihood that knows how amplitudes add
#
# How do events depend on the parameters? Quantum mechanics says: amplitudes are linear in $\tilde\theta = (1,
# \theta)$, and rates are squares of amplitudes. So the density of an event is a *quadratic form* in
# $\tilde\theta$, divided by another one that is the total rate,
#
# $$\frac{p(u \mid \theta)}{p_\text{mix}(u)}
# = \frac{\lvert M(u)\,\tilde\theta\rvert^2}{\tilde\theta^\top S\,\tilde\theta}\cdot \text{const},$$
#
# where the average over the parameters is the density just learned. `MorphingHead` learns the matrix $M(u)$ by a
# network and gets the dependence on $\theta$ for nothing. What it learns from is something that simulators know
# and throw away: for an event simulated at $\theta_0$, *with* everything hidden, how much more likely it would
# have been at $\theta_1$. The expectation of this joint ratio is the ratio of likelihoods
# {cite:p}`brehmer2020gold`.

# %%
other = lhc.prior(rows * 8).reshape(rows, 8, 2)
ratios = torch.stack([lhc.joint_ratio(events, theta, t).log() for t in other.unbind(1)], 1)
head = MorphingHead(flow.latent, lhc.S, theta.float(), hidden=(128,) * 3)
likelihood = ManifoldFlow(flow.transform, head)
fit_md(likelihood, x.float(), theta.float(), epochs=2 * passes, lr=4e-3, warmup=0.1,
       ratio=(other.float(), ratios.float()), **{**fixed, "batch_size": 500})  # fmt: skip
likelihood = likelihood.requires_grad_(False).double()

# %% [markdown]
# ## Twenty events
#
# Now someone else takes the parameters $(0.5, 0)$, and shows us 20 events. In Pyro the learned density is a
# distribution like any other; the sampler is NUTS with four chains.

# %%
truth = torch.tensor([0.5, 0.0], dtype=torch.float64)
seen = LHC(2, seed=7).simulate(truth, 20)
observed = lhc.observables(seen.y)


def model(observed):
    theta = pyro.sample("theta", dist.Normal(observed.new_zeros(2), 1.0).to_event(1))
    with pyro.plate("events", len(observed)):
        pyro.sample("x", likelihood.condition(theta.unsqueeze(-2)), obs=observed)


pyro.set_rng_seed(0)
start = {"theta": torch.randn(4, 2, dtype=torch.float64)}
mcmc = VectorizedMCMC(
    GeodesicNUTS(model, chains=4),
    num_samples=draws,
    warmup_steps=draws // 2,
    initial_params=start,
    disable_progbar=True,
)
mcmc.run(observed)
mcmc.summary()

# %% [markdown]
# R-hat is far above 1.01: the chains disagree. Rates are squares of amplitudes, so that the posterior of a few
# events often has several modes, and each chain stays in the one where it began. What the chains say about one mode
# is right; how much each weighs they cannot know. Two parameters fit on a grid, which can. (In more dimensions:
# `proposals=`, {doc}`../howto/choose_an_inference`.)
#
# ## Against the exact posterior
#
# This simulator lets us look at the answer: `lhc.likelihood` is exact, and two parameters fit on a grid.

# %%
exact = grid_posterior(lhc.likelihood(seen.y))


def learned_log_likelihood(theta):
    latent = likelihood.condition(theta.unsqueeze(-2))
    return latent.log_prob(observed).sum(-1)


learned = grid_posterior(lambda t: torch.cat([learned_log_likelihood(part) for part in t.split(500)]))
print(
    f"best classifier of draws from one or the other is right with probability {exact.optimal_c2st(learned):.3f}"
)
print("exact mean", exact.mean.round(decimals=2).tolist(), "learned", learned.mean.round(decimals=2).tolist(),
      "chains", mcmc.get_samples()["theta"].mean(0).round(decimals=2).tolist())  # fmt: skip

side = round(len(exact.theta) ** 0.5)
grid = exact.theta.reshape(side, side, 2)
fig, ax = plt.subplots(figsize=(5.5, 4.6), layout="constrained")
ax.scatter(*mcmc.get_samples()["theta"].T, s=2, color="0.6", label="NUTS, learned density")
for posterior, color in ((exact, "C0"), (learned, "C1")):
    ranked, order = posterior.weight.sort(descending=True)
    mass = torch.empty_like(ranked).scatter(0, order, ranked.cumsum(0)).reshape(side, side)
    ax.contour(grid[..., 0], grid[..., 1], mass, levels=[0.68, 0.95], colors=color)
    ax.plot([], [], color=color, label="exact" if posterior is exact else "learned")
ax.plot(*truth, "k*", markersize=10, label="truth")
ax.set(xlabel="f_W", ylabel="f_Wt", xlim=(-2.5, 2.5), ylim=(-2.5, 2.5), title="68 % and 95 % regions")
ax.legend(fontsize=7)
fig.savefig(args.out / "lhc_parameters.png", dpi=110)

# %% [markdown]
# ![Exact and learned posterior of two parameters, and draws of NUTS](lhc_parameters.png)
#
# The modes are where they should be; the learned density gives the left one too much weight. More training brings it
# closer, and how close, on average over many sets, and how it compares with other methods of simulation-based
# inference, is in {doc}`../experiments/lhc`.
#
# ## More events, a sharper answer?
#
# Is the learned density good enough for 200 events? Errors add up over events, while the posterior shrinks. But the
# second mode goes, too.

# %%
many = LHC(2, seed=8).simulate(truth, 40 if args.quick else 200)
observed = lhc.observables(many.y)
exact = grid_posterior(lhc.likelihood(many.y))
learned = grid_posterior(lambda t: torch.cat([learned_log_likelihood(part) for part in t.split(100)]))
print(f"200 events: probability {exact.optimal_c2st(learned):.3f}; exact mean {exact.mean.round(decimals=2).tolist()}, "
      f"learned {learned.mean.round(decimals=2).tolist()}")  # fmt: skip

# %% [markdown]
# ## Exercise
#
# Are the learned posteriors calibrated: does a 50 % region hold the truth half of the time? Draw 40 parameters
# from the prior, 20 events for each, and look at the ranks of the true $f_W$ among draws of the learned
# posterior.

# %% tags=["answer"]
ranks = []
check = LHC(2, seed=9)
for true in check.prior(3 if args.quick else 40):
    observed = lhc.observables(check.simulate(true, 20).y)
    learned = grid_posterior(
        lambda t: torch.cat([learned_log_likelihood(part) for part in t.split(500)]), size=41
    )
    ranks.append(float((learned.sample(200)[:, 0] < true[0]).double().mean()))
ranks = torch.tensor(ranks)
print(
    "ranks: quarters hold",
    [int(((ranks >= a / 4) & (ranks < (a + 1) / 4 + (a == 3))).sum()) for a in range(4)],
)
# About ten in each quarter is what a calibrated posterior gives, give or take five.

# %% [markdown]
# Where next: {doc}`../experiments/lhc`, {doc}`../explanation/injective_flows`, {doc}`../api/contrib_lhc`.
