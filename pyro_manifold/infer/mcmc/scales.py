r"""How wide each site is, from the draws of warm-up pooled over chains: what the dynamics are scaled by.

The variance per degree of freedom of a site's points x is

.. math:: v = \tfrac{1}{2d}\,\mathrm E\,|x - x'|^2

over pairs of draws: chordal where the manifold lies isometrically in a Euclidean space, else geodesic; per
coordinate (or a covariance) for the ordinary sites. Early draws, made before the chains have arrived, are
spread by their starts. With g the gradient of the potential, the mean square per degree of freedom of which
grows as much, the product :math:`r = v\,\mathrm E|g|^2 / d` says by how much: it is 1 for a normal density,
whatever the chains have seen of it. So the early estimate is

.. math:: s^2 = v / \sqrt{\max(1, r)},

and before the first draw, v = 1. (1 is a lower bound of r at stationarity on flat space, by Cramer and Rao;
less means that the density is flat.) The last estimate, from the last three quarters of the
draws of its window, is :math:`s^2 = v` over pairs of the same chain (of all, if each has fewer than 10): chains may
have settled in modes far apart, such as loadings of either sign, and the dynamics must fit one.

References: Seyboldt, nutpie, 2024 (the early estimate, for diagonal masses); Carpenter et al., Stan, 2017
(shrinkage).
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from .systems import Site, State, System, rows

__all__ = ["ScaleEstimate", "inverse_mass", "set_inverse_mass"]


class ScaleEstimate:
    """Collects the states of a window and sets the scales of their system.

    :param dense: a full covariance for the ordinary sites instead of variances.
    """

    def __init__(self, system: System, dense: bool) -> None:
        self.system, self.dense = system, dense
        self._states: list[Tensor] = []

    def add(self, state: State) -> None:
        self._states.append(state.table.clone())

    @torch.no_grad()
    def guess(self, state: State) -> None:
        """From the gradients where the chains start, as if the variances were 1; the scales do not grow."""
        system = self.system
        scale = {
            s.name: self._early(1.0, self._force(s, state.grad)) ** 0.5
            for s in system.sites
            if s.geometry and s.dim
        }
        flat = None
        if system.flat:
            force = state.grad[:, system.size - system.flat :].square().mean(0)
            flat = (1 / force.clamp(min=1).sqrt()).sqrt()
            flat = torch.diag(flat) if self.dense else flat
        system.rescale(scale, flat)

    @torch.no_grad()
    def apply(self, early: bool) -> bool:
        """Set the scales from the states added since the last call; no change (False) for fewer than 5."""
        states, self._states = self._states, []
        if not states:
            return False
        states = states if early else states[len(states) // 4 :]
        system, state = self.system, State(self.system, torch.cat(states))
        n, chains, z = len(state.table), len(states[0]), state.z
        if n < 5:
            return False
        shrink, floor = n / (n + 5.0), 1e-3 * 5.0 / (n + 5.0)
        order = torch.randperm(n, device=state.table.device)
        own = not early and len(states) >= 10  # fewer draws of a chain are too much alike
        if own:  # the other of a pair is a third of the draws later
            order = torch.arange(n, device=state.table.device).roll(chains * (len(states) // 3))
        scale: dict[str, float] = {}
        for s in system.sites:
            if s.geometry is None or not s.dim:
                continue
            assert s.momentum is not None
            x = z[s.name]
            s.momentum.centre(x)
            square = rows(s.geometry.chord(x, x[order]).square()).sum(-1)
            square = square[
                square.isfinite()
            ]  # of matrices that float32 cannot tell from singular ones it is not
            if not len(square):
                scale[s.name] = system.scale[s.name]
                continue
            v = float(square.mean()) / (2 * s.dim)
            v = self._early(v, self._force(s, state.grad)) if early else v
            scale[s.name] = (shrink * v + floor) ** 0.5
        together = chains if own else 1
        flat = self._flat_scale(state, together, shrink, floor, early) if system.flat else None
        system.rescale(scale, flat)
        return True

    def _flat_scale(self, state: State, chains: int, shrink: float, floor: float, early: bool) -> Tensor:
        """From the deviations of each of ``chains`` chains from its own mean."""
        system = self.system
        at = sum(s.shape.numel() for s in system.sites if s.geometry is not None)
        x, grad = state.table[:, at : system.width], state.grad[:, system.size - system.flat :]
        x = x.reshape(-1, chains, system.flat)
        x = (x - x.mean(0)).reshape(-1, system.flat)
        free = len(x) - chains
        var = x.square().sum(0) / free
        factor = (var * grad.square().mean(0)).clamp(min=1).pow(-0.25) if early else torch.ones_like(var)
        if not self.dense:
            return (shrink * var * factor.square() + floor).sqrt()
        cov = x.T @ x / free * factor * factor.unsqueeze(-1)
        return torch.linalg.cholesky(shrink * cov + floor * torch.eye(system.flat).to(cov))

    @staticmethod
    def _early(v: float, force: float) -> float:
        return v / max(1.0, v * force) ** 0.5

    @staticmethod
    def _force(s: Site, grad: Tensor) -> float:
        return float(grad[:, s.slice].square().sum(-1).mean()) / s.dim


def inverse_mass(system: System) -> dict[tuple[str, ...], Tensor]:
    """Squared scales by block: a number for each manifold site; variances or a covariance for the ordinary
    ones together."""
    out: dict[tuple[str, ...], Tensor]
    out = {(s.name,): torch.tensor(system.scale[s.name] ** 2) for s in system.sites if s.geometry is not None}
    ordinary = tuple(s.name for s in system.sites if s.geometry is None)
    if ordinary:
        scale = torch.ones(system.flat) if system.flat_scale is None else system.flat_scale
        out[ordinary] = scale.square() if scale.dim() == 1 else scale @ scale.mT
    return out


def set_inverse_mass(system: System, given: Mapping[tuple[str, ...], Tensor]) -> None:
    """
    :raises ValueError: for blocks that are not those of :func:`inverse_mass`, or of another size.
    """
    blocks = inverse_mass(system)
    scale, flat = {}, None
    for names, value in given.items():
        if names not in blocks:
            raise ValueError(
                f"inverse_mass_matrix: {names} is no block; those are {', '.join(map(str, blocks))}."
            )
        n = 1 if names[0] in system.scale else system.flat
        if value.shape not in ((n,), (n, n)) and not (n == 1 and value.numel() == 1):
            raise ValueError(
                f"inverse_mass_matrix: {names} got the shape {tuple(value.shape)}, expected "
                + (
                    "a number, the squared scale of the site."
                    if names[0] in system.scale
                    else f"({n},) or ({n}, {n})."
                )
            )
        if names[0] in system.scale:
            scale[names[0]] = float(value) ** 0.5
        else:
            flat = torch.linalg.cholesky(value) if value.dim() == 2 else value.reshape(n).sqrt()
    system.rescale(scale, flat)
