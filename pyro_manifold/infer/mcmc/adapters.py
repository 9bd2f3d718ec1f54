"""What a kernel learns in warm-up: the scales of its system, the arc length of HMC. The schedule and the step size are Pyro's."""

import math
from collections.abc import Callable
from typing import Any

import torch
from pyro.ops.dual_averaging import DualAveraging
from torch import Tensor

from .motion import AmbientMotion
from .systems import Site, State, System

__all__ = ["ArcAdapter", "ScaleAdapter", "StepAdapter"]


class StepAdapter(DualAveraging):
    r"""The step size at which trajectories are accepted as often as asked, by Robbins and Monro's recursion, averaged.

    .. math:: \log\epsilon_{t+1} = \log\epsilon_t + c\,(t + t_0)^{-\kappa}(a_t - a^*),\qquad
        \log\bar\epsilon_t = (1 - t^{-\kappa})\log\bar\epsilon_{t-1} + t^{-\kappa}\log\epsilon_t

    Dual averaging, whose methods it has, moves by about :math:`2.5\,(a_t - a^*)` at every t: with the noise of one chain its
    steps stay spread by a factor of 1.5, and as acceptance is concave in the step, their mean is accepted too often (measured
    0.93 where 0.8 was asked, at two thirds of the step). Here the spread vanishes. :math:`c = 2.5` is Newton's gain for
    :math:`a = 2\Phi(-k\epsilon^2)` at 0.8.

    References: Robbins & Monro 1951; Polyak & Juditsky 1992; Andrieu & Thoms 2008, sec. 5.
    """

    _t: int
    _x_t: float
    _x_avg: float

    def __init__(self) -> None:
        super().__init__(t0=3)

    def reset(self) -> None:
        super().reset()
        self._x_t = self.prox_center - math.log(10)  # Pyro centres dual averaging at ten times the step to start from

    def step(self, g: float) -> None:
        self._t += 1
        self._x_t -= 2.5 * (self._t + self.t0) ** -self.kappa * g
        weight = self._t**-self.kappa
        self._x_avg = (1 - weight) * self._x_avg + weight * self._x_t


def _flat(site: Site) -> bool:
    """Are ambient coordinates of this site good statistics? Not on hyperbolic space or SPD, where they have heavy tails."""
    if site.geometry is None or isinstance(site.motion, AmbientMotion):
        return True
    event = site.shape[len(site.shape) - site.geometry.event_dim :]
    return float(site.geometry.injectivity_radius(event)) < math.inf


class ScaleAdapter:
    r"""One scalar per manifold site and a diagonal or dense block for the Euclidean ones, from draws pooled over chains.

    The scalar is the dispersion per dimension of a site's points, :math:`s^2 = \tfrac{1}{2d}\mathrm E\,|x - x'|^2` over
    independent pairs: chordal on compact manifolds, geodesic on the others. Shrunk towards 1e-3 as Stan does.
    It has the methods that :class:`pyro.infer.mcmc.adaptation.WarmupAdapter` calls on a mass matrix.
    """

    def __init__(self, dense: bool = False) -> None:
        self.dense = dense
        self.system: System | None = None
        self._draws: list[dict[str, Tensor]] = []

    def configure(self, shape: Any = None, adapt_mass_matrix: bool = True, options: Any = None) -> None:
        self._draws = []

    def update(self, z: dict[str, Tensor], z_grad: Any = None) -> None:
        self._draws.append({k: v.detach().clone() for k, v in z.items()})

    @torch.no_grad()
    def end_adaptation(self) -> None:
        system = self.system
        assert system is not None
        if not self._draws:
            return
        z = {k: torch.cat([d[k] for d in self._draws]) for k in self._draws[0]}
        n = next(iter(z.values())).shape[0]
        self._draws = []
        if n < 5:
            return
        shrink, floor = n / (n + 5.0), 1e-3 * 5.0 / (n + 5.0)
        order = torch.randperm(n, device=next(iter(z.values())).device)
        scale, flat, flat_scale = {}, [], None
        for s in system.sites:
            x = z[s.name]
            if s.geometry is None:
                flat.append(x.reshape(n, -1))
                continue
            assert s.motion is not None
            s.motion.centre(x)
            if _flat(s):
                d2 = self._chord2(s, x, x[order])
            else:
                d2 = s.geometry.dist(x, x[order]).square().reshape(n, -1).sum(-1)
            scale[s.name] = (shrink * 0.5 * float(d2.mean()) / s.dim + floor) ** 0.5
        if flat:
            x = torch.cat(flat, -1)
            if self.dense:
                cov = shrink * torch.cov(x.T).reshape(x.shape[-1], -1)
                eye = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
                flat_scale = torch.linalg.cholesky(cov + floor * eye)
            else:
                flat_scale = (shrink * x.var(0) + floor).sqrt()
        system.rescale(scale, flat_scale)

    @staticmethod
    def _chord2(s: Site, x: Tensor, y: Tensor) -> Tensor:
        d = (x - y).reshape(x.shape[0], -1).square().sum(-1)
        return d / 2 if type(s.motion).__name__ == "_Rotations" else d  # |dR|_F^2 is twice the metric's


class ArcAdapter:
    r"""The arc length of HMC that gives the most effective draws per gradient, from trajectories recorded in warm-up.

    Along trajectories of stationary chains, statistic f has the lag-t autocorrelation
    :math:`\rho_f(t) = 1 - \mathrm E[a\,(f(z_t) - f(z_0))^2] / 2\,\mathrm{Var} f`, with a the acceptance probability. With a
    jittered length the chain's is the mean over the jitter, :math:`\bar\rho_f`, and

    .. math:: \max_L\; \min_f \frac{1 - \bar\rho_f(L)}{1 + \bar\rho_f(L)} \Big/ \mathrm E[\text{steps}(L)].

    Statistics: coordinates (tangent ones on manifolds without bound) and their squared deviations; the minimum is softened to
    the mean over the worst tenth. All chains and steps serve one estimate. Related: Hoffman, Radul & Sountsov, ChEES-HMC, 2021.

    :param length: arc length in units of the learned scales; ``None`` to learn it.
    """

    bins, jitter = 48, 0.5

    def __init__(self, length: float | None = None) -> None:
        self.adapt = length is None
        self._given = length
        self.reset()

    def reset(self) -> None:
        self.length = math.pi / 2 if self._given is None else self._given
        self.longest = math.pi  # recorded trajectories are up to this long
        self._base: dict[str, Tensor] | None = None  # where tangent coordinates are taken
        self._centre: Tensor | None = None  # of the squared deviations: fixed in a window, the mean of the one before
        self._chosen = False
        self._clear()

    def _clear(self) -> None:
        self._moved: Tensor | None = None  # (bins, statistics): summed a (f_t - f_0)^2
        self._hits = torch.zeros(self.bins + 1, dtype=torch.float64)
        self._moments: list[Any] = [0.0, 0.0, 0]  # of f_0: sum, sum of squares, number

    def count(self, step: float, warm: bool) -> int:
        """Steps of the next trajectory: jittered about the learned length, or long ones to learn from."""
        u = float(torch.rand(()))
        if warm and self.adapt:  # at first, while the scales are unknown, a few steps must do
            length = (self.longest if self._chosen else min(self.longest, 10 * step)) * (0.5 + 0.5 * u)
        else:
            length = self.length * (1 + self.jitter * (2 * u - 1))
        return max(1, min(1024, round(length / step)))

    def recorder(self, system: System, step: float) -> Callable[[int, State, Tensor], None]:
        """For the next trajectory: to be called by :func:`~.transitions.hmc` at every step."""
        start: list[Tensor] = []

        def record(i: int, state: State, error: Tensor) -> None:
            x = self._coordinates(system, state)
            if self._centre is None:
                self._centre = x.mean(0)
            f = torch.cat([x, (x - self._centre).square()], -1)
            if i == 0:
                start.append(f)
                a, b, n = self._moments
                self._moments = [a + f.sum(0), b + f.square().sum(0), n + len(f)]
                return
            accept = (-error).exp().clamp(max=1).double().unsqueeze(-1)
            gain = (accept * (f - start[0]).square()).nan_to_num(0.0, 0.0, 0.0).sum(0)
            if self._moved is None:
                self._moved = gain.new_zeros(self.bins + 1, len(gain))
            b = min(self.bins, max(1, round(i * step / self.longest * self.bins)))
            self._moved[b] += gain
            self._hits[b] += len(f)

        return record

    def _coordinates(self, system: System, state: State) -> Tensor:
        z, parts = state.z, []
        if self._base is None:
            self._base = {k: v[0].clone() for k, v in z.items()}
        for s in system.sites:
            x = z[s.name]
            if s.geometry is None:
                x = x - self._base[s.name]
            elif not _flat(s):
                x = s.geometry.log_frame(self._base[s.name].expand_as(x), x)
            parts.append(x.reshape(x.shape[0], -1))
        return torch.cat(parts, -1).double()

    def choose(self, step: float, stretch: float = 1.0) -> None:
        """Set the length for steps of this size from what was recorded; ``stretch``: new time units per old ones."""
        if not self.adapt:
            return
        n = self._moments[2]
        if self._moved is None or n < 10:
            self.length, self.longest = self.length * stretch, self.longest * stretch
            self._clear()
            return
        self._chosen = True
        self._centre = self._moments[0][: len(self._moments[0]) // 2] / n
        variance = (self._moments[1] / n - (self._moments[0] / n).square()).clamp_min(0)
        good = variance > 1e-12
        seen = self._hits > 0
        times = torch.cat([torch.zeros(1), seen.nonzero().squeeze(-1) * self.longest / self.bins]).double()
        rho = 1 - (self._moved[seen] / self._hits[seen].to(variance).unsqueeze(-1))[:, good] / (2 * variance[good])
        rho = torch.cat([torch.ones_like(rho[:1]), rho]).cpu()
        jitter = torch.linspace(1 - self.jitter, 1 + self.jitter, 31, dtype=torch.float64)
        grid = self.longest / (1 + self.jitter) * torch.linspace(0.1, 1.0, 30, dtype=torch.float64)
        best = -math.inf
        for length in grid:
            count = (jitter * length / (step / stretch)).round().clamp_min(1)
            mean = _interpolate(times, rho, count * (step / stretch)).mean(0).clamp(-0.5, 1)
            worst = mean.sort(descending=True).values[: max(1, mean.numel() // 10)].mean()
            gain = float((1 - worst) / (1 + worst) / count.mean())
            if gain > best:
                best, self.length = gain, max(float(length), step / stretch)
        if self.length > 0.85 * float(grid[-1]):
            self.longest = min(2 * self.longest, 64 * math.pi)
        else:  # no longer than is needed to see the best length and a little beyond
            self.longest = min(self.longest, max(2.5 * self.length, 2.5 * step / stretch))
        self.length, self.longest = self.length * stretch, self.longest * stretch
        self._clear()


def _interpolate(x: Tensor, y: Tensor, at: Tensor) -> Tensor:
    """Linear interpolation of the rows of ``y`` (at ``x``, ascending), constant beyond the ends."""
    i = torch.searchsorted(x, at).clamp(1, len(x) - 1)
    w = ((at - x[i - 1]) / (x[i] - x[i - 1])).clamp(0, 1).unsqueeze(-1)
    return torch.lerp(y[i - 1], y[i], w)
