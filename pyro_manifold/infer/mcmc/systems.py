r"""What the dynamics are: positions on a product of manifolds, momenta in orthonormal frames.

With U the potential and :math:`s_i` the scale of site i, the Hamiltonian and its two exact flows are

.. math::
    H(z, w) = U(z) + \tfrac12 |w|^2, \qquad
    \Phi_1(\epsilon): w \leftarrow w - \epsilon\, s \nabla U(z), \qquad
    \Phi_2(\epsilon): \text{geodesic from } z \text{ with velocity } s\,w \text{ for time } \epsilon,

where :math:`w \in \mathbb R^D` holds frame coordinates of every site side by side, so :math:`w \sim \mathcal N(0, I)`
whatever the metric. A scalar scale per manifold site only rescales its time and keeps the flow exact; the Euclidean sites
share a diagonal or dense block. [1] Byrne & Girolami, *Geodesic Monte Carlo on embedded manifolds*, 2013, alg. 1.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...geometry import Geometry

__all__ = ["Site", "State", "System"]

Positions = dict[str, Tensor]


@dataclass(frozen=True)
class Site:
    """One latent: its geometry (``None``: an unconstrained Euclidean array), its shape and its slice of the momentum."""

    name: str
    geometry: Geometry | None
    shape: torch.Size  # of one chain's value
    start: int
    size: int  # number of momentum coordinates

    @property
    def slice(self) -> slice:
        return slice(self.start, self.start + self.size)

    @property
    def points(self) -> torch.Size:
        """Batch shape of the manifold points in one chain's value."""
        assert self.geometry is not None
        return self.shape[: len(self.shape) - self.geometry.event_dim]


@dataclass
class State:
    """Positions, momenta, potential and its gradient in frame coordinates (unscaled); the leading axis is the chains."""

    z: Positions
    w: Tensor
    potential: Tensor
    grad: Tensor

    def energy(self) -> Tensor:
        h = self.potential + 0.5 * self.w.square().sum(-1)
        return torch.where(h.isnan(), torch.inf, h)

    def take(self, index: Tensor) -> "State":
        return State({k: v[index] for k, v in self.z.items()}, self.w[index], self.potential[index], self.grad[index])

    def put(self, index: Tensor, other: "State", mask: Tensor | None = None) -> None:
        """Write the rows of ``other`` (those in ``mask``) at ``index``."""
        if mask is not None:
            index, other = index[mask], other.take(mask)
        for k, v in self.z.items():
            v[index] = other.z[k]
        self.w[index], self.potential[index], self.grad[index] = other.w, other.potential, other.grad

    def clone(self) -> "State":
        return State({k: v.clone() for k, v in self.z.items()}, self.w.clone(), self.potential.clone(), self.grad.clone())


class System:
    """Potential, scales and the two flows.

    :param potential: from positions of shape ``(chains,) + shape`` to ``(chains,)``.
    :param dict geometries: site name -> geometry; sites that are absent are Euclidean.
    :param dict shapes: site name -> shape of one chain's value, in the order of the momentum's coordinates.
    """

    def __init__(
        self, potential: Callable[[Positions], Tensor], geometries: dict[str, Geometry], shapes: dict[str, torch.Size]
    ) -> None:
        self.potential = potential
        self.sites: list[Site] = []
        at = 0
        for name in sorted(shapes, key=lambda k: (k not in geometries, k)):  # manifold sites first, then one flat block
            geo, shape = geometries.get(name), torch.Size(shapes[name])
            if geo is None:
                size = shape.numel()
            else:
                cut = len(shape) - geo.event_dim
                size = shape[:cut].numel() * geo.dim(shape[cut:])
            self.sites.append(Site(name, geo, shape, at, size))
            at += size
        self.dim = at
        self.flat = sum(s.size for s in self.sites if s.geometry is None)  # the last ``flat`` coordinates
        self.scale: dict[str, Tensor | float] = {s.name: 1.0 for s in self.sites if s.geometry is not None}
        self.flat_scale: Tensor | None = None  # None, a vector of standard deviations, or a Cholesky factor of a covariance

    # --- linear algebra of the scales --------------------------------------------------------------------------------
    def scaled(self, x: Tensor, transpose: bool = False) -> Tensor:
        """``s x``: momentum to velocity; with ``transpose`` gradient to force."""
        parts = [x[..., s.slice] * self.scale[s.name] for s in self.sites if s.geometry is not None]
        if self.flat:
            y = x[..., self.dim - self.flat :]
            if self.flat_scale is not None and self.flat_scale.dim() == 2:
                y = y @ (self.flat_scale if transpose else self.flat_scale.mT)
            elif self.flat_scale is not None:
                y = y * self.flat_scale
            parts.append(y)
        return torch.cat(parts, -1)

    # --- potential and flows -----------------------------------------------------------------------------------------
    def _move(self, z: Positions, v: Tensor, step: Callable[[Geometry, Tensor, Tensor], Tensor]) -> Positions:
        """Each site's value after ``step`` along the frame coordinates ``v`` (addition for Euclidean sites)."""
        out = {}
        for s in self.sites:
            x, d = z[s.name], v[..., s.slice]
            if s.geometry is None:
                out[s.name] = x + d.reshape(x.shape)
            else:
                out[s.name] = step(s.geometry, x, d.reshape(x.shape[:1] + s.points + (-1,)))
        return out

    def evaluate(self, z: Positions) -> tuple[Tensor, Tensor]:
        """Potential and its gradient in frame coordinates, by autodiff through a first-order retraction at zero."""
        like = next(iter(z.values()))
        v = like.new_zeros(like.shape[0], self.dim, requires_grad=True)
        with torch.enable_grad():
            moved = self._move(z, v, lambda g, x, d: x + g.to_tangent(x, d))
            u = self.potential(moved)
            (grad,) = torch.autograd.grad(u.sum() + 0.0 * v.sum(), v)
        return u.detach(), grad

    def state(self, z: Positions, w: Tensor) -> State:
        return State(z, w, *self.evaluate(z))

    def kick(self, state: State, step: Tensor | float) -> Tensor:
        """Momentum after the potential's flow."""
        return state.w - step * self.scaled(state.grad, transpose=True)

    @torch.no_grad()
    def drift(self, z: Positions, w: Tensor, step: Tensor) -> tuple[Positions, Tensor]:
        """Exact geodesic flow for time ``step`` (shape ``(chains, 1)``): new positions, transported momenta."""
        velocity, out, parts = self.scaled(w), {}, []
        for s in self.sites:
            x, d = z[s.name], velocity[..., s.slice]
            if s.geometry is None:
                out[s.name] = x + (step * d).reshape(x.shape)
                continue
            d = d.reshape(x.shape[:1] + s.points + (-1,))
            t = step.reshape((-1,) + (1,) * len(s.points)) * torch.ones(s.points, dtype=x.dtype, device=x.device)
            q, u = s.geometry.geodesic(x, s.geometry.to_tangent(x, d), t)
            out[s.name] = q
            parts.append(s.geometry.from_tangent(q, u).reshape(x.shape[0], -1) / self.scale[s.name])
        if self.flat:
            parts.append(w[..., self.dim - self.flat :])
        return out, torch.cat(parts, -1)

    def direction(self, state: State) -> Tensor:
        """Momenta as vectors of one fixed space, so that those at different points can be added and compared."""
        parts = []
        for s in self.sites:
            d = state.w[..., s.slice]
            if s.geometry is not None:
                x = state.z[s.name]
                u = s.geometry.embed_tangent(x, d.reshape(x.shape[:1] + s.points + (-1,)))
                d = u.reshape(x.shape[0], -1)
            parts.append(d)
        return torch.cat(parts, -1)

    def project(self, z: Positions) -> Positions:
        """Positions with rounding drift removed, after long runs."""
        geo = {s.name: s.geometry for s in self.sites if s.geometry is not None}
        return {k: geo[k].project(v) if k in geo else v for k, v in z.items()}

    def step_cap(self) -> float:
        """Largest step at which a typical momentum stays within 2/3 of every injectivity radius."""
        caps = [float("inf")]
        for s in self.sites:
            if s.geometry is not None:
                r = float(s.geometry.injectivity_radius(s.shape[len(s.shape) - s.geometry.event_dim :]))
                d = s.size / max(1, s.points.numel())
                caps.append(2 / 3 * r / (d**0.5 + 2) / float(self.scale[s.name]))
        return min(caps)
