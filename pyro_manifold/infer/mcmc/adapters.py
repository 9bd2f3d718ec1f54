"""What a kernel learns from its trajectories: the step size, and the arc length of HMC."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .systems import State, System, rows

__all__ = ["TrajectoryLengthAdapter", "StepSizeAdapter"]


class StepSizeAdapter:
    r"""The step size at which trajectories are accepted as often as asked, by Robbins and Monro's recursion,
    averaged.

    .. math:: \log\epsilon_{t+1} = \log\epsilon_t + c\,(t + t_0)^{-\kappa}(a_t - a^*),\qquad
        \log\bar\epsilon_t = (1 - t^{-\kappa})\log\bar\epsilon_{t-1} + t^{-\kappa}\log\epsilon_t

    Stan's dual averaging moves by about :math:`2.5\,(a_t - a^*)` at every t: with the noise of one chain its
    steps stay spread by a factor of 1.5, and as acceptance is concave in the step, their mean is accepted too
    often (measured 0.93 where 0.8 was asked, at two thirds of the step). Here the spread vanishes.
    :math:`c = 2.5` is Newton's gain for
    :math:`a = 2\Phi(-k\epsilon^2)` at 0.8.

    References: Robbins & Monro 1951; Polyak & Juditsky 1992; Andrieu & Thoms 2008, sec. 5.

    :param float size: the step size to start from.
    :param float target: the acceptance probability :math:`a^*`.
    """

    gain, t0, kappa = 2.5, 3, 0.75

    def __init__(self, size: float, target: float) -> None:
        self.target = target
        self._t = 0
        self._log, self._mean = math.log(size), 0.0

    def update(self, accept: float) -> None:
        self._t += 1
        self._log += self.gain * (self._t + self.t0) ** -self.kappa * (accept - self.target)
        weight = self._t**-self.kappa
        self._mean = (1 - weight) * self._mean + weight * self._log

    @property
    def size(self) -> float:
        """Step size of the next transition."""
        return math.exp(self._log)

    @property
    def mean(self) -> float:
        """Averaged step size, for the draws after warm-up."""
        return math.exp(self._mean)


class TrajectoryLengthAdapter:
    r"""The arc length of HMC that gives the most effective draws per gradient, from trajectories recorded in
    warm-up.

    Along trajectories of stationary chains, statistic f has the lag-t autocorrelation
    :math:`\rho_f(t) = 1 - \mathrm E[a\,(f(z_t) - f(z_0))^2] / 2\,\mathrm{Var} f`, with a the acceptance
    probability. With a jittered length the chain's is the mean over the jitter, :math:`\bar\rho_f`, and

    .. math:: \max_L\; \min_f \frac{1 - \bar\rho_f(L)}{1 + \bar\rho_f(L)} \Big/ \mathrm E[\text{steps}(L)].

    Statistics: coordinates (tangent ones on manifolds without bound) and their squared deviations; the
    minimum is softened to the mean over the worst tenth. All chains and steps serve one estimate; trajectories of the
    learned length show what shorter ones do, and one in five is longer. Related:
    Hoffman, Radul & Sountsov, ChEES-HMC, 2021.

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
        self._centre: Tensor | None = (
            None  # of the squared deviations: fixed in a window, the mean of the one before
        )
        self._chosen, self._counted = False, 0  # trajectories of warm-up
        self._clear()

    def _clear(self) -> None:
        self._moved: Tensor | None = None  # (bins, statistics): summed a (f_t - f_0)^2
        self._hits = torch.zeros(self.bins + 1, dtype=torch.float64)
        self._moments: list[Any] = [0.0, 0.0, 0]  # of f_0: sum, sum of squares, number

    def count(self, step: float, warm: bool) -> int:
        """Steps of the next trajectory: jittered about the learned length. In warm-up one in five is as long as is to
        be learned from, and the first twenty, while the scales are unknown, are a few steps."""
        u = float(torch.rand(()))
        length = self.length * (1 + self.jitter * (2 * u - 1))
        if warm and self.adapt:
            early = self._counted < 20
            if early or self._counted % 5 == 0:
                most = 5 if early else math.inf if self._chosen else 10
                length = min(self.longest, most * step) * (0.5 + 0.5 * u)
            self._counted += 1
        return max(1, min(1024, round(length / step)))

    def recorder(self, system: System, step: float) -> Callable[[int, State, Tensor], None]:
        """A callback for the next trajectory, which :func:`~.transitions.hmc` calls at every step."""
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
            x, base = z[s.name], self._base[s.name]
            if s.geometry is None:
                parts.append(rows(x - base))
                continue
            for geo, y, o in zip(
                s.geometry.factors, s.geometry.split(x), s.geometry.split(base), strict=True
            ):
                coordinates = geo.ambient_coordinates(y)
                parts.append(rows(geo.log_frame(o.expand_as(y), y) if coordinates is None else coordinates))
        return torch.cat(parts, -1).double()

    def choose(self, step: float, stretch: float = 1.0, enough: bool = True) -> None:
        """Set the length for steps of this size from what was recorded; ``stretch``: new time units per old
        ones.

        Without ``enough`` records a length that was learned is kept, in the new units.
        """
        if not self.adapt:
            return
        n = self._moments[2]
        if self._moved is None or n < 10 or not enough:
            if self._chosen:
                self.length, self.longest = self.length * stretch, self.longest * stretch
            self._clear()
            return
        self._chosen = True
        self._centre = self._moments[0][: len(self._moments[0]) // 2] / n
        variance = (self._moments[1] / n - (self._moments[0] / n).square()).clamp_min(0)
        good = variance > 1e-12
        seen = self._hits > 0
        times = torch.cat([torch.zeros(1), seen.nonzero().squeeze(-1) * self.longest / self.bins]).double()
        rho = 1 - (self._moved[seen] / self._hits[seen].to(variance).unsqueeze(-1))[:, good] / (
            2 * variance[good]
        )
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
