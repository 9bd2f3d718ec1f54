"""What the checks share: Jacobians in orthonormal frames, random points, tolerances."""

import math
from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions import constraints
from torch import Tensor

from ..constraints import image, manifold_of, polar
from ..geometry import Geometry, geometry


def tolerance(x: Tensor, factor: float = 1.0) -> float:
    """``factor`` times the square root of eps in float32, 1e-10 in float64."""
    return factor * (1e-10 if x.dtype == torch.float64 else 3e-4)


def close(actual: Tensor, expected: Tensor, what: str, factor: float = 1.0) -> None:
    """Assert equality to :func:`tolerance`, relative and absolute, and say of what."""
    tol = tolerance(actual, factor)
    torch.testing.assert_close(actual, expected, rtol=tol, atol=tol, msg=lambda m: f"{what}: {m}")


def finite(x: Tensor, what: str) -> None:
    """Assert that no element is NaN or infinite."""
    bad = ~x.isfinite()
    assert not bool(bad.any()), f"{what}: {int(bad.sum())} of {bad.numel()} elements are not finite"


@torch.enable_grad()
def batch_jacobian(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Jacobian of a map that acts on each element of a batch, ``(n, outputs, inputs)``, events flattened."""
    x = x.detach().requires_grad_()
    y = f(x).flatten(1)
    rows = [
        torch.autograd.grad(y[:, i].sum(), x, retain_graph=True, allow_unused=True)[0]
        for i in range(y.shape[1])
    ]
    return torch.stack([torch.zeros_like(x) if r is None else r for r in rows], 1).flatten(2).detach()


def random_tangent(geo: Geometry, dim: int, n: int, like: Tensor, spread: float = 1.0) -> Tensor:
    """Normal frame vectors, cut to 0.9 of the injectivity radius so that :meth:`Geometry.log` inverts ``exp``
    on them."""
    v = spread * torch.randn(n, dim, dtype=like.dtype, device=like.device)
    reach = float(geo.injectivity_radius(geo.point_shape(dim))) if geo.has_log else math.inf
    if math.isinf(reach):
        return v
    r = v.norm(dim=-1, keepdim=True)
    return v * (0.9 * reach / r).clamp_max(1.0)


def random_points(geo: Geometry, dim: int, n: int, like: Tensor, spread: float = 1.0) -> Tensor:
    """The origin, and points at the tips of :func:`random_tangent` from it."""
    origin = geo.origin(dim, dtype=like.dtype, device=like.device)
    v = random_tangent(geo, dim, n, like, spread)
    v[0] = 0.0
    return geo.exp_frame(origin.expand((n,) + origin.shape), v)


def frame(constraint: Any, x: Tensor) -> Tensor:
    """Orthonormal basis of the tangent space at ``x`` of what a constraint describes, a point or a field of
    points: ``(n, dim, ambient)``."""
    if constraint is polar:
        sphere = frame(constraints.sphere, x[..., 1:])
        sphere = torch.nn.functional.pad(sphere, (1, 0))
        radial = torch.nn.functional.pad(torch.ones_like(x[..., :1]), (0, x.shape[-1] - 1))
        return torch.cat([radial.unsqueeze(-2), sphere], -2)
    manifold = manifold_of(constraint)
    if isinstance(constraint, type(constraints.positive_definite)):  # Lebesgue measure of the entries i <= j
        i, j = torch.triu_indices(*x.shape[-2:])
        basis = x.new_zeros(len(i), *x.shape[-2:])
        basis[torch.arange(len(i)), i, j] = basis[torch.arange(len(i)), j, i] = 1.0
        return basis.flatten(1).expand(len(x), -1, -1)
    if manifold is None:
        n = x[0].numel()
        return torch.eye(n, dtype=x.dtype, device=x.device).expand(len(x), n, n)
    geo = geometry(manifold)
    d = geo.dim(x.shape[x.dim() - geo.event_dim :])
    field = x.shape[1 : x.dim() - geo.event_dim]
    n = field.numel() * d
    basis = torch.eye(n, dtype=x.dtype, device=x.device).reshape(n, *field, d)
    return torch.stack([geo.to_tangent(x, e.expand(len(x), *e.shape)).flatten(1) for e in basis], 1)


def to_frame(constraint: Any, y: Tensor, u: Tensor) -> Tensor:
    """Coordinates in :func:`frame` of the ambient tangent vectors ``u``, ``(n, ambient, k)``, at ``y``:
    ``(n, dim, k)``."""
    manifold = manifold_of(constraint)
    if constraint is polar or manifold is None:
        return frame(constraint, y) @ u
    geo = geometry(manifold)
    return torch.stack([geo.from_tangent(y, c.reshape(y.shape)).flatten(1) for c in u.unbind(-1)], -1)


def log_volume_change(f: Callable[[Tensor], Tensor], domain: Any, codomain: Any, x: Tensor) -> Tensor:
    """Log of the Riemannian volume change of ``f`` at each ``x``, by automatic differentiation."""
    jacobian = batch_jacobian(f, x) @ frame(domain, x).mT
    y = f(x).detach()
    if codomain is None or isinstance(codomain, image):  # in Euclidean space
        return 0.5 * torch.logdet(jacobian.mT @ jacobian)
    return torch.linalg.slogdet(to_frame(codomain, y, jacobian)).logabsdet
