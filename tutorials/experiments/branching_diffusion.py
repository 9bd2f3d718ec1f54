r"""The tree table of the Poincaré VAE paper, with paired trees: does a hyperbolic latent space help on a
hidden tree?

Data: :func:`pyro_manifold.datasets.branching_diffusion` (635 rows of 50 numbers about the 127 nodes of a
binary tree). Models: :class:`pyro_manifold.models.PoincareVAE` with 2 latent dimensions, on the plane (N) and
on Poincaré balls of several curvatures c (P), normal likelihood of unit variance, one hidden layer of 200
units. For each seed all models see the *same* tree, split and order of minibatches; the table gives
differences with the standard error over seeds.

All seeds are trained side by side in one Pyro model: every weight gets a leading axis, one slice per seed,
and a plate says that the slices are independent. Adam works element by element, so this is the same as
training them one by one.

    python tutorials/experiments/branching_diffusion.py --seeds 8            # the table (about an hour on one
    core) python tutorials/experiments/branching_diffusion.py --smoke              # a minute's check that it
    runs
"""

import argparse
import json
import math
import time
from pathlib import Path

import geoopt
import pyro
import torch
from torch import Tensor, nn

from pyro_manifold.datasets import branching_diffusion, train_test_split
from pyro_manifold.models import PoincareVAE
from pyro_manifold.nn import GyroplaneLayer
from pyro_manifold.plotting import geodesic, latent_axes, to_plane


class StackedLinear(nn.Module):
    """``seeds`` linear layers side by side: (seeds, n, in) -> (seeds, n, out), each initialised as
    ``nn.Linear``."""

    def __init__(self, seeds: int, like: nn.Linear) -> None:
        super().__init__()
        self.in_features = like.in_features
        bound = 1 / math.sqrt(like.in_features)
        self.weight = nn.Parameter(
            torch.empty(seeds, like.in_features, like.out_features).uniform_(-bound, bound)
        )
        self.bias = nn.Parameter(torch.empty(seeds, 1, like.out_features).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


class StackedGyroplanes(nn.Module):
    """``seeds`` gyroplane layers side by side."""

    def __init__(self, seeds: int, like: GyroplaneLayer) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            GyroplaneLayer(like.manifold, like.dim, len(like.offset)) for _ in range(seeds)
        )

    def forward(self, z: Tensor) -> Tensor:
        return torch.stack([layer(rows) for layer, rows in zip(self.layers, z.unbind(-3), strict=True)], -3)


def stack(module: nn.Module, seeds: int) -> None:
    """Replaces every linear and gyroplane layer of ``module`` by a stack of them."""
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, StackedLinear(seeds, child))
        elif isinstance(child, GyroplaneLayer):
            setattr(module, name, StackedGyroplanes(seeds, child))
        else:
            stack(child, seeds)


def load(seeds: list[int]) -> tuple[Tensor, Tensor]:
    """Training (seeds, 444, 50) and test rows (seeds, 191, 50); tree and split change with the seed."""
    pairs = [train_test_split(branching_diffusion(seed=s)[0], train=0.7, seed=s)[0] for s in seeds]
    return torch.stack([a for a, _ in pairs]), torch.stack([b for _, b in pairs])


def make(
    curvature: float, prior_scale: float, family: str, isotropic: bool, decoder: str, seeds: int
) -> PoincareVAE:
    """The paper's model; ``curvature`` 0 is the N-VAE. "wrapped" decoder: log map, then a perceptron, as in
    the paper's table."""
    manifold = geoopt.PoincareBall(torch.tensor(curvature)) if curvature else geoopt.Euclidean(1)
    vae = PoincareVAE(
        manifold,
        2,
        50,
        hidden=200,
        prior=family,
        posterior=family,
        isotropic=isotropic,
        prior_scale=prior_scale,
        likelihood="normal",
        decoder=decoder,
    )
    stack(vae, seeds)
    return vae


def train(vae: PoincareVAE, x: Tensor, epochs: int, batch: int = 64) -> None:
    """SVI with Adam (amsgrad, 1e-3); the order of the minibatches depends on epoch and seed only."""
    seeds, n = x.shape[:2]

    def replicated(f):
        def inner(x: Tensor) -> Tensor:
            with pyro.plate("seed", seeds, dim=-2):
                return f(x)

        return inner

    pyro.clear_param_store()
    optimizer = pyro.optim.Adam({"lr": 1e-3, "amsgrad": True})
    svi = pyro.infer.SVI(replicated(vae.model), replicated(vae.guide), optimizer, pyro.infer.Trace_ELBO())
    order = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        rows = torch.stack([torch.randperm(n, generator=order) for _ in range(seeds)])
        for index in rows.split(batch, 1):
            svi.step(x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1])))


def standard_error(x: Tensor) -> str:
    """Of the mean over seeds; one seed has none."""
    return f"{x.std() / math.sqrt(len(x)):.2f}" if len(x) > 1 else "-"


@torch.no_grad()
def draw(models: dict[str, PoincareVAE], path: Path) -> None:
    """The tree of seed 0 in the latent space of each model: nodes at their encoded mean, edges as
    geodesics."""
    from matplotlib.figure import Figure

    x, node = branching_diffusion(seed=0)
    means = torch.zeros(127, x.shape[1]).index_add(0, node, x) / 5
    depth = torch.arange(1, 128).log2().floor()
    figure = Figure(figsize=(6.2 * len(models), 6), layout="constrained")
    for i, (title, vae) in enumerate(models.items()):
        z = vae.encode(means.expand(vae.encoder.loc.linear.weight.shape[0], -1, -1)).loc[0]
        ax = latent_axes(vae.manifold, figure.add_subplot(1, len(models), i + 1))
        for child in range(1, 127):
            shade = {"color": "0.45", "linewidth": 1.6 - 0.2 * float(depth[child]), "zorder": 1}
            geodesic(vae.manifold, z[(child - 1) // 2], z[child], ax, **shade)
        xy = to_plane(vae.manifold, z)
        dots = ax.scatter(*xy.T.numpy(), c=depth.numpy(), s=90 - 11 * depth.numpy(), cmap="viridis", zorder=2)
        if isinstance(vae.manifold, geoopt.Euclidean):
            reach = 1.1 * float(xy.abs().max())
            ax.set(xlim=(-reach, reach), ylim=(-reach, reach))
        ax.set_title(title)
    figure.colorbar(dots, ax=figure.axes, label="depth in the tree", shrink=0.6)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=8, help="number of paired trees (default 8)")
    parser.add_argument(
        "--epochs", type=int, default=1000, help="passes over the training rows (default 1000)"
    )
    parser.add_argument(
        "--curvatures", type=float, nargs="+", default=[0.1, 0.3, 0.8, 1.0, 1.2], help="c of the P-VAEs"
    )
    parser.add_argument(
        "--prior-scales", type=float, nargs="+", default=[1.0, 1.7], help="standard deviations of the prior"
    )
    parser.add_argument("--families", nargs="+", default=["riemannian"], choices=["riemannian", "wrapped"])
    parser.add_argument(
        "--diagonal", action="store_true", help="one posterior scale per coordinate (wrapped family only)"
    )
    parser.add_argument(
        "--decoder", default="wrapped", choices=["wrapped", "gyroplane"], help="its first layer"
    )
    parser.add_argument("--samples", type=int, default=5000, help="K of the IWAE bound (default 5000)")
    parser.add_argument("--out", type=Path, help="append one JSON line per model to this file")
    parser.add_argument(
        "--figure", type=Path, help="draw the first tree in the latent spaces trained last to this file"
    )
    parser.add_argument("--smoke", action="store_true", help="2 seeds, 3 epochs, K = 10, one curvature")
    args = parser.parse_args()
    if args.smoke:
        args.seeds, args.epochs, args.samples, args.curvatures, args.prior_scales = 2, 3, 10, [1.0], [1.0]

    torch.set_default_dtype(torch.float64)
    pyro.enable_validation(False)
    train_x, test_x = load(list(range(args.seeds)))
    trivial = 0.5 * (test_x**2).sum(-1).mean() + 25 * math.log(2 * math.pi)
    print(f"trivial model N(0, I): {trivial:.2f} nats per test row")
    print("| prior scale | family | model | -log p (test) | se | N - P, paired | se | minutes |")
    print("|---|---|---|---|---|---|---|---|")
    for prior_scale in args.prior_scales:
        for family in args.families:
            baseline: Tensor | None = None
            trained: dict[str, PoincareVAE] = {}
            for curvature in [0.0, *args.curvatures]:
                start = time.time()
                pyro.set_rng_seed(0)
                vae = make(curvature, prior_scale, family, not args.diagonal, args.decoder, args.seeds)
                train(vae, train_x, args.epochs)
                trained[f"P-VAE, curvature $-{curvature:g}$" if curvature else "N-VAE"] = vae
                score = -vae.iwae(test_x, args.samples).mean(-1)  # one number per seed; every test row counts
                baseline = score if baseline is None else baseline
                gain, name = baseline - score, f"P {curvature}" if curvature else "N"
                print(
                    f"| {prior_scale} | {family} | {name} | {score.mean():.2f} | {standard_error(score)} | "
                    f"{gain.mean():+.2f} | {standard_error(gain)} | {(time.time() - start) / 60:.1f} |",
                    flush=True,
                )
                if args.out:
                    row = dict(
                        prior_scale=prior_scale, family=family, diagonal=args.diagonal, decoder=args.decoder
                    )
                    row |= dict(curvature=curvature, epochs=args.epochs, k=args.samples, score=score.tolist())
                    with args.out.open("a") as f:
                        f.write(json.dumps(row) + "\n")
    if args.figure:
        draw(trained, args.figure)


if __name__ == "__main__":
    main()
