"""Point estimates on manifolds."""

import functools
from collections.abc import Callable
from typing import Any

from pyro.infer.autoguide.guides import AutoDelta
from pyro.infer.autoguide.initialization import init_to_median

from ...constraints import manifold_of
from ...geometry import geometry
from ..reparam._base import innermost, like_of
from .indices import ModelIndices

__all__ = ["AutoManifoldDelta", "init_to_origin"]


class AutoManifoldDelta(ModelIndices, AutoDelta):
    r"""Maximum a posteriori: one point for each latent site, on its manifold.

    .. math:: \hat z = \arg\max_z\; p(x, z)

    The density is with respect to Riemannian volume, so on manifold sites the answer does not depend on a chart. The points are
    parameters with ``constraint=on(manifold)``: with :class:`~pyro_manifold.infer.RiemannianAdam` or
    :class:`~pyro_manifold.infer.RiemannianSGD` they move along the manifold; any Pyro optimiser will do. Manifold sites start at
    the manifold's origin (no draw is needed, so flat priors, ``ImproperUniform(on(manifold), (), event_shape)``, work and give
    maximum likelihood). A start opposite to the answer on a sphere is a saddle: give ``init_to_sample`` there.

    :param model: a Pyro model; enumerated sites must be hidden with ``poutine.block``.
    :param init_loc_fn: per-site initialisation, as in Pyro.
    :param create_plates: as in Pyro, for data subsampling.

    >>> import pyro_manifold.distributions as mdist
    >>> model = lambda: pyro.sample("z", mdist.VonMisesFisher(torch.tensor([0.0, 1.0]), 2.0))
    >>> AutoManifoldDelta(model)()["z"]
    tensor([1., 0.], grad_fn=...)
    """

    def __init__(
        self,
        model: Callable[..., Any],
        init_loc_fn: Callable[..., Any] | None = None,
        *,
        create_plates: Callable[..., Any] | None = None,
    ) -> None:
        super().__init__(model, init_loc_fn or init_to_origin, create_plates=create_plates)


def init_to_origin(site: dict | None = None, *, fallback: Callable[..., Any] = init_to_median) -> Any:
    """Initialise manifold sites at the manifold's origin, without a draw; others by ``fallback``."""
    if site is None:
        return functools.partial(init_to_origin, fallback=fallback)
    fn = site["fn"]
    manifold = manifold_of(fn.support)
    if manifold is None:
        return fallback(site)
    geo, shape, like = geometry(manifold), fn.shape(), like_of(innermost(fn))
    event = shape[len(shape) - geo.event_dim :]
    value = geo.base_point(event, dtype=like.dtype, device=like.device).expand(shape).clone()
    value._pyro_custom_init = False  # type: ignore[attr-defined]
    return value
