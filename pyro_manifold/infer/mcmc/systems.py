r"""What the dynamics are: positions on a product of manifolds, momenta whose length is Euclidean.

With U the potential and :math:`s_i` the scale of site i, the Hamiltonian and its two exact flows are

.. math::
    H(z, w) = U(z) + \tfrac12 |w|^2, \qquad
    \Phi_1(\epsilon): w \leftarrow w - \epsilon\, s \nabla U(z), \qquad
    \Phi_2(\epsilon): \text{geodesic from } z \text{ with velocity } s\,w \text{ for time } \epsilon,

where w holds the momenta of every site side by side (:mod:`.momentum`), so :math:`w \sim \mathcal N(0, I)` on
the tangent space whatever the metric. A scalar scale per manifold site only rescales its time and keeps the
flow exact; the Euclidean sites share a diagonal or dense block. [1] Byrne & Girolami, *Geodesic Monte Carlo
on embedded manifolds*, 2013, alg. 1.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro.ops.integrator import _EXCEPTION_HANDLERS
from torch import Tensor

from ...geometry import Geometry
from .momentum import MomentumCoordinates, momentum_coordinates

__all__ = ["Site", "State", "System", "rows"]

Positions = dict[str, Tensor]


def rows(x: Tensor) -> Tensor:
    """All axes but the first as one, of scalars and empty arrays too."""
    return x.reshape(x.shape[0], x.shape[1:].numel())


@dataclass(frozen=True)
class Site:
    """One latent: its geometry (``None``: an unconstrained Euclidean array), its shape and where its numbers
    are."""

    name: str
    geometry: Geometry | None
    momentum: MomentumCoordinates | None
    shape: torch.Size  # of one chain's value
    at: int  # first column of its value in a row of positions
    start: int  # first column of its momentum
    size: int  # number of momentum coordinates
    dim: int  # number of degrees of freedom

    @property
    def slice(self) -> slice:
        return slice(self.start, self.start + self.size)

    @property
    def points(self) -> torch.Size:
        """Batch shape of the manifold points in one chain's value."""
        assert self.geometry is not None
        return self.shape[: len(self.shape) - self.geometry.event_dim]


class State:
    """One row per chain: position, momentum, gradient in momentum coordinates (unscaled), potential; side by
    side in a table."""

    def __init__(self, system: "System", table: Tensor) -> None:
        self.system, self.table = system, table

    @property
    def z(self) -> Positions:
        n = self.table.shape[0]
        return {
            s.name: self.table[:, s.at : s.at + s.shape.numel()].reshape((n,) + s.shape)
            for s in self.system.sites
        }

    @property
    def w(self) -> Tensor:
        a = self.system.width
        return self.table[:, a : a + self.system.size]

    @property
    def grad(self) -> Tensor:
        return self.table[:, self.system.width + self.system.size : -1]

    @property
    def potential(self) -> Tensor:
        return self.table[:, -1]

    def energy(self) -> Tensor:
        return self.potential + 0.5 * self.w.square().sum(-1)

    def with_momentum(self, w: Tensor) -> "State":
        a = self.system.width
        return State(
            self.system, torch.cat([self.table[:, :a], w, self.table[:, a + self.system.size :]], -1)
        )

    def take(self, index: Tensor) -> "State":
        return State(self.system, self.table[index])

    def where(self, mask: Tensor, other: "State") -> "State":
        """Rows of this state where ``mask``, else the other's."""
        return State(self.system, torch.where(mask.unsqueeze(-1), self.table, other.table))

    def clone(self) -> "State":
        return State(self.system, self.table.clone())


class System:
    """Potential, scales and the two flows.

    :param potential: from positions of shape ``(chains,) + shape`` to ``(chains,)``.
    :param dict geometries: site name -> geometry; sites that are absent are Euclidean.
    :param dict shapes: site name -> shape of one chain's value, in the order of the momentum's coordinates.
    """

    def __init__(
        self,
        potential: Callable[[Positions], Tensor],
        geometries: Mapping[str, Geometry],
        shapes: Mapping[str, torch.Size],
    ) -> None:
        self.potential = potential
        self.sites: list[Site] = []
        at = start = 0
        for name in sorted(
            shapes, key=lambda k: (k not in geometries, k)
        ):  # manifold sites first, then one flat block
            geo, shape = geometries.get(name), torch.Size(shapes[name])
            move, size = None, shape.numel()
            dim = size
            if geo is not None:
                move, cut = momentum_coordinates(geo), len(shape) - geo.event_dim
                dim = shape[:cut].numel() * geo.dim(shape[cut:])
                size = shape[:cut].numel() * move.size(shape[cut:])
            self.sites.append(Site(name, geo, move, shape, at, start, size, dim))
            at, start = at + shape.numel(), start + size
        self.width, self.size = at, start  # numbers in a row of positions, of momenta
        self.flat = sum(s.size for s in self.sites if s.geometry is None)  # the last ``flat`` coordinates
        self.scale: dict[str, float] = {s.name: 1.0 for s in self.sites if s.geometry is not None}
        self.flat_scale: Tensor | None = (
            None  # None, a vector of standard deviations, or a Cholesky factor of a covariance
        )
        self._factors: Tensor | None = None
        self.may_refuse = any(s.momentum is not None and s.momentum.may_refuse for s in self.sites)
        self.compiled: Any = None  # a CompiledStep that takes steps for this system

    # --- scales ---------------------------------------------------------------------------------------------
    def rescale(self, scale: Mapping[str, float], flat_scale: Tensor | None = None) -> None:
        self.scale.update({k: float(v) for k, v in scale.items()})
        self.flat_scale = self.flat_scale if flat_scale is None else flat_scale
        self._factors = None

    def log_scales(self) -> Tensor:
        """Logs of the scales, one for each degree of freedom (of a dense block, of its diagonal)."""
        parts = [
            torch.full((s.dim,), math.log(self.scale[s.name])) for s in self.sites if s.geometry is not None
        ]
        flat = torch.ones(self.flat) if self.flat_scale is None else self.flat_scale
        flat = flat.diagonal() if flat.dim() == 2 else flat
        return torch.cat([*parts, flat.detach().cpu().log()])

    def factors(self, x: Tensor) -> Tensor:
        """The scale of each momentum, for numbers like x; 1 in a dense block."""
        if self._factors is None or self._factors.dtype != x.dtype or self._factors.device != x.device:
            parts = [x.new_full((s.size,), self.scale[s.name]) for s in self.sites if s.geometry is not None]
            diagonal = self.flat_scale is not None and self.flat_scale.dim() == 1
            parts.append(self.flat_scale.to(x) if diagonal else x.new_ones(self.flat))  # type: ignore[union-attr]
            self._factors = torch.cat(parts)
        return self._factors

    def scaled(self, x: Tensor, transpose: bool = False) -> Tensor:
        """``s x``: momentum to velocity; with ``transpose`` gradient to force."""
        x = x * self.factors(x)
        if self.flat_scale is not None and self.flat_scale.dim() == 2:
            cut, factor = self.size - self.flat, self.flat_scale
            x = torch.cat([x[:, :cut], x[:, cut:] @ (factor if transpose else factor.mT)], -1)
        return x

    # --- potential and flows --------------------------------------------------------------------------------
    def _points(self, s: Site, c: Tensor) -> Tensor:
        """Momentum coordinates of one site with the axes of its plates."""
        if not s.points:
            return c
        assert s.momentum is not None
        return c.reshape((c.shape[0],) + s.points + (s.momentum.size(s.shape[len(s.points) :]),))

    def evaluate(self, z: Positions) -> tuple[Tensor, Tensor]:
        """Potential and its gradient in momentum coordinates; infinite for a chain whose matrices do not
        factorise."""
        try:
            return self._evaluate(z) if self.compiled is None else self.compiled.evaluate(z)
        except (RuntimeError, ValueError) as error:
            if not isinstance(error, torch.linalg.LinAlgError) and not any(
                h(error) for h in _EXCEPTION_HANDLERS.values()
            ):
                raise
        like = next(iter(z.values()))
        n = like.shape[0]
        if n == 1:
            return like.new_full((1,), torch.inf), like.new_zeros(1, self.size)
        rows = [self.evaluate({k: v[i : i + 1] for k, v in z.items()}) for i in range(n)]
        return torch.cat([u for u, _ in rows]), torch.cat([g for _, g in rows])

    def _evaluate(self, z: Positions) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            leaves = [z[s.name].detach().requires_grad_() for s in self.sites]
            u = self.potential({s.name: x for s, x in zip(self.sites, leaves, strict=True)})
            grads: tuple[Tensor | None, ...] = (None,) * len(
                leaves
            )  # of a constant, as uniform distributions have
            if u.requires_grad:
                grads = torch.autograd.grad(u.sum(), leaves, allow_unused=True)
        parts, n = [], leaves[0].shape[0]
        for s, x, g in zip(self.sites, leaves, grads, strict=True):
            if g is None:
                parts.append(x.new_zeros(n, s.size))
            else:
                parts.append(
                    (g if s.momentum is None else s.momentum.force(x.detach(), g)).reshape(n, s.size)
                )
        return u.detach(), parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def pack(self, z: Positions, w: Tensor, potential: Tensor, grad: Tensor) -> State:
        n = w.shape[0]
        parts = [rows(z[s.name]) for s in self.sites]
        return State(self, torch.cat([*parts, w, grad, potential.reshape(n, 1)], -1))

    def state(self, z: Positions, w: Tensor | None = None) -> State:
        """The state at ``z``, by default at rest."""
        u, grad = self.evaluate(z)
        return self.pack(z, torch.zeros_like(grad) if w is None else w, u, grad)

    def draw(self, z: Positions, noise: Tensor | None = None) -> Tensor:
        """Standard normal momenta at ``z``."""
        like = next(iter(z.values()))
        noise = (
            torch.randn(like.shape[0], self.size, dtype=like.dtype, device=like.device)
            if noise is None
            else noise
        )
        parts = []
        for s in self.sites:
            c = noise[:, s.slice]
            parts.append(
                c if s.momentum is None else s.momentum.draw(z[s.name], self._points(s, c)).reshape(c.shape)
            )
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def kick(self, w: Tensor, grad: Tensor, step: Tensor | float) -> Tensor:
        """Momentum after the potential's flow."""
        return w - step * self.scaled(grad, transpose=True)

    @torch.no_grad()
    def drift(
        self, z: Positions, w: Tensor, step: Tensor, chains: Tensor | None = None
    ) -> tuple[Positions, Tensor]:
        """Exact geodesic flow for time ``step`` (one for each row): new positions, transported momenta. The rows
        are all chains, or ``chains``."""
        out, parts, flat = {}, [], None
        for s in self.sites:
            x, c = z[s.name], w[:, s.slice]
            if s.momentum is None:
                if flat is None:
                    flat = step * self.scaled(w)
                out[s.name] = x + flat[:, s.slice].reshape(x.shape)
            else:
                t = (step * self.scale[s.name]).reshape((-1,) + (1,) * (len(s.points) + 1))
                p = self._points(s, c)
                if s.points:
                    t = t.expand(p.shape[:-1] + (1,))
                s.momentum.chains = chains
                out[s.name], c = s.momentum.flow(x, p, t)
                c = rows(c)
            parts.append(c)
        return out, parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def direction(self, state: State) -> Tensor:
        """Momenta as vectors of one fixed space, so that those at different points can be added and
        compared."""
        z, w, parts = state.z, state.w, []
        for s in self.sites:
            c = w[:, s.slice]
            if s.momentum is not None:
                c = s.momentum.direction(z[s.name], self._points(s, c)).flatten(1)
            parts.append(c)
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    @torch.no_grad()
    def project(self, z: Positions) -> Positions:
        """Positions with rounding drift removed, after long runs."""
        geo = {s.name: s.geometry for s in self.sites if s.geometry is not None}
        return {k: geo[k].project(v) if k in geo else v for k, v in z.items()}

    def step_cap(self) -> float:
        """Largest step at which a typical momentum stays within 2/3 of every injectivity radius."""
        caps = [float("inf")]
        for s in self.sites:
            if s.geometry is not None and s.momentum is not None:
                r = s.momentum.radius(s.shape[len(s.shape) - s.geometry.event_dim :])
                d = s.dim / max(1, s.points.numel())
                caps.append(2 / 3 * r / (d**0.5 + 2) / self.scale[s.name])
        return min(caps)
