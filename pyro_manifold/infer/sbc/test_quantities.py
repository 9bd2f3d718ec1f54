"""Scalar functions of parameters and data, for calibration: coordinates, distances, the log likelihood."""

from collections.abc import Callable, Sequence
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from ...constraints import manifold_of
from ...geometry import Geometry, geometry

__all__ = ["LogLikelihood", "Statistic", "default_statistics"]

Values = dict[str, Tensor]
Statistic = Callable[[Values], Tensor]

_ROWS = 4096  # evaluated at a time


class _Coordinate:
    def __init__(self, name: str, index: tuple[int, ...]) -> None:
        self.name, self.index = name, index

    def __call__(self, values: Values) -> Tensor:
        index: Any = (..., *self.index)
        return values[self.name][index]


class _Distance:
    """Distance of one point of a site to the manifold's base point, or the chord where distances have no
    closed form."""

    def __init__(self, name: str, geo: Geometry, index: tuple[int, ...]) -> None:
        self.name, self.geo, self.index = name, geo, index

    def __call__(self, values: Values) -> Tensor:
        index: Any = (..., *self.index, *(slice(None),) * self.geo.event_dim)
        x = values[self.name][index]
        o = self.geo.base_point(
            x.shape[x.dim() - self.geo.event_dim :], dtype=x.dtype, device=x.device
        ).expand_as(x)
        return self.geo.dist(x, o) if self.geo.has_global_log else self.geo.chord(x, o)


class LogLikelihood:
    r"""The statistic :math:`\log p(y\mid\theta)`, summed over the observed sites, for many parameters and
    data sets at once.

    :param model: Pyro model without ``obs``.
    :param tuple args: its arguments.
    :param observed: names of the sites that are data.

    Rows are evaluated by ``torch.func.vmap`` where that gives what the model gives one by one, else one by
    one.

    >>> import pyro.distributions as dist
    >>> model = lambda: pyro.sample("y", dist.Normal(pyro.sample("m", dist.Normal(0.0, 1.0)), 1.0))
    >>> LogLikelihood(model, (), ["y"])({"m": torch.zeros(2, 3), "y": torch.zeros(2, 1)}).shape
    torch.Size([2, 3])
    """

    def __init__(self, model: Callable[..., Any], args: tuple, observed: Sequence[str]) -> None:
        self.model, self.args, self.observed = model, args, tuple(observed)
        with torch.no_grad(), poutine.block():
            trace = poutine.trace(model).get_trace(*args)
        nodes = {k: v for k, v in trace.iter_stochastic_nodes() if not site_is_subsample(v)}
        self.rank = {k: v["value"].dim() for k, v in nodes.items()}

    def _one(self, values: Values) -> Tensor:
        with poutine.block():
            trace = poutine.trace(poutine.condition(self.model, data=values)).get_trace(*self.args)
        trace.compute_log_prob(lambda name, site: name in self.observed)
        return sum(trace.nodes[k]["log_prob"].sum() for k in self.observed)

    def _loop(self, rows: Values) -> Tensor:
        n = len(next(iter(rows.values())))
        return torch.stack([self._one({k: v[i] for k, v in rows.items()}) for i in range(n)])

    @torch.no_grad()
    def __call__(self, values: Values) -> Tensor:
        lead = torch.broadcast_shapes(*(values[k].shape[: values[k].dim() - r] for k, r in self.rank.items()))
        rows = {
            k: values[k].expand(lead + values[k].shape[values[k].dim() - r :]).flatten(0, len(lead) - 1)
            for k, r in self.rank.items()
        }
        n, many = lead.numel(), torch.func.vmap(self._one)
        few = {k: v[torch.arange(3) % n] for k, v in rows.items()}
        with pyro.validation_enabled(False):
            try:
                same = torch.allclose(many(few), self._loop(few), rtol=1e-4, atol=1e-6)
            except Exception:  # whatever a model does with a batch it was not written for, the loop is right
                same = False
            f = many if same else self._loop
            return torch.cat(
                [f({k: v[i : i + _ROWS] for k, v in rows.items()}) for i in range(0, n, _ROWS)]
            ).reshape(lead)


def default_statistics(
    model: Callable[..., Any], args: tuple, observed: Sequence[str]
) -> dict[str, Statistic]:
    """Every coordinate of every latent site, the distance of manifold-valued points to the base point, the
    log likelihood."""
    with torch.no_grad(), poutine.block():
        trace = poutine.trace(model).get_trace(*args)
    out: dict[str, Statistic] = {}
    for name, node in trace.iter_stochastic_nodes():
        if name in observed or site_is_subsample(node):
            continue
        x, manifold = node["value"], manifold_of(node["fn"].support)
        for index in torch.ones(x.shape).nonzero().tolist() if x.dim() else [[]]:
            out[name + (f"[{','.join(map(str, index))}]" if index else "")] = _Coordinate(name, tuple(index))
        if manifold is not None:
            geo = geometry(manifold)
            points = x.shape[: x.dim() - geo.event_dim]
            for index in torch.ones(points).nonzero().tolist() if points else [[]]:
                out[f"dist({name}{list(index) if index else ''})"] = _Distance(name, geo, tuple(index))
    out["log_lik"] = LogLikelihood(model, args, observed)
    return out
