r"""A stream of unweighted events: VEGAS and boxes over nine hard variables, five nuisances drawn exactly,
then rejection.

.. math::
    y \sim \frac{b(y)\,\mathrm{tr}A(y)}{\mathrm{tr}S}, \qquad \mathrm{tr}A = E_{\theta\sim
    N(0,I)}\,\tilde\theta^TA\,\tilde\theta

Rotating an event by pi around the x axis exchanges the beams and changes nothing else, so only events whose
harder jet comes from the parton along +z are proposed, and half of them are rotated at the end.

A point of weight w is kept floor(w / bound + uniform) times: unbiased whatever the bound. The bound is
numerical; it is set so that a share of 5e-4 of the weight of a pilot run lies above it (7e-4 of two million
fresh points), which is the share of events that are exact copies of another.
"""

import math
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from . import phase_space as ps
from .matrix_element import amplitudes, massless
from .vegas import Boxes, Grid

__all__ = ["EventSource", "LHCEvents", "amplitudes_of"]

_LOG_PT = math.log(ps.JET_PT)
_LOW = (_LOG_PT, 0.0, -ps.JET_ETA, -ps.JET_ETA, 0.0, -math.pi, -ps.PHOTON_ETA, -1.0, 0.0)
_HIGH = (
    math.log(ps.ROOT_S / 2),
    1.0,
    ps.JET_ETA,
    ps.JET_ETA,
    2 * math.pi,
    math.pi,
    ps.PHOTON_ETA,
    1.0,
    2 * math.pi,
)
_CHUNK = 1 << 15  # points at a time: the working set stays in cache
_OVERWEIGHT = 5e-4
_PILOT = 6  # chunks for the bound
# chunks for the boxes: over both jets and the rapidity of the Higgs boson, which the total energy ties
# together
_TABLE = 8
_AXES, _CELLS = (0, 1, 2, 3, 6), 6


class LHCEvents(NamedTuple):
    """Events and their only unobserved latent.

    :param y: momenta of a1, a2 (three each) and of j1, j2 (four each), sorted by transverse momentum; (n,
        14), GeV.
    :param swapped: whether the harder jet comes from the parton that moves along -z; (n,), boolean.

    >>> events = LHCEvents(torch.zeros(3, 14), torch.tensor([True, False, True]))
    >>> events.y[events.swapped].shape
    torch.Size([2, 14])
    """

    y: Tensor
    swapped: Tensor


def amplitudes_of(a1: Tensor, a2: Tensor, ja: Tensor, jb: Tensor) -> Tensor:
    """The amplitudes with jet ja attached to the parton along +z; (2, 4, n)."""
    p1, p2, _, _ = ps.partons(a1 + a2 + ja + jb)
    return amplitudes(p1, p2, massless(ja), massless(jb))


class Weighted(NamedTuple):
    """Final states whose harder jet comes from the parton along +z, their amplitudes (2, k, n) and
    weights."""

    weight: Tensor
    vectors: tuple[Tensor, Tensor, Tensor, Tensor]
    amplitude: Tensor

    def take(self, i: Tensor) -> "Weighted":
        a1, a2, j1, j2 = (p[:, i] for p in self.vectors)
        return Weighted(self.weight[i], (a1, a2, j1, j2), self.amplitude[..., i])

    def events(self, generator: torch.Generator) -> LHCEvents:
        """Photons sorted; half of the events, chosen at random, turned around the x axis by pi, which
        exchanges the beams."""
        a1, a2, j1, j2 = self.vectors
        photons = torch.hypot(a1[1], a1[2]) < torch.hypot(a2[1], a2[2])
        a1, a2 = torch.where(photons, a2, a1), torch.where(photons, a1, a2)
        swapped = torch.rand(len(self.weight), generator=generator) < 0.5
        sign = 1.0 - 2.0 * swapped.to(a1)
        turned = [torch.stack([p[0], p[1], p[2] * sign, p[3] * sign]) for p in (a1, a2, j1, j2)]
        return LHCEvents(
            torch.cat([turned[0][1:], turned[1][1:], turned[2], turned[3]]).T.contiguous(), swapped
        )


class Proposal(NamedTuple):
    """A density on the unit cube that is close to the integrand, and the weight above which copies are
    made."""

    grid: Grid
    boxes: Boxes
    bound: float

    def __call__(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        u, ratio = self.boxes(torch.rand(10, n, generator=generator, dtype=torch.float64))
        v, jacobian = self.grid(u)
        return v, jacobian * ratio


@cache
def adapted(size: int) -> Proposal:
    """The proposal for ``size`` amplitudes, the same for every source (about a second, once)."""
    source = EventSource(size, torch.Generator().manual_seed(0))
    g, grid, boxes = source.generator, Grid(9), Boxes(_AXES, _CELLS)
    grid.adapt(lambda v: source.weighted(v)[0], g, rounds=8, size=30_000)
    u = torch.rand(9, _TABLE, _CHUNK, generator=g, dtype=torch.float64)
    boxes.adapt(
        u.flatten(1), torch.cat([source.weighted(v)[0] * jacobian for v, jacobian in map(grid, u.unbind(1))])
    )
    proposal = Proposal(grid, boxes, math.inf)
    w = torch.cat([source.chunk(proposal).weight for _ in range(_PILOT)]).sort(descending=True).values
    excess = w.cumsum(0) - w * torch.arange(1, len(w) + 1, dtype=w.dtype)  # weight above the bound w[i]
    return proposal._replace(bound=float(w[int((excess < _OVERWEIGHT * w.sum()).sum())]))


class EventSource:
    """Draws events.

    :param size: k + 1, how many amplitudes take part.
    :param generator: of everything that is drawn.
    """

    def __init__(self, size: int, generator: torch.Generator) -> None:
        self.size, self.generator = size, generator

    def weighted(self, v: Tensor) -> tuple[Tensor, Weighted]:
        """The integrand b tr(A) at points (9, n) of the unit cube, and what belongs to the points inside the
        cuts."""
        g, n = self.generator, v.shape[1]
        low, high = v.new_tensor(_LOW).unsqueeze(1), v.new_tensor(_HIGH).unsqueeze(1)
        hard = low + (high - low) * v
        room = hard[0] - _LOG_PT
        hard[1] = _LOG_PT + room * v[1]  # the second jet is the softer one, on a logarithmic scale
        jets = -ps.JET_SCALE * torch.rand(int(ps.JET_SHAPE), 2, n, generator=g, dtype=v.dtype).log().sum(0)
        higgs = ps.HIGGS + ps.WIDTH * torch.randn(1, n, generator=g, dtype=v.dtype)
        kt = ps.KT_SCALE * torch.randn(2, n, generator=g, dtype=v.dtype)
        state = ps.final_state(hard, torch.cat([jets, higgs]), kt)
        kept = ps.inside_cuts(*state).nonzero()[:, 0]
        a1, a2, j1, j2 = (p[:, kept] for p in state)
        m = amplitudes_of(a1, a2, j1, j2)[:, : self.size]
        scale = 2 * (high - low).prod() * room[kept]  # 2: the events with the beams exchanged
        weight = ps.log_weight(hard[:, kept], a1, a2, j1, j2).exp() * scale * m.square().sum((0, 1))
        return v.new_zeros(n).index_copy_(0, kept, weight), Weighted(weight, (a1, a2, j1, j2), m)

    def chunk(self, proposal: Proposal) -> Weighted:
        """Weighted final states; those outside the cuts are left out but count: the mean weight is a sum over
        the chunk size."""
        v, jacobian = proposal(_CHUNK, self.generator)
        full, inside = self.weighted(v)
        return inside._replace(weight=inside.weight * jacobian[full > 0])

    def draw(self) -> Weighted:
        """A chunk's worth of unweighted events (some thousands)."""
        proposal = adapted(self.size)
        points = self.chunk(proposal)
        uniform = torch.rand(points.weight.shape, generator=self.generator, dtype=points.weight.dtype)
        copies = (points.weight / proposal.bound + uniform).long()
        return points.take(torch.arange(len(copies)).repeat_interleave(copies))

    def integral(self, chunks: int) -> tuple[Tensor, Tensor]:
        """Monte Carlo estimate of S, the integral of b A, and its standard error."""
        proposal = adapted(self.size)
        parts = []
        for _ in range(chunks):
            points = self.chunk(proposal)
            m = points.amplitude
            m = (m * (points.weight / m.square().sum((0, 1))).sqrt()).transpose(0, 1).flatten(1)
            parts.append(m @ m.T / _CHUNK)
        s = torch.stack(parts)
        return s.mean(0), s.std(0) / chunks**0.5
