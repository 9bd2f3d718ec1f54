"""How the scales of a system are learned during warm-up; the schedule and the step size are Pyro's."""

from typing import Any

import torch
from torch import Tensor

from .systems import System

__all__ = ["ScaleAdapter"]


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
        flat = []
        for s in system.sites:
            x = z[s.name]
            if s.geometry is None:
                flat.append(x.reshape(n, -1))
                continue
            if s.geometry.in_linear_space and s.geometry.injectivity_radius(s.shape) != torch.inf:
                d2 = (x - x[order]).square().reshape(n, -1).sum(-1)
            else:
                d2 = s.geometry.dist(x, x[order]).square().reshape(n, -1).sum(-1)
            variance = 0.5 * float(d2.mean()) / s.size
            system.scale[s.name] = (shrink * variance + floor) ** 0.5
        if flat:
            x = torch.cat(flat, -1)
            if self.dense:
                cov = shrink * torch.cov(x.T).reshape(x.shape[-1], -1)
                eye = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
                system.flat_scale = torch.linalg.cholesky(cov + floor * eye)
            else:
                system.flat_scale = (shrink * x.var(0) + floor).sqrt()
