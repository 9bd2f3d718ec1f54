"""Point estimates on manifolds."""

from collections.abc import Callable
from typing import Any

import torch
from pyro.infer.autoguide.guides import AutoDelta
from pyro.infer.autoguide.initialization import init_to_median
from torch import Tensor

from ...ops.arguments import checked
from ..anywhere import init_to_draw
from ._sites import FixedOptions
from .indices import ModelIndices

__all__ = ["AutoManifoldDelta"]


class AutoManifoldDelta(FixedOptions, ModelIndices, AutoDelta):
    r"""Maximum a posteriori: one point for each latent site, on its manifold.

    .. math:: \hat z = \arg\max_z\; p(x, z)

    The density is with respect to Riemannian volume, so on manifold sites the answer does not depend on a
    chart. The points are parameters with ``constraint=on(manifold)``: with
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

    @torch.no_grad()
    def median(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """The points, as copies."""
        return {k: v.clone() for k, v in super().median(*args, **kwargs).items()}
