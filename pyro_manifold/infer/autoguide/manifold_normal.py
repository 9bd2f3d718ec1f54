"""Mean-field guide with a distribution on the manifold for each manifold site."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import geoopt
import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide.guides import AutoGuide, AutoNormal
from pyro.infer.autoguide.utils import deep_setattr
from pyro.nn import PyroModule, PyroParam
from torch import Tensor
from torch.distributions import biject_to

from ...distributions import RiemannianNormal, VonMisesFisher, WrappedNormal
from ...geometry import SphereGeometry, geometry
from ...geometry.registry import ClassRegistry
from ...ops.arguments import checked
from ..anywhere import init_to_draw
from ..positive_definite import with_measure_of
from ._sites import FixedOptions, all_rows, sample_ordinary, start_of
from .centre import centre, standard_draws
from .indices import ModelIndices

__all__ = ["AutoManifoldNormal"]


def _wrapped(manifold: geoopt.Manifold, loc: Tensor, scale: Tensor) -> Any:
    return WrappedNormal(manifold, loc, scale)


def _riemannian(manifold: geoopt.Manifold, loc: Tensor, scale: Tensor) -> Any:
    return RiemannianNormal(manifold, loc, scale.squeeze(-1))


def _von_mises_fisher(manifold: geoopt.Manifold, loc: Tensor, scale: Tensor) -> Any:
    if _default_family(manifold) != "von_mises_fisher":
        raise ValueError(
            f"family: 'von_mises_fisher' lives on spheres, got a site on {manifold.name}; use 'wrapped' "
            f"there."
        )
    return VonMisesFisher(loc, scale.squeeze(-1).square().reciprocal())


FAMILIES: dict[str, Callable[..., Any]] = {
    "wrapped": _wrapped,
    "riemannian": _riemannian,
    "von_mises_fisher": _von_mises_fisher,
}


_DEFAULTS: ClassRegistry[str] = ClassRegistry()  # by class of geometry
_DEFAULTS.register(SphereGeometry)("von_mises_fisher")


def _default_family(manifold: geoopt.Manifold) -> str:
    return _DEFAULTS.find(type(geometry(manifold))) or "wrapped"


class AutoManifoldNormal(FixedOptions, ModelIndices, AutoNormal):
    r"""Independent distributions of all latents: on the manifold for manifold sites, Pyro's normal for the
    others.

    .. math:: q(z) = \prod_{\text{manifold}} q_i(z_i; \mu_i, \sigma_i) \prod_{\text{ordinary}} \mathcal
        N(t_j(z_j); m_j, s_j)

    The centres :math:`\mu_i` are parameters on their manifolds and every :math:`\sigma_i` is a geodesic
    length, so no chart is chosen and nothing is torn at a date line. Ordinary sites are treated as by
    :class:`pyro.infer.autoguide.AutoNormal`. For posterior correlations see
    :class:`AutoManifoldMultivariateNormal`.

    :param model: a Pyro model; enumerated sites must be hidden with ``poutine.block``, as for Pyro's guides.
    :param family: ``"wrapped"`` (one scale per tangent coordinate), ``"riemannian"`` or
        ``"von_mises_fisher"`` (one scale per point; concentration :math:`1/\sigma^2`), or a dict from site
        names to these. By default, and for sites that the dict leaves out, ``"von_mises_fisher"`` on spheres
        and ``"wrapped"`` elsewhere.
    :param init_loc_fn: per-site initialisation, as in Pyro; by default manifold sites start at a draw of
        their prior.
    :param float init_scale: initial spread: of ordinary sites the scale of every unconstrained coordinate; of
        manifold sites of dimension d the root mean square distance from the centre, that is
        :math:`\sigma = \mathtt{init\_scale}/\sqrt d`.
    :param create_plates: as in Pyro, for data subsampling.
    :raises ValueError: for an unknown family, or one that does not exist on a site's manifold; for a latent
        ``VonMises``.

    References: Kucukelbir et al., JMLR 2017 (ADVI); the distributions' own pages.

    >>> import pyro_manifold.distributions as mdist
    >>> model = lambda: pyro.sample("z", mdist.ManifoldUniform(geoopt.Sphere(), 3))
    >>> guide = AutoManifoldNormal(model)
    >>> guide()["z"].shape
    torch.Size([3])
    """

    @checked
    def __init__(
        self,
        model: Callable[..., Any],
        *,
        family: str | Mapping[str, str] | None = None,
        init_loc_fn: Callable[..., Any] | None = None,
        init_scale: float = 0.1,
        create_plates: Callable[..., Any] | None = None,
    ) -> None:
        names = {family} if isinstance(family, str) else set((family or {}).values())
        if names - set(FAMILIES):
            raise ValueError(
                f"family: got {sorted(names - set(FAMILIES))}, expected {', '.join(map(repr, FAMILIES))}."
            )
        super().__init__(
            model, init_scale=init_scale, create_plates=create_plates, init_loc_fn=init_loc_fn or init_to_draw
        )
        self._given_family = family if isinstance(family, str) else dict(family or {})

    @property
    def family(self) -> str | dict[str, str]:
        """The family that the constructor was given."""
        return self._given_family

    def _family(self, name: str) -> str:
        if isinstance(self.family, str):
            return self.family
        return self.family.get(name) or _default_family(self._manifolds[name])

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        AutoGuide._setup_prototype(self, *args, **kwargs)
        self._event_dims: dict[str, int] = {}
        self._manifolds: dict[str, geoopt.Manifold] = {}
        self.locs, self.scales = PyroModule(), PyroModule()
        for name, site in self.prototype_trace.iter_stochastic_nodes():
            manifold, value, constraint, event_dim = start_of(name, site)
            value, self._event_dims[name] = all_rows(site, value, event_dim), event_dim
            if manifold is None:
                scale, scale_dim = torch.full_like(value, self._init_scale), event_dim
            else:
                self._manifolds[name] = manifold
                cut = value.dim() - event_dim
                dim = geometry(manifold).dim(value.shape[cut:])
                size = dim if self._family(name) == "wrapped" else 1
                scale, scale_dim = value.new_full(value.shape[:cut] + (size,), self._init_scale / dim**0.5), 1
            deep_setattr(self.locs, name, PyroParam(value.clone(), constraint, event_dim))
            deep_setattr(self.scales, name, PyroParam(scale, self.scale_constraint, scale_dim))

    def distribution(self, name: str) -> Any:
        """The guide's distribution of a manifold site, at the present parameters."""
        loc, scale = self._get_loc_and_scale(name)
        return FAMILIES[self._family(name)](self._manifolds[name], loc, scale)

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        if self.prototype_trace is None:
            self._setup_prototype(*args, **kwargs)
        plates, result = self._create_plates(*args, **kwargs), {}
        for name, site in self.prototype_trace.iter_stochastic_nodes():
            with ExitStack() as stack:
                for frame in site["cond_indep_stack"]:
                    if frame.vectorized:
                        stack.enter_context(plates[frame.name])
                if name in self._manifolds:
                    distribution = with_measure_of(site["fn"].support, self.distribution(name))
                    result[name] = pyro.sample(
                        name, distribution.to_event(site["fn"].event_dim - distribution.event_dim)
                    )
                    continue
                loc, scale = self._get_loc_and_scale(name)
                hidden = pyro.sample(
                    name + "_unconstrained",
                    dist.Normal(loc, scale).to_event(self._event_dims[name]),
                    infer={"is_auxiliary": True},
                )
                result[name] = sample_ordinary(name, site, hidden)
        return result

    @torch.no_grad()
    def median(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """The centres of the draws of manifold sites, the medians of the others; copies."""
        result = {}
        for name, site in self.prototype_trace.iter_stochastic_nodes():
            loc, scale = self._get_loc_and_scale(name)
            if name not in self._manifolds:
                result[name] = biject_to(site["fn"].support)(loc).clone()
            elif self._family(name) == "wrapped":
                v = scale * standard_draws(scale.shape, scale)
                result[name] = centre(geometry(self._manifolds[name]), loc, v)
            else:  # densities that fall with the distance
                result[name] = loc.clone()
        return result

    @torch.no_grad()
    def quantiles(self, quantiles: Any, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Quantiles of the ordinary sites; a manifold has no order, so its sites are left out."""
        results = {}
        for name, site in self.prototype_trace.iter_stochastic_nodes():
            if name not in self._manifolds:
                loc, scale = self._get_loc_and_scale(name)
                q = torch.as_tensor(quantiles, dtype=loc.dtype, device=loc.device).reshape(
                    (-1,) + (1,) * loc.dim()
                )
                results[name] = biject_to(site["fn"].support)(dist.Normal(loc, scale).icdf(q))
        return results
