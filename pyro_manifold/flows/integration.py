r"""One integration of a continuous flow: what is integrated, at which points the field is evaluated, what is checked.

.. math::
    \frac{d}{dt}\big(x,\ \ell\big) = \big(v(t, \pi(x)),\ \operatorname{div} v(t, \pi(x))\big), \qquad
    \frac{d}{dt}\big(x,\ T\big) = \big(v(t, \pi(x)),\ D(v \circ \pi)(x)\,T\big)

:math:`\pi` is the projection to the manifold: what drifts off it is seen by the field as if it had not.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..geometry import geometry
from ..nn.tangent_field import TangentField
from ..ops.tracing import is_concrete
from ..transforms.divergence import divergence, probe
from ..transforms.jvp import forward_mode_jvp
from .solvers import adaptive, check_finite, fixed

__all__ = ["Integration", "Report"]

EXACT_UP_TO = 10  # dimension; beyond, the divergence is estimated


@dataclass
class Report:
    """What the last integration did; one for a flow and all of its copies with contexts. Copies and pickles start
    afresh."""

    evaluations: int = 0
    drift: float = 0.0
    compiled: Callable[..., Tensor] | None = None

    def __deepcopy__(self, memo: Any) -> "Report":
        return Report()

    def __reduce__(self) -> Any:
        return Report, ()


class Integration:
    """One integration: points ``(n,) + event``, in one batch, with their contexts."""

    def __init__(self, flow: Any, x: Tensor) -> None:
        self.flow, self.geo = flow, geometry(flow.manifold)
        self.event = self.geo.event_shape(x)
        batch, context = x.shape[: x.dim() - self.geo.event_dim], flow.needed_context()
        if context is not None:
            batch = torch.broadcast_shapes(batch, context.shape[:-1])
            context = context.expand(batch + context.shape[-1:]).reshape(batch.numel(), -1)
        self.batch, self.context = batch, context
        self.given = x.expand(batch + self.event).reshape((batch.numel(),) + self.event)
        self.start = self.geo.project(self.given)
        self.width, self.drift = self.event.numel(), x.new_zeros(())
        flow._report.evaluations = 0

    # --- what is integrated ---------------------------------------------------------------------------------
    def positions(self, span: tuple[float, float]) -> Tensor:
        def rate(t: Tensor, y: Tensor) -> Tensor:
            return self._field(t, self._points(y)).flatten(1)

        return self._end(self._solve(rate, self.start.flatten(1), span))

    def with_volumes(self, span: tuple[float, float]) -> tuple[Tensor, Tensor]:
        n, dim = len(self.start), self.geo.dim(self.event)
        estimated = self.flow.divergence == "hutchinson" or (
            self.flow.divergence == "auto" and dim > EXACT_UP_TO
        )
        noise = self._noise() if estimated else None
        whole = self._compiled()

        def rate(t: Tensor, y: Tensor) -> Tensor:
            if whole is not None:
                self.flow._report.evaluations += 1
                return whole(self.flow.field, t, self._raw(y), noise, self.context)
            x = self._points(y)
            tangents = self.geo.frame(x) if noise is None else probe(self.geo, x, noise)
            v, moved = self._derivatives(t, x, tangents)
            return torch.cat([v.flatten(1), divergence(self.geo, x, v, tangents, moved).unsqueeze(-1)], -1)

        start = torch.cat([self.start.flatten(1), self.start.new_zeros(n, 1)], -1)
        end = self._solve(rate, start, span)
        return self._end(end), end[:, -1].reshape(self.batch)

    def with_tangents(self, span: tuple[float, float], tangents: Tensor) -> tuple[Tensor, Tensor]:
        shape = torch.Size([tangents.shape[tangents.dim() - len(self.event) - 1]]) + self.event
        first = tangents.expand(self.batch + shape).reshape((len(self.start),) + shape)
        first = self._moved(self.given, first)[1]

        def rate(t: Tensor, y: Tensor) -> Tensor:
            along = y[:, self.width :].reshape((-1,) + shape)
            x, along = self._moved(self._raw(y), along)
            v, moved = self._derivatives(t, x, along)
            return torch.cat([v.flatten(1), moved.flatten(1)], -1)

        end = self._solve(rate, torch.cat([self.start.flatten(1), first.flatten(1)], -1), span)
        x, along = self._moved(self._raw(end), end[:, self.width :].reshape((-1,) + shape))
        return x.reshape(self.batch + self.event), along.reshape(self.batch + shape)

    def _compiled(self) -> Callable[..., Tensor] | None:
        """The rate of point and volume as one compiled function; None where none is asked for."""
        flow = self.flow
        if not flow.compile or not is_concrete(self.start):
            return None
        if flow._report.compiled is None:
            flow._report.compiled = torch.compile(_rate, dynamic=True)
        return flow._report.compiled

    def _noise(self) -> Tensor:
        """Signs, divided by the root of the number of probes."""
        shape, flow = (len(self.start), self.flow.probes) + self.event, self.flow
        generator = None if flow.seed is None else torch.Generator().manual_seed(flow.seed)
        signs = 2.0 * torch.randint(2, shape, generator=generator) - 1
        return signs.to(self.start) / flow.probes**0.5

    # --- the field at projected points ----------------------------------------------------------------------
    def _raw(self, y: Tensor) -> Tensor:
        return y[:, : self.width].reshape((-1,) + self.event)

    def _points(self, y: Tensor) -> Tensor:
        return self.geo.project(self._raw(y))

    def _moved(self, x: Tensor, along: Tensor) -> tuple[Tensor, Tensor]:
        """The projections, and the derivatives of the projection."""
        return forward_mode_jvp(self.geo.project, x, along, len(self.event), len(self.event))

    def _field(self, t: Tensor, x: Tensor) -> Tensor:
        self.flow._report.evaluations += 1
        field = self.flow.field
        if isinstance(field, TangentField):
            return field(t, x, self.context)
        return self._checked(field(t, x), t, x)

    def _derivatives(self, t: Tensor, x: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
        self.flow._report.evaluations += 1
        field, rank = self.flow.field, len(self.event)
        if isinstance(field, TangentField):
            return field.jvp(t, x, tangents, self.context)
        v, moved = forward_mode_jvp(partial(field, t), x, tangents, rank, rank)
        return self._checked(v, t, x), moved

    def _checked(self, v: Any, t: Tensor, x: Tensor) -> Tensor:
        """:raises ValueError: unless v is a tensor of tangent vectors at x."""
        if not isinstance(v, Tensor) or v.shape != x.shape or v.dtype != x.dtype:
            seen = f"{v.dtype} of shape {tuple(v.shape)}" if isinstance(v, Tensor) else type(v).__name__
            raise ValueError(
                f"field: got {seen} at points of shape {tuple(x.shape)}; expected tangent vectors of that shape in "
                f"{x.dtype}."
            )
        if is_concrete(v):
            with torch.no_grad():
                off = (v - self.geo.project_tangent(x, v)).flatten(1).abs().amax(-1)
                bad = off > torch.finfo(v.dtype).eps ** 0.5 * (1 + v.flatten(1).abs().amax(-1))
            if bool(bad.any()):
                raise ValueError(
                    f"field: {int(bad.sum())} of {len(bad)} vectors at time {float(t):.3g} are not tangent, the first "
                    f"by {float(off[bad][0]):.3g}; expected values in the tangent space. Project them: "
                    "pyro_manifold.geometry.geometry(manifold).project_tangent(x, v)."
                )
        return v

    # --- the solver -----------------------------------------------------------------------------------------
    def _solve(
        self, rate: Callable[[Tensor, Tensor], Tensor], y: Tensor, span: tuple[float, float]
    ) -> Tensor:
        flow = self.flow
        if not len(y):
            return y
        if not isinstance(flow.field, TangentField):  # before anything differentiates what may be no tensor
            with torch.no_grad():
                self._field(torch.tensor(span[0], dtype=y.dtype, device=y.device), self.start.detach())
        if flow.solver == "rk4":
            end = fixed(rate, y, span, flow.steps, self._project, flow.adjoint)
        else:
            end = adaptive(self._finite(rate), y, span, flow.rtol, flow.atol, flow.max_steps, self._read())
            end = self._project(end)
        if is_concrete(end):
            check_finite(end.detach(), span[1])
            flow._report.drift = float(self.drift)
        return end

    def _finite(self, rate: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
        def checked_rate(t: Tensor, y: Tensor) -> Tensor:
            out = rate(t, y)
            if is_concrete(out):
                check_finite(out.detach(), t.detach())
            return out

        return checked_rate

    def _read(self) -> list[Tensor] | None:
        """The tensors behind the field that ask for a gradient, for the adjoint equation."""
        if not self.flow.adjoint:
            return None
        tensors = [*self.flow.parameters(), *([] if self.context is None else [self.context])]
        return [t for t in tensors if t.requires_grad]

    def _project(self, y: Tensor) -> Tensor:
        """The state with its point, and the tangents that follow it, back on the manifold."""
        x = self._raw(y)
        rest = y[:, self.width :]
        if rest.shape[1] > 1:
            p, along = self._moved(x, rest.reshape((len(y), -1) + self.event))
            rest = along.flatten(1)
        else:
            p = self.geo.project(x)
        if is_concrete(x):
            self.drift = torch.maximum(self.drift, (p - x).detach().abs().amax())
        return torch.cat([p.flatten(1), rest], -1)

    def _end(self, y: Tensor) -> Tensor:
        return self._raw(y).reshape(self.batch + self.event)


def _rate(field: TangentField, t: Tensor, x: Tensor, noise: Tensor | None, context: Tensor | None) -> Tensor:
    """The field and its divergence at projected points, one row for each."""
    geo = geometry(field.manifold)
    x = geo.project(x)
    tangents = geo.frame(x) if noise is None else probe(geo, x, noise)
    v, moved = field.jvp(t, x, tangents, context)
    return torch.cat([v.flatten(1), divergence(geo, x, v, tangents, moved).unsqueeze(-1)], -1)
