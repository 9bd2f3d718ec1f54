r"""The logarithm of Stiefel manifolds by shooting: Newton's method on

.. math:: \exp_p(v) = q

along a path from p to q.

Reference: Zimmermann & Hueper, SIAM J. Matrix Anal. 43 (2022).
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..ops.autograd import BatchFunction, save_tensors
from ..ops.numerics import norm
from ..ops.orthogonal import polar

if TYPE_CHECKING:
    from .stiefel import StiefelGeometry

__all__ = ["ShootingLog"]

_ATTEMPTS, _STAGES, _NEWTON = 4, 4, 12


class ShootingLog(BatchFunction):
    """Frame coordinates of log_p(q), found by shooting; the derivative is that of the implicit equation
    exp_p(v) = q."""

    ranks = (2, 2)

    @staticmethod
    def forward(p: Tensor, q: Tensor, geo: "StiefelGeometry") -> Tensor:
        return _shoot(geo, p, q)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, "StiefelGeometry"], output: Tensor) -> None:
        ctx.geo = inputs[2]
        save_tensors(ctx, *inputs[:2], output)

    @staticmethod
    def _miss(ctx: Any) -> tuple[Tensor, Callable[[Tensor, Tensor], Tensor]]:
        """The Jacobian of the left side, and the equation as a function of p and q at the v that solves
        it."""
        p, q, v = ctx.saved_tensors
        geo = ctx.geo
        return geo.jacobian(p, v), lambda p_, q_: geo.from_tangent(q, q_ - geo.exp_frame(p_, v))

    @staticmethod
    def jvp(ctx: Any, p_tangent: Tensor | None, q_tangent: Tensor | None, _: Any) -> Tensor:  # type: ignore[override]
        jacobian, miss = ShootingLog._miss(ctx)
        p, q, _ = ctx.saved_tensors
        moved = (
            torch.zeros_like(p) if p_tangent is None else p_tangent,
            torch.zeros_like(q) if q_tangent is None else q_tangent,
        )
        return torch.linalg.solve(jacobian, torch.func.jvp(miss, (p, q), moved)[1].unsqueeze(-1)).squeeze(-1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        jacobian, miss = ShootingLog._miss(ctx)
        force = torch.linalg.solve(jacobian.mT, grad.unsqueeze(-1)).squeeze(-1)
        p, q, _ = ctx.saved_tensors
        return (*torch.func.vjp(miss, p, q)[1](force), None)


@torch.no_grad()
def _shoot(geo: "StiefelGeometry", p: Tensor, q: Tensor) -> Tensor:
    """Newton along the projected chord from p to q; pairs that fail try again along chords bent to one
    side."""
    batch, eps = p.shape[:-2], torch.finfo(p.dtype).eps
    p, q = p.reshape((-1,) + p.shape[-2:]), q.reshape((-1,) + q.shape[-2:])
    out, todo = torch.zeros_like(geo.from_tangent(p, q)), torch.arange(len(p), device=p.device)
    ripple = torch.arange(p[0].numel(), dtype=p.dtype, device=p.device).reshape(p.shape[-2:])
    for attempt in range(_ATTEMPTS):
        a, b, stages = p[todo], q[todo], _STAGES * min(attempt + 1, 2)
        bend = geo.project_tangent(a, 0.5 * attempt * torch.cos((1 + 2 * attempt) * ripple))
        v = torch.zeros_like(out[todo])
        for stage in range(1, stages):
            t = stage / stages
            v = _newton(geo, a, v, polar(a + t * (b - a) + math.sin(math.pi * t) * bend), 3, 0.01)
        v = _newton(geo, a, v, b, _NEWTON, 10 * p.shape[-2] * eps)
        out[todo] = v
        miss = (geo.exp_frame(a, v) - b).abs().amax((-1, -2))
        todo = todo[~(miss <= 1e3 * p.shape[-2] * eps)]
        if not todo.numel():
            return out.reshape(batch + out.shape[1:])
    raise ValueError(
        f"q: no geodesic found from p for {todo.numel()} of {len(p)} pairs; the logarithm is computed "
        f"within about the injectivity radius ({geo.injectivity_radius(p.shape[-2:]):.3f}). For "
        "distributions without it use ManifoldUniform."
    )


def _newton(
    geo: "StiefelGeometry", p: Tensor, v: Tensor, target: Tensor, steps: int, tolerance: float
) -> Tensor:
    for _ in range(steps):
        x = geo.exp_frame(p, v)
        if bool(((target - x).abs() <= tolerance).all()):
            break
        miss = geo.from_tangent(x, geo.project_tangent(x, target - x))
        step = torch.linalg.solve_ex(geo.jacobian(p, v), miss.unsqueeze(-1)).result.squeeze(-1)
        v = v + step / norm(step, keepdim=True).clamp_min(1.0)
    return v
