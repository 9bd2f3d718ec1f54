"""Draws of any inference, with the manifold of each site."""

from collections.abc import Callable, Mapping
from typing import Any

import geoopt
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import MCMC
from pyro.poutine.util import site_is_factor, site_is_subsample
from torch import Tensor

from ...constraints import manifold_of
from ...geometry import geometry
from ..reparam._base import innermost
from ..reparam.noise import Determined

__all__ = ["gather_samples", "is_data", "site_manifolds"]


def is_data(site: Any) -> bool:
    """Is this site of a trace an observation, not a deterministic or reparametrised value, a factor or a
    plate's indices?

    Pyro marks all of these as observed, most of them as a ``Delta`` in whatever wraps it.
    """
    if site["type"] != "sample" or not site["is_observed"] or site_is_subsample(site) or site_is_factor(site):
        return False
    fn = innermost(site["fn"])
    if isinstance(fn, Determined):  # observed only where a value was put in place of its own
        return site["value"] is not fn.value
    return not isinstance(fn, dist.Delta) and not site["infer"].get("_deterministic", False)


def site_manifolds(model: Callable[..., Any], *args: Any, **kwargs: Any) -> dict[str, geoopt.Manifold]:
    """The manifold of each manifold-valued random site of a model, found by running it once."""
    with torch.no_grad(), poutine.block():
        trace = poutine.trace(model).get_trace(*args, **kwargs)
    found = {
        k: manifold_of(v["fn"].support)
        for k, v in trace.iter_stochastic_nodes()
        if hasattr(v["fn"], "support")
    }
    return {k: m for k, m in found.items() if m is not None}


def gather_samples(
    source: Any, manifolds: Mapping[str, geoopt.Manifold] | None = None, group_by_chain: bool = True
) -> tuple[dict[str, Tensor], dict[str, geoopt.Manifold]]:
    """Draws as ``(chains, draws) + shape``, and manifolds: those given, else read off the MCMC run's model or
    kernel.

    :param source: a finished ``MCMC`` run, or a dict of draws.
    :param manifolds: site name -> manifold; needed for a dict.
    :param group_by_chain: for a dict: do its tensors start with (chains, draws) rather than (draws,)?
    :raises ValueError: for anything else, a run without draws, or draws off their manifold.
    """
    if isinstance(source, MCMC):
        samples = source.get_samples(group_by_chain=True) if source._samples is not None else {}
        if not samples:
            raise ValueError("mcmc: it has no draws yet; call its run(...) first.")
        if manifolds is None:
            model = getattr(source.kernel, "model", None)
            manifolds = dict(getattr(source.kernel, "manifolds", {}))
            if model is not None and not manifolds:
                manifolds = site_manifolds(model, *(source._args or ()), **(source._kwargs or {}))
    elif isinstance(source, Mapping):
        samples = {
            k: v if group_by_chain or not isinstance(v, Tensor) else v.unsqueeze(0) for k, v in source.items()
        }
    else:
        raise ValueError(
            f"source: got {type(source).__name__}, expected an MCMC run or a dict of draws (site name -> "
            f"tensor)."
        )
    for k, v in samples.items():
        if not isinstance(v, Tensor):
            raise ValueError(f"source: got {type(v).__name__} for {k}, expected a tensor of draws.")
        if v.dim() < 2:
            raise ValueError(
                f"{k}: got shape {tuple(v.shape)}, expected (chains, draws, ...); or give "
                f"group_by_chain=False."
            )
    found = {k: m for k, m in (manifolds or {}).items() if k in samples}
    for k, m in found.items():
        event = geometry(m).event_dim
        if samples[k].dim() < 2 + event or not bool(geometry(m).contains(samples[k]).all()):
            raise ValueError(
                f"{k}: draws of shape {tuple(samples[k].shape)} are not all points of {m.name} after a chain "
                "and a draw axis; check manifolds, or give group_by_chain=False for draws without a chain "
                "axis."
            )
    return samples, found
