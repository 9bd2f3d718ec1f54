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
from ..transforms.module import ModuleTransform
from .integration import Integration, Report

__all__ = ["ContinuousFlow"]


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
        self.adjoint = adjoint
        self._solve_by(solver, steps, rtol, atol, max_steps)
        if divergence not in ("auto", "exact", "hutchinson"):
            raise ValueError(f"divergence: got {divergence!r}; expected 'auto', 'exact' or 'hutchinson'.")
        if compile and not isinstance(field, TangentField):
            raise ValueError(
                f"compile: got True for a field of type {type(field).__name__}; expected a TangentField. Compile a "
                "function of your own by torch.compile."
            )
        self.divergence, self.probes, self.seed = divergence, probes, seed
        self.compile = compile
        self.context_dim = getattr(field, "context_dim", 0)
        self.domain = self.codomain = on(self.manifold)
        self._report = Report()

    def _solve_by(self, solver: str, steps: int, rtol: float, atol: float, max_steps: int) -> None:
        if solver not in ("dopri5", "rk4"):
            raise ValueError(f"solver: got {solver!r}; expected 'dopri5' (adaptive) or 'rk4' (fixed steps).")
        if self.adjoint and solver == "dopri5" and not isinstance(self.field, torch.nn.Module):
            raise ValueError(
                "adjoint: got True for a function, whose parameters are not known, so that they would get no "
                "gradient; expected a torch.nn.Module as field. Make it one, or leave adjoint out."
            )
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
        new = self._sharing(_report=Report(), _inv=None)
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
        new = self._sharing(context_dim=context_dim, _modules=dict(self._modules), _report=Report())
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
        return Integration(self, x).positions((0.0, 1.0))

    def _inverse(self, y: Tensor) -> Tensor:
        return Integration(self, y).positions((1.0, 0.0))

    def forward_and_log_volume(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return Integration(self, x).with_volumes((0.0, 1.0))

    def inverse_and_log_volume(self, y: Tensor) -> tuple[Tensor, Tensor]:
        x, log_volume = Integration(self, y).with_volumes((1.0, 0.0))
        return x, -log_volume

    def jvp(self, x: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
        """The value at ``x`` and the derivative along ``tangents``, shape ``batch + (k,) + event``, in ambient
        coordinates: the variational equation is integrated along."""
        return Integration(self, x).with_tangents((0.0, 1.0), tangents)
