"""Curves in space with exact densities by arc length: a knot, two linked circles, a helix."""

import math
from abc import abstractmethod

import torch
from torch import Tensor

from ..ops.arguments import checked
from ..ops.pairwise import pairwise_distances
from .known_manifold import CosineDensity, KnownManifold

__all__ = ["Helix", "InterlockedCircles", "KnownCurve", "TrefoilKnot"]

_GRID, _STEPS = 2000, 40


class KnownCurve(KnownManifold):
    r"""Curves :math:`\gamma_i(t)`, t in [0, T], with weights and a density of t on each.

    .. math:: p(x) = w_i\,\frac{1 + a\cos(t - t_i)}{T\,|\gamma_i'(t)|}, \qquad x = \gamma_i(t)

    A subclass gives :meth:`curve` and its derivative.
    """

    dim = 1
    closed = True
    weights: tuple[float, ...] = (1.0,)

    def __init__(self, turns: int = 1, amplitude: float = 0.6, peaks: tuple[float, ...] = (0.0,)) -> None:
        self.angles = [CosineDensity(turns, amplitude, peak) for peak in peaks]
        self.length = self.angles[0].length
        self.components = len(self.weights)

    @abstractmethod
    def curve(self, t: Tensor, i: int) -> tuple[Tensor, Tensor]:
        """The point of curve i at t, and its derivative, both of shape ``t.shape + (3,)``."""

    @checked(n=0, seed=0)
    def sample(self, n: int, *, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        share = torch.tensor(self.weights, dtype=torch.float64).cumsum(0)
        which = torch.searchsorted(
            share[:-1].contiguous(), torch.rand(n, generator=generator, dtype=torch.float64)
        )
        points = [self.curve(a.sample(n, generator), i)[0] for i, a in enumerate(self.angles)]
        return torch.stack(points)[which, torch.arange(n)]

    def _nearest(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """For each curve, on the first axis: t of its nearest point, that point, and its distance."""
        found = []
        for i in range(len(self.angles)):
            grid = torch.linspace(0, self.length, _GRID, dtype=torch.float64, device=x.device)
            on_grid = self.curve(grid, i)[0]
            best = [pairwise_distances(part, on_grid).argmin(-1) for part in x.reshape(-1, 3).split(4096)]
            t = grid[torch.cat(best)].reshape(x.shape[:-1])
            for _ in range(
                _STEPS
            ):  # Gauss-Newton: converges while the distance is below the radius of curvature
                p, v = self.curve(t, i)
                t = t + ((x - p) * v).sum(-1) / v.square().sum(-1)
                t = t.remainder(self.length) if self.closed else t.clamp(0, self.length)
            p = self.curve(t, i)[0]
            found.append((t, p, torch.linalg.vector_norm(x - p, dim=-1)))
        ts, ps, ds = zip(*found, strict=True)
        return torch.stack(ts), torch.stack(ps), torch.stack(ds)

    def component(self, x: Tensor) -> Tensor:
        return self._nearest(self.points(x))[2].argmin(0)

    def project(self, x: Tensor) -> Tensor:
        _, p, d = self._nearest(self.points(x))
        return p.gather(0, d.argmin(0)[None, ..., None].expand(1, *x.shape)).squeeze(0)

    def log_prob(self, x: Tensor) -> Tensor:
        t, _, d = self._nearest(self.points(x))
        parts = [
            math.log(w) + a.log_prob(s) - torch.linalg.vector_norm(self.curve(s, i)[1], dim=-1).log()
            for i, (w, a, s) in enumerate(zip(self.weights, self.angles, t, strict=True))
        ]
        return torch.stack(parts).gather(0, d.argmin(0, keepdim=True)).squeeze(0)


class TrefoilKnot(KnownCurve):
    r"""The trefoil knot, :math:`\gamma(t) = (\sin t + 2\sin 2t,\ \cos t - 2\cos 2t,\ -\sin 3t)`, with density
    :math:`(1 + 0.6\cos t) / (2\pi\,|\gamma'(t)|)`.

    Base measure: arc length.

    >>> knot = TrefoilKnot()
    >>> x = knot.sample(100)
    >>> tuple(x.shape), bool((knot.distance(x) < 1e-9).all()), bool(knot.log_prob(x).isfinite().all())
    ((100, 3), True, True)
    """

    def curve(self, t: Tensor, i: int) -> tuple[Tensor, Tensor]:
        s, c, s2, c2 = t.sin(), t.cos(), (2 * t).sin(), (2 * t).cos()
        return (
            torch.stack([s + 2 * s2, c - 2 * c2, -(3 * t).sin()], -1),
            torch.stack([c + 4 * c2, -s + 4 * s2, -3 * (3 * t).cos()], -1),
        )


class InterlockedCircles(KnownCurve):
    r"""Two unit circles, each through the centre of the other, in perpendicular planes; 0.4 of the draws are on the
    first, with densities :math:`(1 + 0.6\cos(t - t_i)) / 2\pi` on each.

    Base measure: arc length.

    >>> circles = InterlockedCircles()
    >>> circles.component(circles.sample(5, seed=1)), circles.components
    (tensor([..., ..., ..., ..., ...]), 2)
    """

    weights = (0.4, 0.6)

    def __init__(self) -> None:
        super().__init__(peaks=(0.0, 2.0))

    def curve(self, t: Tensor, i: int) -> tuple[Tensor, Tensor]:
        s, c, o = t.sin(), t.cos(), torch.zeros_like(t)
        if i == 0:
            return torch.stack([c, s, o], -1), torch.stack([-s, c, o], -1)
        return torch.stack([1 + c, o, s], -1), torch.stack([-s, o, c], -1)


class Helix(KnownCurve):
    r"""Two turns of a helix, :math:`\gamma(t) = (\cos t, \sin t, t/6 - 2\pi/6)`, t in :math:`[0, 4\pi]`, with density
    :math:`(1 + 0.6\cos t) / (4\pi\,|\gamma'|)`, which ends abruptly at both ends.

    Base measure: arc length.

    >>> helix = Helix()
    >>> helix.distance(torch.tensor([2.0, 0.0, -2 * math.pi / 6]))  # from the lower end
    tensor(1.0000, dtype=torch.float64)
    """

    closed = False

    def __init__(self) -> None:
        super().__init__(turns=2)

    def curve(self, t: Tensor, i: int) -> tuple[Tensor, Tensor]:
        s, c = t.sin(), t.cos()
        return (
            torch.stack([c, s, (t - self.length / 2) / 6], -1),
            torch.stack([-s, c, torch.full_like(t, 1 / 6)], -1),
        )
