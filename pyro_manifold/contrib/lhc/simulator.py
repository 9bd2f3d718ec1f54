r"""The simulator: exact events, exact densities, exact scores, at one theta or at many."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from tqdm import tqdm

from ...ops.checks import check_all
from . import phase_space as ps
from .observables import inverse, log_volume, observables
from .source import EventSource, LHCEvents, Weighted, amplitudes_of

__all__ = ["LHC"]

# S = int b A dy by 4 10^7 points of our own VEGAS: sigma(0) to 3 10^-4 (in our units; it cancels in ratios),
# the entries
# relative to it to 1-3 10^-4. The CP-odd interference vanishes exactly, by reflection (measured: below
# 10^-4).
_SIGMA = 43.424
_S = (
    (1.0, 0.52423, 0.0, -0.08663),
    (0.52423, 1.69658, 0.0, 0.21473),
    (0.0, 0.0, 0.39236, 0.0),
    (-0.08663, 0.21473, 0.0, 0.47379),
)
_AT_ONCE = 1 << 22  # theta x events
_PATIENCE = 50  # draws of the pool, of thousands of events each, that may all be rejected before we say so


def _nothing(theta: Tensor | None) -> ValueError:
    seen = "none" if theta is None else theta.tolist()
    return ValueError(
        f"theta: got {seen}, of which {_PATIENCE} draws of the pool gave no event; expected numbers whose "
        "squares are finite and small enough to be added up, |theta| < 1e100."
    )


class LHC:
    r"""Weak-boson fusion :math:`ud \to duH(\to\gamma\gamma)` at 13 TeV, leading order, with everything
    tractable.

    .. math::
        p(x \mid \theta) = \frac{2\,b(y)\;\tilde\theta^T\big[A(j_1,j_2)+A(j_2,j_1)\big]\tilde\theta}
        {\tilde\theta^TS\,\tilde\theta\;\;\mathrm{vol}(y)}, \qquad \tilde\theta = (1,\theta), \quad S = \int
        b(y)A(y)\,dy

    with b from ``phase_space.py``, A from ``matrix_element.py``, x(y) and vol from ``observables.py``; the
    sum is over the one unobserved latent, which jet comes from which parton, and 2 counts the photons. The
    prior of theta is :math:`N(0, I)`.

    This is **not** the simulator, nor the data, of the M-flow paper (MadGraph, Pythia and Delphes; its arrays
    cannot be had any more): parton densities, resolutions and the unit of theta are modelling choices, and
    only the protocol, the dimensions and the list of observables are the paper's. What it has instead is the
    exact answer.

    Events come from :math:`b\,\mathrm{tr}A` and are accepted at theta with probability
    :math:`\tilde\theta^TA\tilde\theta\,/\,(1+|\theta|^2)\,\mathrm{tr}A`, a provable bound: for a positive
    semidefinite A the ratio of the two forms is at most the largest eigenvalue of
    :math:`\tilde\theta\tilde\theta^T`.

    Base measure: 14-dimensional Hausdorff measure of the set of standardised observables in :math:`R^{40}`.
    Everything is float64.

    :param n_theta: 2 for (f_W, f_Wt), CP-even and CP-odd, as in the paper; 3 adds f_WW.
    :param seed: of all that is drawn; torch's global generator is not touched.
    :raises ValueError: for another ``n_theta``, a theta of the wrong size, not finite or so large that its
        squares overflow, fewer than one event.

    Reference: J. Brehmer and K. Cranmer, "Flows for simultaneous manifold learning and density estimation",
    NeurIPS 2020 (arXiv:2003.13913), section 4 (the process, the observables and the protocol).

    >>> lhc = LHC(2, seed=0)
    >>> events = lhc.simulate(torch.tensor([0.5, 0.0]), 20)
    >>> x = lhc.observables(events.y)
    >>> tuple(x.shape), tuple(lhc.log_prob(x, torch.zeros(2)).shape)
    ((20, 40), (20,))
    """

    true_points = ((0.0, 0.0), (0.5, 0.0), (-1.0, -1.0))  # the paper's three test points (f_W, f_Wt)
    observables = staticmethod(observables)
    inverse = staticmethod(inverse)

    def __init__(self, n_theta: int = 2, *, seed: int = 0) -> None:
        if n_theta not in (2, 3):
            raise ValueError(f"n_theta: got {n_theta!r}; expected 2 (f_W, f_Wt) or 3 (f_W, f_Wt, f_WW).")
        self.n_theta, self.names = n_theta, ("f_W", "f_Wt", "f_WW")[:n_theta]
        self.S = _SIGMA * torch.tensor(_S, dtype=torch.float64)[: n_theta + 1, : n_theta + 1]
        self.source = EventSource(n_theta + 1, torch.Generator().manual_seed(seed))

    def __repr__(self) -> str:
        return f"LHC(n_theta={self.n_theta})"

    def _powers(self, theta: Tensor) -> Tensor:
        """(1, theta)."""
        theta = torch.as_tensor(theta)
        if theta.shape[-1:] != (self.n_theta,):
            raise ValueError(
                f"theta: got shape {tuple(theta.shape)}; expected a last axis of {self.n_theta}: "
                f"{self.names}."
            )
        if not bool(theta.isfinite().all()):
            raise ValueError("theta: got a value that is not finite; expected finite numbers.")
        theta = theta.to(torch.float64)
        return torch.cat([torch.ones_like(theta[..., :1]), theta], -1)

    # Drawing

    def prior(self, n: int) -> Tensor:
        """n draws of theta from N(0, I); (n, k)."""
        return torch.randn(n, self.n_theta, generator=self.source.generator, dtype=torch.float64)

    def pool(self, n: int, *, progress: bool = False) -> LHCEvents:
        r"""n events from :math:`b\,\mathrm{tr}A/\mathrm{tr}S`, a mixture over theta that covers every
        theta."""
        return self._collect(n, lambda draw: draw, progress)

    def simulate(self, theta: Tensor, n: int | None = None, *, progress: bool = False) -> LHCEvents:
        """Draws from p(y, assignment | theta).

        :param theta: shape (k,), with n events of it (default 1); or (n, k), with one event for each row.
        :param progress: show a progress bar.
        """
        tt = self._powers(theta)
        if tt.dim() == 1:

            def keep(draw: Weighted) -> Weighted:
                return draw.take(self._accepted(draw, tt).nonzero()[:, 0])

            return self._collect(1 if n is None else n, keep, progress, tt[1:])
        if tt.dim() != 2 or n not in (None, len(tt)):
            raise ValueError(
                f"theta: got shape {tuple(theta.shape)} with n={n}; expected ({self.n_theta},) with n, or "
                f"(n, {self.n_theta})."
            )
        y, swapped = torch.empty(len(tt), 14, dtype=torch.float64), torch.empty(len(tt), dtype=torch.bool)
        todo = torch.arange(len(tt))
        with tqdm(total=len(tt), disable=not progress, unit="event", dynamic_ncols=True) as bar:
            idle = 0
            while (
                len(todo) and idle < _PATIENCE
            ):  # accepts with probability at least lambda_min(S) / tr(S), about a tenth
                draw = self.source.draw()
                slot = torch.arange(len(draw.weight)) % len(todo)
                hit = self._accepted(draw, tt[todo[slot]]).nonzero()[:, 0]
                first = torch.full((len(todo),), len(slot)).scatter_reduce_(0, slot[hit], hit, "amin")
                done = first < len(slot)
                y[todo[done]], swapped[todo[done]] = draw.take(first[done]).events(self.source.generator)
                todo = todo[~done]
                idle = 0 if bool(done.any()) else idle + 1
                bar.update(int(done.sum()))
        if len(todo):
            raise _nothing(tt[todo[0], 1:])
        return LHCEvents(y, swapped)

    def _accepted(self, draw: Weighted, tt: Tensor) -> Tensor:
        m = draw.amplitude
        weight = (m * tt.reshape(-1, self.n_theta + 1).mT).sum(1).square().sum(0)
        bound = m.square().sum((0, 1)) * tt.square().sum(-1)
        return torch.rand(weight.shape, generator=self.source.generator, dtype=weight.dtype) * bound < weight

    def _collect(
        self, n: int, keep: Callable[[Weighted], Weighted], progress: bool, theta: Tensor | None = None
    ) -> LHCEvents:
        if n < 1:
            raise ValueError(f"n: got {n}; expected at least one event.")
        parts: list[LHCEvents] = []
        left = n
        with tqdm(total=n, disable=not progress, unit="event", dynamic_ncols=True) as bar:
            idle = 0
            while left > 0 and idle < _PATIENCE:
                events = keep(self.source.draw()).events(self.source.generator)
                parts.append(LHCEvents(events.y[:left], events.swapped[:left]))
                left -= len(parts[-1].y)
                idle = 0 if len(parts[-1].y) else idle + 1
                bar.update(len(parts[-1].y))
        if left > 0:
            raise _nothing(theta)
        return LHCEvents(torch.cat([p.y for p in parts]), torch.cat([p.swapped for p in parts]))

    # Densities

    def matrix(self, y: Tensor, swapped: Tensor | None = None) -> Tensor:
        r"""A, (n, k + 1, k + 1): of the assignment ``swapped``, or summed over both where none is given.

        With it :math:`p(y\mid\theta) \propto
        \tilde\theta^TA\,\tilde\theta\,/\,\tilde\theta^TS\,\tilde\theta`; it is all that inference of theta
        needs to know about an event.
        """
        a1, a2, j1, j2 = ps.four_vectors(y.to(torch.float64))
        pairs = [(j1, j2), (j2, j1)]
        if swapped is not None:
            pairs = [(torch.where(swapped, j2, j1), torch.where(swapped, j1, j2))]
        out = []
        for ja, jb in pairs:
            m = amplitudes_of(a1, a2, ja, jb)[:, : self.n_theta + 1]
            out.append(torch.einsum("ra...,rb...->...ab", m, m))
        return sum(out[1:], start=out[0])

    def log_prob(self, x: Tensor, theta: Tensor, *, tolerance: float = 1e-6) -> Tensor:
        """log p(x | theta); -inf for an x that differs from the nearest event by more than ``tolerance``
        (standard deviations of the observables), or lies outside the cuts.

        :param x: standardised observables, (..., 40).
        :param theta: broadcasts against the batch shape of x, with a last axis of k.
        :raises ValueError: for an x that is not finite, naming its row.
        """
        x = x.to(torch.float64)
        check_all(x.isfinite().all(-1), "x", x, "finite observables", "Drop or repair that row.")
        y = inverse(x)
        vectors = ps.four_vectors(y)
        on = ((observables(y) - x).abs().amax(-1) <= tolerance) & ps.inside_cuts(*vectors)
        for p, q in (vectors[:2], vectors[2:]):
            on = on & (torch.hypot(p[1], p[2]) >= torch.hypot(q[1], q[2]))
        out = torch.full(on.shape, -math.inf, dtype=torch.float64, device=x.device)
        y = y[on]
        out[on] = ps.log_base(*ps.four_vectors(y)) + math.log(2.0) - log_volume(y)
        a = torch.zeros(*on.shape, *self.S.shape, dtype=x.dtype, device=x.device)
        a[on] = self.matrix(y)
        a[~on] = torch.eye(len(self.S), dtype=x.dtype, device=x.device)
        return out + self._log_ratio(a, self._powers(theta))

    def _log_ratio(self, a: Tensor, tt: Tensor) -> Tensor:
        def form(m: Tensor) -> Tensor:
            return torch.einsum("...a,...ab,...b->...", tt, m, tt)

        return form(a).log() - form(self.S.to(a.device)).log()

    def log_likelihood(self, theta: Tensor, y: Tensor) -> Tensor:
        """log p(events | theta) - log p(events | 0) of independent events y, (n, 14), at each theta of shape
        (..., k).

        Differentiable in theta. To use the same events many times, call :meth:`likelihood` once.
        """
        return self.likelihood(y)(theta)

    def likelihood(self, y: Tensor) -> Callable[[Tensor], Tensor]:
        """The function theta -> :meth:`log_likelihood` of fixed events, which are reduced to their matrices
        here."""
        a = self.matrix(y).reshape(-1, len(self.S) ** 2)
        a = (a / a[:, :1]).T.contiguous()
        s = self.S.to(a.device).flatten() / self.S[0, 0]
        n = a.shape[1]

        def log_likelihood(theta: Tensor) -> Tensor:
            tt = self._powers(theta)
            pairs = (tt.unsqueeze(-1) * tt.unsqueeze(-2)).flatten(-2)
            shape, pairs = pairs.shape[:-1], pairs.reshape(-1, len(s))
            sums = [(p @ a).log().sum(-1) - n * (p @ s).log() for p in pairs.split(max(1, _AT_ONCE // n))]
            return torch.cat(sums).reshape(shape)

        return log_likelihood

    def _score(self, a: Tensor, theta: Tensor) -> Tensor:
        tt = self._powers(theta)

        def half(m: Tensor) -> Tensor:
            mt = torch.einsum("...ab,...b->...a", m, tt)
            return mt / (mt * tt).sum(-1, keepdim=True)

        return 2 * (half(a) - half(self.S))[..., 1:]

    def score(self, y: Tensor, theta: Tensor) -> Tensor:
        """Gradient of log p(x | theta) in theta; (n, k)."""
        return self._score(self.matrix(y), theta)

    def joint_score(self, events: LHCEvents, theta: Tensor) -> Tensor:
        r"""Gradient of log p(x, assignment | theta), :math:`2A\tilde\theta/\tilde\theta^TA\tilde\theta -
        2S\tilde\theta/\tilde\theta^TS\tilde\theta`; (n, k). Its mean over the assignments of an event is the
        score."""
        return self._score(self.matrix(events.y, events.swapped), theta)

    def joint_ratio(self, events: LHCEvents, theta0: Tensor, theta1: Tensor) -> Tensor:
        """p(x, assignment | theta0) / p(x, assignment | theta1); (n,)."""
        a = self.matrix(events.y, events.swapped)
        return (self._log_ratio(a, self._powers(theta0)) - self._log_ratio(a, self._powers(theta1))).exp()
