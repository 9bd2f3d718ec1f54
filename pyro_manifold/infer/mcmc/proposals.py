r"""Independence proposals: the value of one site is proposed anew, whatever it is now, and the others are held.

.. math::
    x' \sim q, \qquad \alpha = \min\Big(1,\; \frac{\pi(x' \mid r)\, q(x)}{\pi(x \mid r)\, q(x')}\Big)

r are the other sites. Metropolis-Hastings [1] leaves the density :math:`\pi` invariant for any q, and where q has
mass at every mode the modes get their weights, however far apart they are, where paths of HMC and NUTS do not
cross between them. The nearer q is to the conditional density, the more draws are accepted; all of them, if it is
that density.

Both densities are with respect to the same measure: Riemannian volume on manifolds, Lebesgue measure for ordinary
sites, whose unconstrained coordinates z = t(x) have the density :math:`q(x)\,|\partial x/\partial z|`.

[1] Hastings, *Monte Carlo sampling methods using Markov chains*, Biometrika 57 (1970); Tierney, *Markov chains
for exploring posterior distributions*, Annals of Statistics 22 (1994), sec. 2.3.2 (independence chains).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Transform

from .systems import State, System, rows

__all__ = ["IndependenceProposal", "proposals_of"]

_NEEDED = ("sample", "log_prob", "event_shape", "batch_shape")


def proposals_of(name: str, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """The distributions by site.

    :raises ValueError: for what is no distribution with draws and a density.
    """
    if given is not None and not isinstance(given, Mapping):
        raise ValueError(
            f"{name}: got {type(given).__name__}, expected a dict from site names to distributions."
        )
    for site, q in (given or {}).items():
        lacking = [x for x in _NEEDED if not hasattr(q, x)]
        if lacking or isinstance(q, type):
            raise ValueError(
                f"{name}: got {q!r} for {site!r}, expected a distribution with {', '.join(_NEEDED)} "
                f"(missing: {', '.join(lacking) or 'an instance'}), such as a mixture of VonMisesFisher."
            )
    return dict(given or {})


class IndependenceProposal:
    r"""The move of one site by draws of ``q``, for all chains in lockstep.

    :param str name: the site.
    :param q: a distribution of the site's whole value; or of one point of a site in a plate, of which then one,
        drawn at random, is moved (all of them would hardly be accepted).
    :param Tensor z: the site's values, one row per chain.
    :param Transform transform: from the site's support to the space that is sampled.
    :param support: the site's support, in which other draws are rejected.
    :raises ValueError: if shape, dtype or support of the draws are not those of the site, or their density is
        not finite.
    """

    def __init__(self, name: str, q: Any, z: Tensor, transform: Transform, support: Any) -> None:
        self.name, self.q, self.transform, self.support = name, q, transform, support
        x = transform.inv(z)
        shape, event, batch = x.shape[1:], torch.Size(q.event_shape), torch.Size(q.batch_shape)
        cut = len(shape) - len(event)
        self.points = shape[: max(cut, 0)]
        lead = len(self.points) - len(batch)
        if len(event) < support.event_dim or shape[cut:] != event or lead < 0 or self.points[lead:] != batch:
            raise ValueError(
                f"proposals: got event shape {tuple(event)} and batch shape {tuple(batch)} for {name!r}, whose "
                f"values have shape {tuple(shape)}; expected a distribution of such values, or of one point of "
                "them."
            )
        self.lead = x.shape[:1] + self.points[:lead]
        draw, _ = self._draw()
        for what in ("dtype", "device"):
            if getattr(draw, what) != getattr(x, what):
                raise ValueError(
                    f"proposals: got draws of {what} {getattr(draw, what)} for {name!r}, expected "
                    f"{getattr(x, what)}; give its parameters that {what}."
                )
        if not bool(support.check(draw).any()):
            raise ValueError(
                f"proposals: got draws for {name!r} that lie outside {support}, expected draws on the site's "
                "support; give a distribution there."
            )
        self._log_q(x, draw)

    def _draw(self) -> tuple[Tensor, Tensor]:
        """A value of the site for each chain, and the log densities of its points."""
        draw = self.q.sample(self.lead).detach()
        log_q = self._log_q(draw, draw)
        if not bool(log_q.isfinite().all()):
            raise ValueError(
                f"proposals: the log density for {self.name!r} is {float(log_q[~log_q.isfinite()][0])} at a draw of "
                "its own, expected a finite number; check its log_prob, or take float64."
            )
        return draw, log_q

    def _log_q(self, x: Tensor, draw: Tensor) -> Tensor:
        """Log density at the points of x, -inf at those outside the support of q."""
        ok = self._within(x)
        if ok is None:
            log_q = self.q.log_prob(x).detach()
        else:
            log_q = self.q.log_prob(torch.where(ok.reshape(ok.shape + (1,) * (x.dim() - ok.dim())), x, draw))
            log_q = torch.where(ok, log_q.detach(), -torch.inf)
        wanted = x.shape[:1] + self.points
        if log_q.shape != wanted:
            raise ValueError(
                f"proposals: got log_prob of shape {tuple(log_q.shape)} for {self.name!r}, expected "
                f"{tuple(wanted)}: one number for each value of shape {tuple(self.q.event_shape)}."
            )
        if bool((log_q.isnan() | (log_q == torch.inf)).any()):
            raise ValueError(
                f"proposals: the log density for {self.name!r} is NaN or infinite at a value of the chain, "
                "expected a finite number, or -inf where it has no mass; check its log_prob."
            )
        return log_q

    def _within(self, x: Tensor) -> Tensor | None:
        """Which points of x lie in the support of q; None if all do, or if it does not say."""
        support = getattr(self.q, "support", None)
        ok = torch.ones(()) if support is None else support.check(x)
        return None if bool(ok.all()) else ok

    def move(self, system: System, state: State) -> tuple[State, Tensor]:
        """The new state and the probability of its acceptance, per chain; one gradient each."""
        z = state.z
        x = self.transform.inv(z[self.name])
        draw, ahead = self._draw()
        back = self._log_q(x, draw)
        inside = rows(self.support.check(draw).reshape(len(x), -1)).all(-1)
        picked = self._picked(x)
        events = picked.reshape(picked.shape + (1,) * (x.dim() - picked.dim()))
        new = torch.where(events & inside.reshape((-1,) + (1,) * (x.dim() - 1)), draw, x)
        at = self.transform(new)
        log_q = rows(torch.where(picked, back - ahead, 0.0)).sum(-1)
        volume = rows(self.transform.log_abs_det_jacobian(new, at)).sum(-1)
        volume = volume - rows(self.transform.log_abs_det_jacobian(x, z[self.name])).sum(-1)
        proposed = system.state({**z, self.name: at})
        log_ratio = state.potential - proposed.potential + log_q + volume
        good = inside & proposed.potential.isfinite() & proposed.grad.isfinite().all(-1)
        log_ratio = torch.where(good, log_ratio, -torch.inf)
        accept = torch.rand_like(log_ratio).log() < log_ratio
        return proposed.where(accept, state), log_ratio.exp().clamp(max=1.0)

    def _picked(self, x: Tensor) -> Tensor:
        """The points that are moved: one of each chain."""
        n, k = len(x), self.points.numel()
        column = torch.randint(max(k, 1), (n, 1), device=x.device)
        return (column == torch.arange(k, device=x.device)).reshape((n,) + self.points)
