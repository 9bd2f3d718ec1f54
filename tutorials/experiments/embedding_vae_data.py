r"""The worlds of the experiment: points of a manifold seen through a random network, and digits that are turned.

.. math:: x = f(s) + \sigma\epsilon\ (\text{or } x = f(s)), \qquad s \sim \mathrm{Uniform}(M), \qquad
    f(s) = W_2\,\mathrm{relu}(W_1 s), \qquad
    \log p(x) = \log\int_M \mathcal N(x; f(s), \sigma^2)\,\frac{ds}{\mathrm{vol}(M)}

The integral is the *oracle*: no model whose likelihood has standard deviation sigma explains data with
noise better, in expectation over the data.
"""

import math
from dataclasses import dataclass
from typing import Any

import geoopt
import torch
from torch import Tensor, nn

from pyro_manifold.datasets import digits
from pyro_manifold.distributions import WrappedNormal
from pyro_manifold.geometry import SpecialOrthogonal, geometry
from pyro_manifold.transforms import CubeToRotations, CubeToSphere

SIZE, SIGMA = 100, 0.1  # of x; standard deviation of the likelihood
MANIFOLDS: dict[str, tuple[Any, int, Any]] = {
    "circle": (geoopt.Sphere(), 1, CubeToSphere(1)),
    "sphere": (geoopt.Sphere(), 2, CubeToSphere(2)),
    "rotations": (SpecialOrthogonal(3), 3, CubeToRotations()),
}


@dataclass
class World:
    """Several of them side by side, one for each seed: a network f with its own weights, ``(seeds, in, out)``."""

    name: str
    first: Tensor
    second: Tensor
    noise: float

    @classmethod
    def of(cls, name: str, seeds: list[int], noise: float) -> "World":
        manifold, dim, _ = MANIFOLDS[name]
        size = geometry(manifold).point_shape(dim).numel()
        weights = []
        for seed in seeds:
            torch.manual_seed(seed)
            layers = nn.Linear(size, SIZE, bias=False), nn.Linear(SIZE, SIZE, bias=False)
            weights.append([nn.init.xavier_uniform_(layer.weight).detach().mT for layer in layers])
        return cls(name, *map(torch.stack, zip(*weights, strict=True)), noise)

    @property
    def seeds(self) -> int:
        return len(self.first)

    def points(self, n: int) -> Tensor:
        """Uniform points of the manifold, ``(seeds, n) + event``."""
        manifold, dim, _ = MANIFOLDS[self.name]
        return geometry(manifold).uniform_sample((self.seeds, n), geometry(manifold).point_shape(dim))

    def mean(self, points: Tensor) -> Tensor:
        """f of points ``(..., seeds, n) + event``: ``(..., seeds, n, SIZE)``."""
        manifold, dim, _ = MANIFOLDS[self.name]
        flat = points.flatten(points.dim() - len(geometry(manifold).point_shape(dim)))
        return (flat @ self.first.to(flat)).relu() @ self.second.to(flat)

    def draw(self, n: int) -> tuple[Tensor, Tensor]:
        """Rows ``(seeds, n, SIZE)``, and the points behind them."""
        points = self.points(n)
        x = self.mean(points)
        return x + self.noise * torch.randn_like(x), points

    def batch(self, n: int) -> Tensor:
        return self.draw(n)[0]

    def oracle(self, x: Tensor, points: Tensor, nodes: int = 4096) -> Tensor:
        """log p(x) of rows ``(seeds, n, SIZE)`` whose ``points`` are known, in float64: on the circle by the trapezoid
        rule; elsewhere by importance sampling, from the normal distribution in the tangent coordinates about the true
        point whose covariance is that of Gauss and Newton, widened by a quarter. (Points far from the true one that f
        sends to the same place are left out; there are none to speak of in 100 dimensions.)"""
        x = x.double()
        if self.name == "circle":
            angle = torch.arange(nodes, dtype=torch.float64) * (2 * math.pi / nodes)
            grid = self.mean(torch.stack([angle.cos(), angle.sin()], -1).expand(self.seeds, -1, -1))
            square = torch.cdist(x, grid, compute_mode="donot_use_mm_for_euclid_dist").square()
            log = torch.logsumexp(-0.5 * square / SIGMA**2, -1) - math.log(nodes)
            return log - SIZE * math.log(SIGMA * math.sqrt(2 * math.pi))
        manifold, dim, _ = MANIFOLDS[self.name]
        geo = geometry(manifold)
        points = geo.project(points.double())
        step = 1e-5
        ends = [geo.exp_frame(points, e * torch.eye(dim, dtype=torch.float64)[i].expand(*x.shape[:2], dim))
                for i in range(dim) for e in (step, -step)]  # fmt: skip
        slopes = torch.stack(
            [(self.mean(a) - self.mean(b)) / (2 * step) for a, b in zip(ends[::2], ends[1::2], strict=True)],
            -1,
        )
        precision = slopes.mT @ slopes / SIGMA**2 + torch.eye(dim, dtype=torch.float64)
        root = 1.25 * torch.linalg.cholesky(torch.linalg.inv(precision))
        proposal = WrappedNormal(manifold, points, scale_tril=root)
        total = torch.full(x.shape[:2], -math.inf, dtype=torch.float64)
        pieces, each = max(1, nodes // 256), 256
        for _ in range(pieces):
            s = proposal.sample((each,))
            like = torch.distributions.Normal(self.mean(s), SIGMA).log_prob(x).sum(-1)
            total = torch.logaddexp(total, (like - proposal.log_prob(s)).logsumexp(0))
        volume = float(geo.log_volume(geo.point_shape(dim)))
        return total - math.log(pieces * each) - volume


def turned_digits(label: int, angles: Tensor, index: Tensor) -> Tensor:
    """Pictures of the handwritten digit ``label``, number ``index``, turned by ``angles``: grey values in [0, 1],
    ``(n, 256)``, 16 x 16 pixels (bilinear interpolation of scikit-learn's 8 x 8)."""
    grey, labels = digits(binarize=False)
    ink = grey[labels == label].reshape(-1, 1, 8, 8)[index].to(angles)
    c, s = angles.cos(), angles.sin()
    zero = torch.zeros_like(c)
    # the digit is seen whole at any angle: the picture is 1.5 times as wide as its own frame
    matrix = 1.5 * torch.stack([torch.stack([c, s, zero], -1), torch.stack([-s, c, zero], -1)], -2)
    grid = nn.functional.affine_grid(matrix, [len(angles), 1, 16, 16], align_corners=False)
    return nn.functional.grid_sample(ink, grid, align_corners=False).flatten(1)


def digit_rows(label: int, seed: int, train: bool) -> Tensor:
    """Numbers of the pictures of a digit for training (four in five) or test."""
    count = int((digits(binarize=False)[1] == label).sum())
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return order[: count * 4 // 5] if train else order[count * 4 // 5 :]
