"""The picture of docs/howto/cluster_directions.md: ``python docs/pictures/cluster_directions.py`` draws it anew
(half a minute)."""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import pyro.distributions as dist
import torch

from pyro_manifold.distributions import fit_mixture

SHARES = (0.3, 0.25, 0.2, 0.12, 0.08, 0.05)


def documents(n: int, words: int = 300, length: int = 60) -> torch.Tensor:
    """Square roots of the word frequencies of n documents of a few topics, unit vectors (n, words)."""
    topic = dist.Dirichlet(torch.full((len(SHARES), words), 0.1)).sample()
    about = torch.multinomial(torch.tensor(SHARES), n, replacement=True)
    frequency = dist.Multinomial(length, topic[about]).sample() / length
    return torch.nn.functional.normalize(frequency.double().sqrt(), dim=-1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=600)
    parser.add_argument("--most", type=int, default=10, help="largest number of clusters")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parents[1] / "howto" / "cluster_directions.png"
    )
    args = parser.parse_args()
    torch.manual_seed(0)
    x = documents(args.documents)
    found = fit_mixture(x, range(1, args.most + 1), uniform=False)
    log = found.component_distribution.log_prob(x.unsqueeze(1)) + found.mixture_distribution.logits
    label = log.argmax(-1)
    order = label.argsort()
    _, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained", width_ratios=(1.2, 1))
    numbers, scores = zip(*found.scores.items(), strict=True)
    left.plot(numbers, [s / 1e3 for s in scores], "o-", color="C0")
    best = min(found.scores, key=found.scores.__getitem__)
    left.plot(best, found.scores[best] / 1e3, "o", color="C3", markersize=10, label=f"least: {best}")
    left.set(xlabel="number of clusters K", ylabel="BIC / 1000", xticks=numbers)
    left.legend()
    cosines = (x @ x.mT).fill_diagonal_(0.0)[order][:, order]
    image = right.imshow(cosines, cmap="magma", interpolation="nearest")
    right.set(xlabel="document, sorted by cluster", ylabel="document")
    plt.colorbar(image, ax=right, label="cosine")
    plt.savefig(args.out, dpi=100)


if __name__ == "__main__":
    main()
