"""Riemannian optimisers for Pyro's parameters on manifolds."""

from collections.abc import Callable, Iterable
from typing import Any

import geoopt
import pyro
import torch
from pyro.optim import PyroOptim
from torch import Tensor
from torch.distributions import Transform, transform_to

from ..constraints import manifold_of, point_constraint
from ..geometry import geometry

__all__ = ["RiemannianAdam", "RiemannianSGD"]


class _OnManifold(torch.optim.Optimizer):
    """Lets a geoopt optimiser step on points, where the parameters are what Pyro stores: unconstrained
    tensors.

    A parameter u is stored, the model sees x = T(u) with ``T = transform_to(constraint)``. Each step recovers
    the derivative in x, :math:`(\\partial T^{-1}/\\partial x)^\\top\\, \\partial L/\\partial u`, moves x and
    stores ``T.inv`` of the new x.
    """

    def __init__(self, params: Iterable[Tensor], **kwargs: Any) -> None:
        self._stored: list[tuple[Tensor, Transform | None]] = []
        super().__init__([self._point(u) for u in params], **kwargs)

    def _point(self, u: Tensor) -> Tensor:
        """What geoopt steps on: u itself, or a point of u's manifold."""
        constraint = _constraint(u)
        manifold = None if constraint is None else manifold_of(constraint)
        if manifold is None:
            self._stored.append((u, None))
            return u
        transform = transform_to(constraint)
        x = transform(u.detach())
        geo = geometry(manifold)
        batch, event = x.shape[: x.dim() - geo.event_dim], x.shape[x.dim() - geo.event_dim :]
        safe = geo.base_point(event, dtype=x.dtype, device=x.device).expand(batch + event).clone()
        self._stored.append((u, transform))
        return geoopt.ManifoldParameter(
            safe, manifold=manifold
        )  # geoopt checks it; the value is set at each step

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None if closure is None else closure()
        points = [p for group in self.param_groups for p in group["params"]]
        moved = [(u, t, x) for (u, t), x in zip(self._stored, points, strict=True) if t is not None]
        for u, t, x in moved:
            with torch.enable_grad():
                y = t(u.detach()).requires_grad_()
                x.grad = None if u.grad is None else torch.autograd.grad(t.inv(y), y, u.grad.detach())[0]
            x.data.copy_(y.detach())
        super().step()
        with torch.no_grad():
            for u, t, x in moved:
                if x.grad is not None:
                    u.copy_(t.inv(x.data))
        return loss


def _constraint(u: Tensor) -> Any:
    """The constraint of the parameter that Pyro's store holds as ``u``, without ``independent``; ``None`` if
    it is not in the store."""
    store = pyro.get_param_store()
    return point_constraint(store.get_state()["constraints"].get(store.param_name(u)))


class _Adam(_OnManifold, geoopt.optim.RiemannianAdam):
    pass


class _SGD(_OnManifold, geoopt.optim.RiemannianSGD):
    pass


def RiemannianAdam(
    optim_args: dict | Callable[..., dict], clip_args: dict | Callable[..., dict] | None = None
) -> PyroOptim:
    r"""geoopt's Riemannian Adam as a Pyro optimiser: parameters with ``constraint=on(manifold)`` move along
    the manifold.

    .. math:: x_{t+1} = R_{x_t}\Big(-\eta\,\frac{\hat m_t}{\sqrt{\hat v_t}+\epsilon}\Big), \qquad
        m_{t+1} = \beta_1 \mathcal T_{x_t\to x_{t+1}} m_t + (1-\beta_1)\,\mathrm{grad}\,L(x_{t+1})

    grad is the Riemannian gradient, R geoopt's retraction, :math:`\mathcal T` its transport; :math:`\hat v`
    averages :math:`|\mathrm{grad}|^2`, one number for a point on most manifolds. The steps do not depend on
    the chart in which Pyro stores the parameter (Euclidean optimisers do: they step in normal coordinates at
    the origin, or before a projection). Other parameters get plain Adam. The store keeps plain tensors, so
    saving and loading are Pyro's.

    :param optim_args: keywords of ``geoopt.optim.RiemannianAdam`` (``lr``, ``betas``, ``eps``,
        ``weight_decay``, ``amsgrad``, ``stabilize``), or a function of the parameter's name that returns
        them. ``lr`` is about the geodesic length of a step.
    :param clip_args: as in Pyro; clips the stored parameter's gradient.
    :raises ValueError: for a parameter whose manifold has no registered geometry.

    Reference: Bécigneul & Ganea, ICLR 2019, sec. 4.

    >>> from pyro_manifold.constraints import on
    >>> target = torch.tensor([0.0, 0.6, 0.8])
    >>> def loss(model, guide):
    ...     x = pyro.param("x", torch.tensor([1.0, 0.0, 0.0]), constraint=on(geoopt.Sphere()))
    ...     return (x - target).square().sum()
    >>> svi = pyro.infer.SVI(lambda: None, lambda: None, RiemannianAdam({"lr": 0.1}), loss)
    >>> for _ in range(200):
    ...     _ = svi.step()
    >>> (pyro.param("x") - target).norm().item() < 1e-3
    True
    """
    return PyroOptim(_Adam, optim_args, clip_args)


def RiemannianSGD(
    optim_args: dict | Callable[..., dict], clip_args: dict | Callable[..., dict] | None = None
) -> PyroOptim:
    r"""geoopt's Riemannian SGD as a Pyro optimiser, for parameters with ``constraint=on(manifold)``.

    .. math:: x_{t+1} = R_{x_t}(-\eta\,\mathrm{grad}\,L(x_t))

    The rest is as for :func:`RiemannianAdam`. For half the mean squared distance,
    :math:`\frac1{2n}\sum d(x, x_i)^2`, and ``lr = 1`` this is Karcher's iteration for the Fréchet mean.

    :param optim_args: keywords of ``geoopt.optim.RiemannianSGD`` (``lr``, ``momentum``, ``dampening``,
        ``weight_decay``, ``nesterov``, ``stabilize``), or a function of the parameter's name that returns
        them.
    :param clip_args: as in Pyro; clips the stored parameter's gradient.

    Reference: Bonnabel, IEEE Trans. Autom. Control 58 (2013).

    >>> RiemannianSGD({"lr": 0.1, "momentum": 0.9})  # doctest: +ELLIPSIS
    <pyro.optim.optim.PyroOptim object at ...>
    """
    return PyroOptim(_SGD, optim_args, clip_args)
