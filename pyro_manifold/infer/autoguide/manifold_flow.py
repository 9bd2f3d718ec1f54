r"""A guide with a flow for some manifold sites.

.. math:: q(z) = \prod_{\text{flow sites}} q_0(f_i^{-1}(z_i))\,|\det J_{f_i^{-1}}(z_i)| \prod_{\text{others}} q_j(z_j)

Of a site in a plate row n has its own flow, :math:`f_i(\cdot\,; c_n)`, by a context that is learned with it.
"""

import warnings
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.infer.autoguide.utils import deep_setattr
from pyro.nn import PyroModule, PyroParam
from torch import Tensor, nn
from torch.distributions import Distribution, Transform

from ...distributions import ManifoldUniform, WrappedNormal
from ...flows import Conditional
from ...geometry import geometry
from ...ops.arguments import checked
from ._sites import all_rows
from .manifold_normal import AutoManifoldNormal

__all__ = ["AutoManifoldFlow"]

_DRAWS = 1024


class AutoManifoldFlow(AutoManifoldNormal):
    r"""Flows on the manifold for the sites named, so that posteriors may have any shape there, several modes among
    them; :class:`AutoManifoldNormal` for the others.

    All sites are independent of each other. Like all fits of the reverse divergence, the guide may miss modes that
    its first draws, which are those of the base, do not reach.

    :param model: a Pyro model.
    :param Mapping flows: for some manifold sites, by name, a bijection of the manifold, such as
        :class:`~pyro_manifold.flows.SphereFlow`, :class:`~pyro_manifold.flows.RotationFlow` or
        :class:`~pyro_manifold.flows.InChart`; for sites in plates one that depends on a context
        (:class:`~pyro_manifold.flows.Conditional`), of which each row learns its own. They are trained in place.
    :param Mapping bases: distributions under the flows, by name of the site. By default the uniform one, or where the
        volume is infinite a wrapped normal of scale 1 about the initial point; of sites in plates that of
        :class:`AutoManifoldNormal`, whose centres and scales are learned too.
    :param options: those of :class:`AutoManifoldNormal`.
    :raises ValueError: for a site that is unknown or ordinary, for one in a plate whose flow has no context, and for a
        flow of points of another shape.

    References: Rezende and Mohamed, *Variational inference with normalizing flows*, ICML 2015.

    >>> import geoopt, pyro, pyro_manifold.distributions as mdist
    >>> from pyro_manifold.flows import SphereFlow
    >>> model = lambda: pyro.sample("z", mdist.ManifoldUniform(geoopt.Sphere(), 3))
    >>> guide = AutoManifoldFlow(model, {"z": SphereFlow(2, depth=2)})
    >>> guide()["z"].shape
    torch.Size([3])

    Five directions in a plate, each with its own shape:

    >>> from pyro_manifold.flows import Conditional
    >>> def model():
    ...     with pyro.plate("rows", 5):
    ...         pyro.sample("z", mdist.ManifoldUniform(geoopt.Sphere(), 3))
    >>> guide = AutoManifoldFlow(model, {"z": Conditional(SphereFlow(2, depth=2), context_dim=4)})
    >>> guide()["z"].shape
    torch.Size([5, 3])
    """

    @checked
    def __init__(
        self,
        model: Callable[..., Any],
        flows: Mapping[str, Transform | Conditional],
        *,
        bases: Mapping[str, Distribution] | None = None,
        **options: Any,
    ) -> None:
        for name, flow in flows.items():
            layer = flow.layer if isinstance(flow, Conditional) else flow
            if not (isinstance(layer, Transform) and isinstance(layer, nn.Module) and layer.bijective):
                raise ValueError(
                    f"flows: {name!r} has {flow!r}; expected a bijection with parameters, SphereFlow(2)."
                )
        if set(bases or ()) - set(flows):
            raise ValueError(f"bases: got sites {sorted(set(bases or ()) - set(flows))} that have no flow.")
        super().__init__(model, **options)
        self._given_flows = dict(flows)
        self._bases: dict[str, Any] = dict(bases or {})

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        super()._setup_prototype(*args, **kwargs)
        self.flows, self.contexts = PyroModule(), PyroModule()
        sites = dict(self.prototype_trace.iter_stochastic_nodes())
        for name, flow in self._given_flows.items():
            if name not in self._manifolds:
                raise ValueError(
                    f"flows: got {name!r}; expected latent manifold sites: {', '.join(self._manifolds)}."
                )
            value = sites[name]["value"].detach()
            rank = self._event_dims[name]
            batch, event = value.shape[: value.dim() - rank], value.shape[value.dim() - rank :]
            layer = flow.layer if isinstance(flow, Conditional) else flow
            if layer.domain.event_dim != rank or layer.forward_shape(event) != event:
                raise ValueError(
                    f"flows: {name!r} has {flow!r}, which does not map events of shape {tuple(event)}."
                )
            if isinstance(flow, Conditional):
                context = torch.randn(*batch, flow.context_dim, dtype=value.dtype, device=value.device)
                context = PyroParam(all_rows(sites[name], context, 1), constraints.real, 1)
                deep_setattr(self.contexts, name, context)
            elif batch.numel() != 1:
                raise ValueError(
                    f"flows: {name!r} has batch shape {tuple(batch)}, and one flow is one distribution. Give "
                    "flows.Conditional(flow, context_dim=8), for which each row learns its own context, or leave "
                    "the site to the other families."
                )
            elif name not in self._bases:
                self._bases[name] = self._base(name, value.reshape(event))
            deep_setattr(self.flows, name, flow)

    def _base(self, name: str, start: Tensor) -> Distribution:
        manifold = self._manifolds[name]
        if geometry(manifold).has_finite_volume:
            return ManifoldUniform(manifold, start.shape, dtype=start.dtype, device=start.device)
        return WrappedNormal(manifold, start, 1.0)

    def distribution(self, name: str) -> Any:
        """The guide's distribution of a manifold site, at the present parameters: also what
        :class:`~pyro_manifold.infer.GeodesicNUTS` takes as a proposal."""
        if name not in self._given_flows:
            return super().distribution(name)
        with warnings.catch_warnings():  # a manifold's fixed curvature is meant not to be trained
            warnings.filterwarnings("ignore", ".*was not registered in the param store", UserWarning)
            flow = attrgetter(name)(self.flows)
        base = self._bases[name] if name in self._bases else super().distribution(name)
        if isinstance(flow, Conditional):
            context = attrgetter(name)(self.contexts)
            return dist.TransformedDistribution(base.expand(context.shape[:-1]), [flow.condition(context)])
        site = self.prototype_trace.nodes[name]
        batch = site["value"].shape[: site["value"].dim() - self._event_dims[name]]
        return dist.TransformedDistribution(base, [flow]).expand(batch)

    @torch.no_grad()
    def median(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """As of :class:`AutoManifoldNormal`; of sites with a flow, whose draws may have several centres, the draw (of
        each row) with the highest density among 1024."""
        result = super().median(*args, **kwargs)
        for name in self._given_flows:
            d = self.distribution(name)
            with torch.random.fork_rng(devices=[]):  # the same ones at each call
                torch.manual_seed(0)
                draws = d.sample((_DRAWS,))
            best = d.log_prob(draws).argmax(0).reshape((1, *d.batch_shape) + (1,) * len(d.event_shape))
            result[name] = draws.take_along_dim(best, 0).squeeze(0)
        return result
