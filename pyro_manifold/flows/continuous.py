r"""Continuous normalizing flows: points carried along a vector field on a manifold for unit time.

.. math::
    \dot x = v(t, x), \quad x(0) = x_0,\; f(x_0) = x(1), \qquad
    \log|\det J_f(x_0)| = \int_0^1 \operatorname{div} v(t, x(t))\,dt

with the divergence of the Riemannian volume, the trace of the covariant derivative of v; see
:mod:`pyro_manifold.transforms.divergence`. Positions and divergence are integrated together. References: [1] Chen et
al., *Neural ordinary differential equations*, NeurIPS 2018, thm. 1. [2] Mathieu and Nickel, *Riemannian continuous
normalizing flows*, NeurIPS 2020, prop. 2. [3] Grathwohl et al., *FFJORD*, ICLR 2019, eq. 8 (random probes).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import geoopt
import torch
from torch import Tensor

from ..constraints import on
from ..geometry import geometry
from ..nn.tangent_field import TangentField
from ..ops.arguments import checked
from ..ops.memo import module_tensors
from ..ops.tracing import is_concrete
from ..transforms.divergence import divergence, probe
from ..transforms.jvp import forward_mode_jvp
from ..transforms.module import ModuleTransform
from .solvers import adaptive, check_finite, fixed

__all__ = ["ContinuousFlow"]

EXACT_UP_TO = 10  # dimension; beyond, the divergence is estimated


@dataclass
class _Report:
    """What the last integration did; one for a flow and all of its copies with contexts. Copies and pickles start
    afresh."""

    evaluations: int = 0
    drift: float = 0.0
    compiled: Callable[..., Tensor] | None = None

    def __deepcopy__(self, memo: Any) -> "_Report":
        return _Report()

    def __reduce__(self) -> Any:
        return _Report, ()


class ContinuousFlow(ModuleTransform):
    r"""The bijection of a manifold that carries each point along a vector field for unit time.

    .. math:: f(x_0) = x(1), \quad \dot x = v(t, x), \qquad \log|\det J_f| = \int_0^1 \operatorname{div} v\,dt

    The point is kept on the manifold by projection: the field is evaluated at projected points, and the point itself
    is projected after each fixed step, or at the end of the adaptive ones.

    :param field: a :class:`~pyro_manifold.nn.TangentField` or :class:`~pyro_manifold.nn.KillingField`, or any function
        v of t (a tensor without axes) and x, shape ``batch + event``, with ambient tangent vectors as values; it may be
        a module. Of a new ``TangentField`` the flow is the identity.
    :param geoopt.Manifold manifold: where the field lives; a ``TangentField`` knows it.
    :param str solver: ``"dopri5"``, adaptive, or ``"rk4"``, with steps of equal length, which costs less and whose
        error nobody watches: compare the two on a trained flow.
    :param int steps: of ``"rk4"``, each of four evaluations.
    :param float rtol: relative tolerance of ``"dopri5"``, for every number of every point; ``atol`` the absolute one.
    :param int max_steps: bound on the adaptive steps.
    :param str divergence: ``"exact"``, ``dim`` derivatives along an orthonormal frame; ``"hutchinson"``, an unbiased
        estimate by random probes, held fixed during an integration; ``"auto"``, exact up to dimension 10.
    :param int probes: of the estimate.
    :param int seed: of the probes: the same ones in each call, so that a density has one value; None for fresh ones
        from torch's generator, as training prefers.
    :param bool adjoint: gradients without the states inside of steps in memory: by the adjoint equation (adaptive, to
        the tolerances) or from the states between steps (fixed, exact). They take about as long again.
    :param bool compile: compile a ``TangentField`` with its divergence by ``torch.compile`` in the first call, which
        takes a minute and needs a C++ compiler; an evaluation is then two to three times as fast.
    :raises ValueError: for a function without a manifold, a solver or a kind of divergence that is unknown; when
        called, for values of the field that are not tangent, or of another shape.
    :raises IntegrationError: (a ``RuntimeError``) when called, where the solver runs out of steps or the field's values
        are not finite.

    :ivar int evaluations: of the field, in the last call.
    :ivar float drift: how far the last call's points were off the manifold at most, before they were projected (in
        ambient coordinates).

    Map, inverse and logarithmic volume are as exact as the solver; ``inv`` undoes the map up to its error. On positive
    definite matrices with the log-Euclidean metric, which are flat, use a flow of vectors in the chart
    (:class:`~pyro_manifold.transforms.ExpMap`): derivatives of their frame are not known to the order that training
    takes.

    >>> from pyro_manifold.nn import TangentField
    >>> turn = ContinuousFlow(lambda t, x: torch.stack([-x[..., 1], x[..., 0]], -1), geoopt.Sphere())
    >>> turn(torch.tensor([1.0, 0.0]))  # by one radian
    tensor([0.5403, 0.8415])
    >>> flow = ContinuousFlow(TangentField(geoopt.Sphere(), 3), solver="rk4", steps=8)
    >>> flow(torch.eye(3)).shape, flow.evaluations
    (torch.Size([3, 3]), 32)
    """

    exact = False

    @checked(steps=1, rtol=0, atol=0, max_steps=1, probes=1)
    def __init__(
        self,
        field: Callable[..., Tensor],
        manifold: geoopt.Manifold | None = None,
        *,
        solver: str = "dopri5",
        steps: int = 20,
        rtol: float = 1e-5,
        atol: float = 1e-5,
        max_steps: int = 1000,
        divergence: str = "auto",
        probes: int = 1,
        seed: int | None = 0,
        adjoint: bool = False,
        compile: bool = False,
        cache_size: int = 0,
    ) -> None:
        super().__init__(cache_size=cache_size)
        own: Any = getattr(field, "manifold", None)
        if manifold is None and own is None:
            raise ValueError(
                f"manifold: got None, but {type(field).__name__} does not say where it lives; expected a manifold such "
                "as geoopt.Sphere()."
            )
        if own is not None and manifold is not None and own is not manifold:
            raise ValueError(
                f"manifold: got {manifold.name}, but the field lives on {own.name}; expected the field's own manifold "
                "object, or none."
            )
        self.field = field
        self.manifold: geoopt.Manifold = own if manifold is None else manifold
        self._solve_by(solver, steps, rtol, atol, max_steps)
        if divergence not in ("auto", "exact", "hutchinson"):
            raise ValueError(f"divergence: got {divergence!r}; expected 'auto', 'exact' or 'hutchinson'.")
        if compile and not isinstance(field, TangentField):
            raise ValueError(
                f"compile: got True for a field of type {type(field).__name__}; expected a TangentField. Compile a "
                "function of your own by torch.compile."
            )
        self.divergence, self.probes, self.seed, self.adjoint = divergence, probes, seed, adjoint
        self.compile = compile
        self.context_dim = getattr(field, "context_dim", 0)
        self.domain = self.codomain = on(self.manifold)
        self._report = _Report()

    def _solve_by(self, solver: str, steps: int, rtol: float, atol: float, max_steps: int) -> None:
        if solver not in ("dopri5", "rk4"):
            raise ValueError(f"solver: got {solver!r}; expected 'dopri5' (adaptive) or 'rk4' (fixed steps).")
        self.solver, self.steps, self.max_steps = solver, steps, max_steps
        self.rtol, self.atol = rtol, atol

    @checked(steps=1, rtol=0, atol=0, max_steps=1)
    def with_solver(
        self,
        solver: str = "dopri5",
        *,
        steps: int = 20,
        rtol: float = 1e-5,
        atol: float = 1e-5,
        max_steps: int = 1000,
    ) -> "ContinuousFlow":
        """This flow, sharing its parameters, solved in another way: to train by fixed steps and to evaluate with an
        error that is watched. The arguments are those of the class."""
        new = self._sharing(_report=_Report(), _inv=None)
        new._solve_by(solver, steps, rtol, atol, max_steps)
        return new

    @property
    def evaluations(self) -> int:
        return self._report.evaluations

    @property
    def drift(self) -> float:
        return self._report.drift

    def __repr__(self) -> str:
        how = f"steps={self.steps}" if self.solver == "rk4" else f"rtol={self.rtol:g}, atol={self.atol:g}"
        field = type(self.field).__name__ if isinstance(self.field, torch.nn.Module) else "function"
        return f"ContinuousFlow({field} on {self.manifold.name}, {self.solver}, {how})"

    # --- contexts and caches --------------------------------------------------------------------------------
    @property
    def accepts_context(self) -> bool:  # type: ignore[override]
        return getattr(self.field, "accepts_context", False)

    def with_context_dim(self, context_dim: int) -> "ContinuousFlow":
        new = self._sharing(context_dim=context_dim, _modules=dict(self._modules), _report=_Report())
        new.field = self.field.with_context_dim(context_dim)  # type: ignore[attr-defined]
        return new

    def depends(self) -> list[Any] | None:
        """Unknown for a function of the user's."""
        if not isinstance(self.field, TangentField) or geometry(self.manifold).depends() is None:
            return None
        solved = [self.solver, self.steps, self.rtol, self.atol, self.max_steps]
        return [
            *module_tensors(self),
            self.context,
            *solved,
            self.divergence,
            self.probes,
            self.seed,
        ]

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        geo = geometry(self.manifold)
        event = torch.Size(shape[len(shape) - geo.event_dim :])
        wanted = getattr(self.field, "event_shape", event)
        if len(shape) < geo.event_dim or event != wanted or geo.dim(event) < 1:
            raise ValueError(
                f"value: got shape {tuple(shape)}; expected points of {self.manifold.name}, of shape "
                f"{tuple(wanted)} behind the batch axes."
            )
        return torch.Size(shape)

    inverse_shape = forward_shape

    # --- the transform --------------------------------------------------------------------------------------
    def __call__(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return super().__call__(x)
        self.check_input(x, self.forward_shape)  # a draw alone needs no divergence
        y = self._call(x)
        if self._cache_size and is_concrete(x):
            self._made.put([y], self.depends(), [x])
        return y

    def _call(self, x: Tensor) -> Tensor:
        return _Integration(self, x).positions((0.0, 1.0))

    def _inverse(self, y: Tensor) -> Tensor:
        return _Integration(self, y).positions((1.0, 0.0))

    def forward_and_log_volume(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return _Integration(self, x).with_volumes((0.0, 1.0))

    def inverse_and_log_volume(self, y: Tensor) -> tuple[Tensor, Tensor]:
        x, log_volume = _Integration(self, y).with_volumes((1.0, 0.0))
        return x, -log_volume

    def jvp(self, x: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
        """The value at ``x`` and the derivative along ``tangents``, shape ``batch + (k,) + event``, in ambient
        coordinates: the variational equation is integrated along."""
        return _Integration(self, x).with_tangents((0.0, 1.0), tangents)


class _Integration:
    """One integration: points ``(n,) + event``, in one batch, with their contexts."""

    def __init__(self, flow: ContinuousFlow, x: Tensor) -> None:
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
