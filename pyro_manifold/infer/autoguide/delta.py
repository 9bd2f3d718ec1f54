"""Point estimates on manifolds."""

from collections.abc import Callable
from contextlib import ExitStack
from operator import attrgetter
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.util import sum_rightmost
from pyro.infer.autoguide.guides import AutoDelta
from pyro.infer.autoguide.initialization import init_to_median
from pyro.infer.autoguide.utils import deep_setattr
from pyro.nn import PyroParam
from torch import Tensor

from ...constraints import on
from ...ops.arguments import checked
from ...transforms import SymmetricVolume
from ..anywhere import init_to_draw
from ..positive_definite import is_positive_definite, sampled_on
from ._sites import FixedOptions
from .indices import ModelIndices

__all__ = ["AutoManifoldDelta"]


class AutoManifoldDelta(FixedOptions, ModelIndices, AutoDelta):
    r"""Maximum a posteriori: one point for each latent site, on its manifold.

    .. math:: \hat z = \arg\max_z\; p(x, z)

    The density is with respect to Riemannian volume, so on manifold sites the answer does not depend on a
    chart; that of sites with Pyro's ``constraints.positive_definite`` (``Wishart``) is converted to it. The
    points are parameters with ``constraint=on(manifold)``: with
    :class:`~pyro_manifold.infer.RiemannianAdam` or :class:`~pyro_manifold.infer.RiemannianSGD` they move
    along the manifold; any Pyro optimiser will do. Manifold sites start at a draw of their prior. Flat
    priors, ``ImproperUniform(on(manifold), (), event_shape)``, give maximum likelihood; without a sampler,
    they start at a uniform point, or near the origin where there is none.

    :param model: a Pyro model; enumerated sites must be hidden with ``poutine.block``.
    :param init_loc_fn: per-site initialisation, as in Pyro.
    :param create_plates: as in Pyro, for data subsampling.

    >>> import pyro_manifold.distributions as mdist
    >>> model = lambda: pyro.sample("z", mdist.VonMisesFisher(torch.tensor([0.0, 1.0]), 2.0))
    >>> AutoManifoldDelta(model)()["z"]
    tensor([..., ...], grad_fn=...)
    """

    @checked
    def __init__(
        self,
        model: Callable[..., Any],
        init_loc_fn: Callable[..., Any] | None = None,
        *,
        create_plates: Callable[..., Any] | None = None,
    ) -> None:
        super().__init__(
            model, init_loc_fn or init_to_draw(fallback=init_to_median), create_plates=create_plates
        )

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        super()._setup_prototype(*args, **kwargs)
        for name, site in self.prototype_trace.iter_stochastic_nodes():
            manifold = sampled_on(site["fn"].support)[0]
            if manifold is not None and is_positive_definite(site["fn"].support):
                value = attrgetter(name)(self).detach().clone()
                deep_setattr(self, name, PyroParam(value, on(manifold), site["fn"].event_dim))

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """As Pyro's, where the points of positive definite sites have the log volume as log density."""
        if self.prototype_trace is None:
            self._setup_prototype(*args, **kwargs)
        plates, result = self._create_plates(*args, **kwargs), {}
        for name, site in self.prototype_trace.iter_stochastic_nodes():
            event_dim, density = site["fn"].event_dim, 0.0
            with ExitStack() as stack:
                for frame in site["cond_indep_stack"]:
                    if frame.vectorized:
                        stack.enter_context(plates[frame.name])
                value = attrgetter(name)(self)  # of the rows that the plates have chosen
                if is_positive_definite(site["fn"].support):
                    density = sum_rightmost(SymmetricVolume().log_volume(value), event_dim - 2)
                delta = dist.Delta(value, log_density=density, event_dim=event_dim)
                result[name] = pyro.sample(name, delta)
        return result

    @torch.no_grad()
    def median(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """The points, as copies."""
        return {k: v.clone() for k, v in super().median(*args, **kwargs).items()}
