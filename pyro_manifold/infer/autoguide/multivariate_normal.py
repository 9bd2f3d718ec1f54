"""Guide with one normal distribution of the tangent coordinates of all latents together."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from operator import attrgetter
from typing import Any

import geoopt
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.distributions.util import eye_like
from pyro.infer.autoguide.guides import AutoGuide
from pyro.infer.autoguide.initialization import InitMessenger
from pyro.infer.autoguide.utils import deep_setattr
from pyro.nn import PyroModule, PyroParam
from torch import Tensor
from torch.distributions import biject_to

from ...geometry import geometry
from ...ops.arguments import checked
from ...transforms import ExpMap, SymmetricVolume
from ..anywhere import init_to_draw
from ..positive_definite import is_positive_definite
from ._sites import FixedOptions, sample_ordinary, start_of
from .centre import centre, standard_draws
from .indices import ModelIndices

__all__ = ["AutoManifoldMultivariateNormal"]


class AutoManifoldMultivariateNormal(FixedOptions, ModelIndices, AutoGuide):
    r"""One normal distribution with full covariance, of the tangent vectors of manifold sites and the
    unconstrained others together.

    .. math::
        (v_1, \dots, v_m, w_1, \dots) \sim \mathcal N(0, \Sigma), \qquad z_i = \exp_{\mu_i}(v_i), \qquad
        t_j(z_j) = m_j + w_j

    The :math:`\mu_i` are parameters on their manifolds, the :math:`v_i` coordinates in the frames there, so
    that :math:`\Sigma` holds geodesic lengths and every correlation between sites, of manifolds or not. On
    flat, hyperbolic and SPD space the density is
    :math:`\mathcal N(v, w; 0, \Sigma)\prod_i |\det d\exp_{\mu_i}(v_i)|^{-1}`. On compact manifolds a point
    has several v (windings), and the density given to the ELBO is

    .. math:: q = \frac{\mathcal N(v, w; 0, \Sigma)}{\prod_i \mathcal N(v_i; 0, \Sigma_{ii})}
        \prod_i \Big(\sum_{u:\,\exp u\,=\,\exp v_i} \frac{\mathcal N(u; 0, \Sigma_{ii})}{|\det
        d\exp_{\mu_i}(u)|}\Big)

    which is exact for independent sites. For correlated ones v is an auxiliary variable, guessed from z site
    by site: the ELBO stays a lower bound, looser by the divergence of that guess, which vanishes when
    :math:`\Sigma_{ii}` stays well inside the injectivity radius.

    :param model: a Pyro model; enumerated sites must be hidden with ``poutine.block``, as for Pyro's guides.
    :param init_loc_fn: per-site initialisation, as in Pyro; by default manifold sites start at a draw of
        their prior.
    :param float init_scale: initial spread: of ordinary sites the scale of every unconstrained coordinate; of
        manifold sites of dimension d the root mean square distance from the centre, that is init_scale over
        the root of d.
    :raises ValueError: for a model without latents, a subsampled plate (use :class:`AutoManifoldNormal`), a
        latent ``VonMises``.

    References: Kucukelbir et al., JMLR 2017 (full-rank ADVI); Ranganath, Tran & Blei, ICML 2016, sec. 3
    (auxiliary variables).

    >>> import pyro_manifold.distributions as mdist
    >>> def model():
    ...     z = pyro.sample("z", mdist.ManifoldUniform(geoopt.Sphere(), 3))
    ...     return pyro.sample("s", pyro.distributions.LogNormal(0.0, 1.0))
    >>> guide = AutoManifoldMultivariateNormal(model)
    >>> guide()["z"].shape, guide.get_posterior().event_shape
    (torch.Size([3]), torch.Size([3]))
    """

    @checked
    def __init__(
        self,
        model: Callable[..., Any],
        *,
        init_loc_fn: Callable[..., Any] = init_to_draw,
        init_scale: float = 0.1,
    ) -> None:
        if not init_scale > 0:
            raise ValueError(f"init_scale: got {init_scale}, expected a positive number.")
        self.init_loc_fn, self._init_scale = init_loc_fn, init_scale
        super().__init__(InitMessenger(init_loc_fn)(model))

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        super()._setup_prototype(*args, **kwargs)
        self._manifolds: dict[str, geoopt.Manifold] = {}
        self._shapes: dict[str, torch.Size] = {}  # of each site's coordinates
        self._event_dims: dict[str, int] = {}
        self.locs = PyroModule()
        self._given(args, kwargs)
        for name, site in self.prototype_trace.iter_stochastic_nodes():
            manifold, value, constraint, event_dim = start_of(name, site)
            self._shapes[name], self._event_dims[name] = value.shape, event_dim
            if manifold is not None:
                self._manifolds[name] = manifold
                cut = value.dim() - event_dim
                self._shapes[name] = value.shape[:cut] + torch.Size(
                    [geometry(manifold).dim(value.shape[cut:])]
                )
                self._event_dims[name] = (
                    1 + site["fn"].event_dim - event_dim
                )  # several points may be one event
            deep_setattr(self.locs, name, PyroParam(value.clone(), constraint, event_dim))
        size = sum(shape.numel() for shape in self._shapes.values())
        if not size:
            raise ValueError("model: has no latent sites, or empty ones alone; use an empty guide.")
        scale = value.new_full((size,), self._init_scale)
        for name, _, where in self._slices():
            if name in self._manifolds:
                scale[where] /= max(1, self._shapes[name][-1]) ** 0.5
        self.scale = PyroParam(scale, constraints.softplus_positive, 1)
        self.scale_tril = PyroParam(eye_like(scale, size), constraints.unit_lower_cholesky, 2)

    def _given(self, args: tuple, kwargs: dict) -> dict[str, Tensor]:
        given = super()._given(args, kwargs)
        for name, site in self.prototype_trace.iter_stochastic_nodes():
            for frame in site["cond_indep_stack"] if self._subsampled else ():
                if frame.name in self._subsampled:
                    raise ValueError(
                        f"{name}: is in the subsampled plate {frame.name!r}; a joint covariance needs all of "
                        "its rows at once. Use AutoManifoldNormal, or do not subsample."
                    )
        return given

    def get_posterior(self, *args: Any, **kwargs: Any) -> dist.TorchDistribution:
        """The normal distribution of all coordinates, site after site in the order of the model."""
        tril = self.scale.unsqueeze(-1) * self.scale_tril
        return dist.MultivariateNormal(torch.zeros_like(self.scale), scale_tril=tril)

    def _slices(self) -> Iterator[tuple[str, dict, slice]]:
        stop = 0
        for name, site in self.prototype_trace.iter_stochastic_nodes():
            start, stop = stop, stop + self._shapes[name].numel()
            yield name, site, slice(start, stop)

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        if self.prototype_trace is None:
            self._setup_prototype(*args, **kwargs)
        posterior = self.get_posterior()
        latent = pyro.sample(f"_{self._pyro_name}_latent", posterior, infer={"is_auxiliary": True})
        plates, result = self._create_plates(*args, **kwargs), {}
        for name, site, where in self._slices():
            shape = torch.broadcast_shapes(
                self._shapes[name], latent.shape[:-1] + (1,) * self._event_dims[name]
            )
            v, loc = latent[..., where].reshape(shape), attrgetter(name)(self.locs)
            with ExitStack() as stack:
                for frame in site["cond_indep_stack"]:
                    stack.enter_context(plates[frame.name])
                if name in self._manifolds:
                    density: Tensor | float = 0.0
                    value = ExpMap(self._manifolds[name], loc, validate_args=False)(v)
                    if poutine.get_mask() is not False:
                        density = self._log_change(name, loc, v, posterior.scale_tril[..., where, :])
                        if is_positive_definite(site["fn"].support):
                            density = density + SymmetricVolume().log_volume(value)
                    for _ in range(self._event_dims[name] - 1):  # several points may be one event
                        density = density.sum(-1) if isinstance(density, Tensor) else density
                    delta = dist.Delta(value, log_density=density, event_dim=site["fn"].event_dim)
                    result[name] = pyro.sample(name, delta)
                else:
                    result[name] = sample_ordinary(name, site, loc + v)
        return result

    def _log_change(self, name: str, loc: Tensor, v: Tensor, rows: Tensor) -> Tensor:
        """Log of the factor from the density of v to that of its point."""
        if not v.numel():
            return v.sum(-1)
        geo = geometry(self._manifolds[name])
        event = loc.shape[loc.dim() - geo.event_dim :]
        if geo.injectivity_radius(event) == torch.inf:
            return -geo.log_det_exp(loc, v)
        rows = rows.reshape(self._shapes[name] + rows.shape[-1:])
        base = dist.MultivariateNormal(torch.zeros_like(rows[..., 0]), scale_tril=_marginal_tril(rows))
        loc = loc.expand(v.shape[:-1] + event)
        return geo.log_wrapped(loc, v, base) - base.log_prob(v)

    @torch.no_grad()
    def median(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """The centres of the draws of manifold sites, the medians of the others; copies."""
        tril = self.get_posterior().scale_tril
        w = standard_draws(tril.shape[:1], tril) @ tril.mT
        result = {}
        for name, site, where in self._slices():
            loc = attrgetter(name)(self.locs)
            if name in self._manifolds:
                v = w[:, where].reshape(w.shape[:1] + self._shapes[name])
                result[name] = centre(geometry(self._manifolds[name]), loc, v)
            else:
                result[name] = biject_to(site["fn"].support)(loc).clone()
        return result

    @torch.no_grad()
    def quantiles(self, quantiles: Any, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Marginal quantiles of the ordinary sites; a manifold has no order, so its sites are left out."""
        result, sd = {}, self.get_posterior().variance.sqrt()
        for name, site, where in self._slices():
            if name not in self._manifolds:
                loc = attrgetter(name)(self.locs)
                q = torch.as_tensor(quantiles, dtype=loc.dtype, device=loc.device).reshape(
                    (-1,) + (1,) * loc.dim()
                )
                result[name] = biject_to(site["fn"].support)(
                    dist.Normal(loc, sd[where].reshape(loc.shape)).icdf(q)
                )
        return result


def _marginal_tril(rows: Tensor) -> Tensor:
    """The Cholesky factor of ``rows @ rows.mT``, which is not formed: it would have half the digits."""
    r = torch.linalg.qr(rows.mT).R
    return (r * torch.where(r.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(r).unsqueeze(-1)).mT
