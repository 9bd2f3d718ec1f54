"""Surfaces in space with exact densities by area: a sphere, a torus, a swiss roll."""

import math

import torch
from torch import Tensor

from ..distributions import VonMisesFisher
from ..ops.arguments import checked
from .known_manifold import CosineDensity, KnownManifold

__all__ = ["SphereMixture", "SwissRoll", "TorusOfRevolution"]


class SphereMixture(KnownManifold):
    r"""A uniform distribution on the unit sphere and two von Mises–Fisher distributions.

    .. math:: p(x) = \frac{0.4}{4\pi} + 0.3\,\mathrm{vMF}(x; e_1, 10) + 0.3\,\mathrm{vMF}(x; -e_3, 10)

    Base measure: area.

    >>> sphere = SphereMixture()
    >>> bool((sphere.distance(sphere.sample(100)) < 1e-12).all())
    True
    """

    dim = 2

    def __init__(self) -> None:
        eye = torch.eye(3, dtype=torch.float64)
        self.peaks = [VonMisesFisher(loc, eye.new_tensor(10.0)) for loc in (eye[0], -eye[2])]

    @checked(n=0, noise=0, seed=0)
    def sample(self, n: int, *, seed: int = 0) -> Tensor:
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            even = torch.nn.functional.normalize(torch.randn(n, 3, dtype=torch.float64), dim=-1)
            draws = torch.stack([even, *(p.sample((n,)) for p in self.peaks)])
            which = torch.multinomial(torch.tensor([0.4, 0.3, 0.3]), max(n, 1), replacement=True)[:n]
            return draws[which, torch.arange(n)]

    def project(self, x: Tensor) -> Tensor:
        return torch.nn.functional.normalize(self.points(x), dim=-1)

    def log_prob(self, x: Tensor) -> Tensor:
        x = self.project(x)
        even = torch.full_like(x[..., 0], math.log(0.4 / (4 * math.pi)))
        return torch.stack([even, *(p.log_prob(x) + math.log(0.3) for p in self.peaks)]).logsumexp(0)


class TorusOfRevolution(KnownManifold):
    r"""A torus in space, of radii 2 and 1, with angles a (around the axis) and b (around the tube).

    .. math:: x = \big((2 + \cos b)\cos a,\ (2 + \cos b)\sin a,\ \sin b\big), \qquad
        p(x) = \frac{(1 + 0.6\cos a)(1 + 0.6\cos(b - 1))}{4\pi^2\,(2 + \cos b)}

    Base measure: area.

    >>> torus = TorusOfRevolution()
    >>> bool((torus.distance(torus.sample(100)) < 1e-12).all())
    True
    """

    dim = 2

    def __init__(self) -> None:
        self.around, self.tube = CosineDensity(1, 0.6, 0.0), CosineDensity(1, 0.6, 1.0)

    def point(self, a: Tensor, b: Tensor) -> Tensor:
        """x for these angles."""
        r = 2 + b.cos()
        return torch.stack([r * a.cos(), r * a.sin(), b.sin()], -1)

    def angles(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The angles of the nearest point."""
        x = self.points(x)
        a = torch.atan2(x[..., 1], x[..., 0])
        return a, torch.atan2(x[..., 2], torch.hypot(x[..., 0], x[..., 1]) - 2)

    @checked(n=0, noise=0, seed=0)
    def sample(self, n: int, *, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return self.point(self.around.sample(n, generator), self.tube.sample(n, generator))

    def project(self, x: Tensor) -> Tensor:
        return self.point(*self.angles(x))

    def log_prob(self, x: Tensor) -> Tensor:
        a, b = self.angles(x)
        return self.around.log_prob(a) + self.tube.log_prob(b) - (2 + b.cos()).log()


class SwissRoll(KnownManifold):
    r"""A rolled-up rectangle: one turn of a spiral times an interval, with parameters uniform on both.

    .. math:: x = (t\cos t,\ h,\ t\sin t), \quad t \in [\tfrac32\pi, \tfrac92\pi], \ h \in [0, 21], \qquad
        p(x) = \frac{1}{3\pi \cdot 21\,\sqrt{1 + t^2}}

    Base measure: area. ``sample(n, noise=s)`` adds normal noise of standard deviation s to each coordinate, as
    scikit-learn's ``make_swiss_roll`` does.

    >>> roll = SwissRoll()
    >>> x = roll.sample(1000, noise=0.05)
    >>> bool((roll.distance(x) < 0.3).all()), bool((roll.overshoot(roll.sample(1000)) < 1e-9).all())
    (True, True)
    """

    dim = 2
    ends = (1.5 * math.pi, 4.5 * math.pi)
    height = 21.0

    def _point(self, t: Tensor, h: Tensor) -> Tensor:
        return torch.stack([t * t.cos(), h, t * t.sin()], -1)

    @checked(n=0, noise=0, seed=0)
    def sample(self, n: int, *, seed: int = 0, noise: float = 0.0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        t, h = torch.rand(2, n, generator=generator, dtype=torch.float64)
        x = self._point(self.ends[0] + (self.ends[1] - self.ends[0]) * t, self.height * h)
        return x + noise * torch.randn(n, 3, generator=generator, dtype=torch.float64)

    def _nearest(self, x: Tensor, beyond: float) -> Tensor:
        """t of the nearest point of the spiral, continued by ``beyond`` at both ends."""
        low, high = self.ends[0] - beyond, self.ends[1] + beyond
        turns = torch.arange(5, dtype=torch.float64, device=x.device) * 2 * math.pi
        t = torch.atan2(x[..., 2], x[..., 0]).unsqueeze(-1) + turns  # one start on each turn
        t = torch.cat([t, t[..., :2] * 0 + t.new_tensor([low, high])], -1).clamp(low, high)
        flat = x[..., None, ::2]
        for _ in range(60):
            c, s = t.cos(), t.sin()
            p, v = torch.stack([t * c, t * s], -1), torch.stack([c - t * s, s + t * c], -1)
            t = (t + ((flat - p) * v).sum(-1) / v.square().sum(-1)).clamp(low, high)
        gap = torch.linalg.vector_norm(flat - torch.stack([t * t.cos(), t * t.sin()], -1), dim=-1)
        return t.gather(-1, gap.argmin(-1, keepdim=True)).squeeze(-1)

    def project(self, x: Tensor) -> Tensor:
        x = self.points(x)
        return self._point(self._nearest(x, 0.0), x[..., 1].clamp(0, self.height))

    def log_prob(self, x: Tensor) -> Tensor:
        t = self._nearest(self.points(x), 0.0)
        return -0.5 * t.square().log1p() - math.log((self.ends[1] - self.ends[0]) * self.height)

    def overshoot(self, x: Tensor) -> Tensor:
        """How far ``x`` is beyond the ends of the roll, along the spiral or along its axis: 0 inside."""
        x = self.points(x)
        t = self._nearest(x, 1.0)
        out = (self.ends[0] - t).clamp_min(0) * self.ends[0] + (t - self.ends[1]).clamp_min(0) * self.ends[1]
        return torch.maximum(out, (x[..., 1] - self.height).clamp_min(0)).maximum((-x[..., 1]).clamp_min(0))
