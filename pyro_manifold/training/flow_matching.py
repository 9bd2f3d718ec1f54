r"""Riemannian flow matching: a vector field learned from geodesics between draws of the base and the data.

.. math::
    \min_v\; \mathbb E\; \frac1d\,\big|v(t, x_t) - \dot x_t\big|^2_{x_t}, \qquad
    x_t = \exp_{x_0}\big(t \log_{x_0} x_1\big), \quad t \sim U(0, 1),\ x_0 \sim \text{base},\ x_1 \sim \text{data}

The minimum, :math:`v(t, x) = \mathbb E[\dot x_t \mid x_t = x]`, carries the base to the data; no equation is solved in
training. Paired by optimal transport within each batch, the geodesics hardly cross, and paths come out nearly
straight. References: [1] Chen and Lipman, *Flow matching on general geometries*, ICLR 2024, thm. 3.1 and eq. 13. [2]
Tong et al., *Improving and generalizing flow-based generative models with minibatch optimal transport*, TMLR 2024,
prop. 3.4.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from ..distributions.uniform import ManifoldUniform
from ..flows.conditional import Conditional
from ..flows.continuous import ContinuousFlow
from ..geometry import Geometry, geometry
from ..ops.arguments import checked
from .flow_parts import check_rows, same_draws_in_validation, train, trainable
from .run import History

__all__ = ["fit_flow_matching"]

PAIRINGS = ("independent", "optimal")


@checked(epochs=0, seconds=0, lr=0, warmup=0, clip=0)
def fit_flow_matching(
    flow: ContinuousFlow | Conditional,
    data: Tensor,
    context: Tensor | None = None,
    *,
    base: Distribution | None = None,
    pairing: str = "independent",
    average: float | None = 0.99,
    epochs: int | None = None,
    seconds: float = math.inf,
    lr: float = 5e-3,
    warmup: float = 0.05,
    clip: float = 5.0,
    optimizer: Callable[..., Any] | None = None,
    schedule: Callable[..., Any] | None = None,
    **loop: Any,
) -> History:
    r"""Train the field of ``flow`` in place, without solving its equation; the weights that did best on the validation
    rows are restored, those given among them.

    :param flow: a :class:`~pyro_manifold.flows.ContinuousFlow`, or a ``Conditional`` one, on a manifold with a
        logarithm; its field must take a time for each point, as ``TangentField`` does.
    :param Tensor data: rows :math:`x_1`, points of the manifold, shape ``(rows,) + event``.
    :param Tensor context: a row for each, shape ``(rows, size)``, if the flow is conditional.
    :param Distribution base: of :math:`x_0`; uniform if omitted, where the volume is finite. The trained density is
        ``TransformedDistribution(base, [flow])``.
    :param str pairing: of the draws of a batch with its rows: ``"independent"``, or ``"optimal"``, which has the least
        mean squared distance.
    :param float average: decay of the average of the weights over steps, see :class:`~pyro_manifold.training.Phase`;
        None for none.
    :param loop: what else :func:`~pyro_manifold.training.fit` takes. The other arguments are those of
        :func:`~pyro_manifold.training.fit_likelihood`.
    :return: losses of the phase ``"flow_matching"``. They do not tend to 0 but to the mean variance of the velocities
        at a point, and say nothing of the likelihood: compute that of held-out rows.
    :raises ValueError: for rows that are fewer than 2 or not points of the manifold, a manifold without a logarithm, or
        without a uniform distribution where no base is given, a context that is missing or not wanted, or that is given
        with ``pairing="optimal"``, whose pairs would make the base depend on it; and as
        :func:`~pyro_manifold.training.fit`.
    :warns TrainingWarning: as :func:`~pyro_manifold.training.fit`.

    >>> import geoopt
    >>> from pyro_manifold.nn import TangentField
    >>> x = geometry(geoopt.Sphere()).project(torch.tensor([1.0, 0.0, 0.0]) + 0.2 * torch.randn(200, 3))
    >>> flow = ContinuousFlow(TangentField(geoopt.Sphere(), 3, (16,)))
    >>> history = fit_flow_matching(flow, x, epochs=10, batch_size=50, disable_progbar=True)
    >>> history.losses["flow_matching"][-1] < history.start["flow_matching"]
    True
    """
    own = flow.layer if isinstance(flow, Conditional) else flow
    if not isinstance(own, ContinuousFlow):
        raise ValueError(f"flow: got {own!r}, expected a ContinuousFlow, whose field is learned.")
    geo = geometry(own.manifold)
    check_rows(data, context, trainable(own)[0], own.codomain)
    if (context is None) != (own.context_dim == 0):
        seen = "none" if context is None else f"shape {tuple(context.shape)}"
        raise ValueError(
            f"context: got {seen}, but the flow depends on a context of size {own.context_dim}; give a row for each of "
            "data, or make the flow depend on one: Conditional(flow, context_dim)."
        )
    if pairing not in PAIRINGS or (pairing == "optimal" and context is not None):
        raise ValueError(
            f"pairing: got {pairing!r}{'' if context is None else ' with a context'}; expected 'independent', or "
            "'optimal' for a flow without a context (pairs across contexts would make the base depend on them)."
        )
    if not geo.has_log:
        raise ValueError(
            f"flow: {own.manifold.name} has no logarithm in closed form, so that geodesics between points are not "
            "known; train it by fit_likelihood."
        )
    start = _base(base, geo, own, data)
    loss = matching_loss(own.field, geo, start, pairing)
    phase = dict(
        lr=lr, warmup=warmup, clip=clip, epochs=epochs, seconds=seconds, optimizer=optimizer, schedule=schedule,
        average=average,
    )  # fmt: skip
    settings = dict(pairing=pairing, average=average)
    return train("flow_matching", loss, (data, context), own, phase, settings, **loop)


def _base(base: Distribution | None, geo: Geometry, flow: ContinuousFlow, data: Tensor) -> Distribution:
    if base is None:
        if not geo.has_finite_volume:
            raise ValueError(
                f"base: got None, but {flow.manifold.name} has no uniform distribution; expected a distribution on it, "
                "such as WrappedNormal."
            )
        return ManifoldUniform(flow.manifold, tuple(geo.event_shape(data)))
    if base.event_shape != geo.event_shape(data) or base.batch_shape:
        raise ValueError(
            f"base: got batch shape {tuple(base.batch_shape)} and event shape {tuple(base.event_shape)}; expected no "
            f"batch and points of shape {tuple(geo.event_shape(data))}."
        )
    return base


def matching_loss(field: Any, geo: Geometry, base: Distribution, pairing: str) -> Callable[..., Tensor]:
    """The loss of a batch of rows and contexts. For validation the draws are the same each time."""

    def drawn(x1: Tensor, context: Tensor | None) -> Tensor:
        n = torch.Size([len(x1)])
        x0 = base.sample(n).to(x1)
        t = torch.rand(n, dtype=x1.dtype, device=x1.device)
        if pairing == "optimal":
            x0 = x0[optimal_pairs(geo, x0, x1)]
        x, velocity = geo.geodesic(x0, geo.log(x0, x1), t)
        error = field(t, x) - velocity if context is None else field(t, x, context) - velocity
        return geo.inner(x, error, error).mean() / geo.dim(geo.event_shape(x))

    def loss(x1: Tensor, context: Tensor | None = None) -> Tensor:
        with same_draws_in_validation(x1.device, 0):
            return drawn(x1, context)

    return loss


def optimal_pairs(geo: Geometry, x0: Tensor, x1: Tensor) -> Tensor:
    """Which of the points x0 goes with each of x1, so that the sum of squared distances is least (solved exactly; the
    time grows as the cube of the batch)."""
    from scipy.optimize import linear_sum_assignment  # imported late: it costs a second

    cost = geo.dist(x0.unsqueeze(0), x1.unsqueeze(1)).square()
    return torch.as_tensor(linear_sum_assignment(cost.double().cpu().numpy())[1], device=x0.device)
