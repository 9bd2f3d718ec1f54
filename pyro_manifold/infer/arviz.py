"""Draws on manifolds as ArviZ data, in the coordinates that a plot or a table needs."""

import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import geoopt
import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer import MCMC
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from ..geometry import Geometry, geometry
from ..ops.arguments import checked
from .diagnostics.frechet import frechet_mean
from .diagnostics.samples import gather_samples, is_data
from .mcmc.errors import ConvergenceError

__all__ = ["to_inference_data"]

Labels = list[str]


def _chart(geo: Geometry, x: Tensor, center: Tensor | None) -> tuple[Tensor, Labels]:
    v = geo.chart_inv(x) if center is None else geo.log_frame(center.expand_as(x), x)
    return v, [f"v{i + 1}" for i in range(v.shape[-1])]


def _angles(geo: Geometry, x: Tensor, center: Tensor | None) -> tuple[Tensor, Labels]:
    """Factor by factor; a factor without angles in its chart."""
    points = geo.split(x)
    centers = [None] * len(points) if center is None else geo.split(center)
    columns: list[Tensor] = []
    labels: Labels = []
    for i, (g, y, c) in enumerate(zip(geo.factors, points, centers, strict=True)):
        v, names = g.angles(y) or _chart(g, y, None if g.has_chart else c)
        columns.append(v)
        labels += names if geo.factors == (geo,) else [f"{i}.{n}" for n in names]
    return torch.cat(columns, -1), labels


def _ambient(geo: Geometry, x: Tensor, center: Tensor | None) -> tuple[Tensor, Labels]:
    return x, geo.coordinate_names(geo.event_shape(x))


def _needs_center(geo: Geometry, coords: str, x: Tensor) -> bool:
    """Are these coordinates logarithms at the mean of the draws?"""
    if coords == "ambient" or geo.has_chart:
        return False
    points = zip(geo.factors, geo.split(x), strict=True)
    return coords == "chart" or not all(g.has_chart or g.angles(y) for g, y in points)


COORDINATES: dict[str, Callable[[Geometry, Tensor, Tensor | None], tuple[Tensor, Labels]]] = {
    "ambient": _ambient, "chart": _chart, "angles": _angles,
}  # fmt: skip


def _arviz() -> Any:
    with warnings.catch_warnings():  # 0.23 announces its rewrite on its first import each day
        warnings.simplefilter("ignore", FutureWarning)
        import arviz
    return arviz


def _from_dict(groups: dict[str, dict[str, Any]], dims: dict[str, list[str]], coords: dict[str, Any]) -> Any:
    """ArviZ 1.x takes one dict of groups and gives a DataTree; 0.x takes a keyword per group and gives
    InferenceData."""
    f = _arviz().from_dict
    if "posterior" in inspect.signature(f).parameters:
        return f(**groups, dims=dims, coords=coords)
    return f(groups, dims=dims, coords=coords)


class _Converter:
    """Coordinates of the sites of every group, with names for their axes."""

    def __init__(self, manifolds: Mapping[str, geoopt.Manifold], coords: str) -> None:
        self.manifolds, self.map, self.kind = manifolds, COORDINATES[coords], coords
        self.centers: dict[str, Tensor] = {}  # means of the posterior draws, which are converted first
        self.dims: dict[str, list[str]] = {}
        self.coords: dict[str, list[Any]] = {}
        self.circular: dict[str, Labels] = {}

    def group(self, samples: Mapping[str, Tensor], lead: int = 2) -> dict[str, Any]:
        return {k: self._site(k, torch.as_tensor(v), lead) for k, v in samples.items()}

    def _site(self, name: str, x: Tensor, lead: int) -> Any:
        x = x.detach().cpu()
        event: list[str] = []
        if name in self.manifolds:
            geo = geometry(self.manifolds[name])
            if name not in self.centers and _needs_center(geo, self.kind, x):
                try:
                    self.centers[name] = frechet_mean(
                        geo.manifold, x.flatten(0, lead - 1), tolerance=1e-5
                    ).mean
                except ConvergenceError as error:
                    raise ConvergenceError(
                        f"{name}: {error} Or use coords='ambient', which needs no mean."
                    ) from error
            x, labels = self.map(geo, x, self.centers.get(name))
            event = [f"{name}_coord"]
            self.coords[event[0]] = labels
            if self.map is _ambient and geo.event_dim == 2:
                event = [f"{name}_row", f"{name}_column"]
                self.coords = {k: v for k, v in self.coords.items() if k != f"{name}_coord"}
                self.coords.update({e: list(range(n)) for e, n in zip(event, x.shape[-2:], strict=True)})
            if self.map is _angles:
                self.circular[name] = [n for n in labels if "azimuth" in n]
        batch = [f"{name}_dim_{i}" for i in range(x.dim() - lead - len(event))]
        self.dims[name] = batch + event
        return x.numpy()


def _diverging(mcmc: MCMC, chains: int, draws: int) -> Tensor | None:
    """Which draws ended in a divergence: the kernel's table if it keeps one, else from its list of draws."""
    diagnostics = [d or {} for d in mcmc._diagnostics]
    if not all("divergences" in d for d in diagnostics):
        return None
    out = torch.zeros(chains, draws, dtype=torch.bool)
    for i, d in enumerate(diagnostics[:chains]):
        out[i, [t for t in d["divergences"] if 0 <= t < draws]] = True
    return out


def _observed(model: Callable[..., Any], args: tuple, kwargs: dict) -> dict[str, Tensor]:
    with torch.no_grad(), poutine.block():
        trace = poutine.trace(model).get_trace(*args, **kwargs)
    return {k: torch.as_tensor(v["value"]) for k, v in trace.nodes.items() if is_data(v)}


def _log_likelihood(
    model: Callable[..., Any], args: tuple, kwargs: dict, samples: Mapping[str, Tensor], names: list[str]
) -> dict[str, Tensor]:
    """Pointwise log densities of the observed sites, zero where masked, by one model run per draw.

    :raises ValueError: for a model with latent sites that have no draws.
    """
    chains, draws = next(iter(samples.values())).shape[:2]
    flat = {k: v.flatten(0, 1) for k, v in samples.items()}
    rows: dict[str, list[Tensor]] = {k: [] for k in names}
    with torch.no_grad(), pyro.validation_enabled(False), poutine.block():
        for i in range(chains * draws):
            conditioned = poutine.condition(model, data={k: v[i] for k, v in flat.items()})
            trace = poutine.trace(conditioned).get_trace(*args, **kwargs)
            missing = [k for k, v in trace.iter_stochastic_nodes() if not site_is_subsample(v)]
            if missing:
                raise ValueError(
                    f"log_likelihood: the run has no draws of the latent sites {missing} (enumerated ones "
                    "are summed out), and their likelihood is not known without. Draw them with "
                    "infer_discrete, or leave log_likelihood out."
                )
            for k in names:
                site = trace.nodes[k]
                rows[k].append(scale_and_mask(site["fn"].log_prob(site["value"]), mask=site["mask"]))
    return {k: torch.stack(v).unflatten(0, (chains, draws)) for k, v in rows.items()}


@checked
def to_inference_data(
    source: Any,
    *,
    coords: str = "ambient",
    manifolds: Mapping[str, geoopt.Manifold] | None = None,
    group_by_chain: bool = True,
    log_likelihood: bool = False,
    observed_data: Mapping[str, Tensor] | None = None,
    prior: Mapping[str, Tensor] | None = None,
    prior_predictive: Mapping[str, Tensor] | None = None,
    posterior_predictive: Mapping[str, Tensor] | None = None,
) -> Any:
    r"""MCMC runs or guide draws as ArviZ data, with manifold-valued sites in the coordinates that are asked
    for.

    .. math:: \text{"ambient"}: x \qquad \text{"chart"}: \log_o x \text{ or } \log_{\bar x} x \qquad
        \text{"angles"}: (\text{polar}, \dots, \text{azimuth})

    "ambient": points as they are. "chart": frame coordinates of the logarithm at the origin where that is a
    global chart (hyperbolic space, SPD), else at the pooled Fréchet mean. "angles" (radians): polar angles
    and azimuth on spheres, wrapped angles on tori, the rotation vector (axis times angle) on SO(3), factor by
    factor on products; other manifolds in their chart.

    ArviZ treats coordinates as numbers on a line: across the seam of an azimuth its diagnostics mislead, so
    judge convergence by :func:`geodesic_r_hat`. ``posterior.attrs["circular"]`` lists the azimuths as
    "site[label]", ``["circ_var_names"]`` the sites that ``az.summary(circ_var_names=...)`` may treat as a
    whole.

    :param source: a finished ``MCMC`` or ``VectorizedMCMC`` run, or a dict of draws
        (``Predictive(guide, ...)()``).
    :param manifolds: site name -> geoopt manifold; read off an MCMC run's model by default.
    :param group_by_chain: for a dict: False if its tensors start with (draws,) and not (chains, draws), as
        guide draws do.
    :param log_likelihood: also the pointwise log likelihood, by one run of the model per draw (MCMC runs
        only); 0 in masked rows.
    :param observed_data: by default the observed sites of an MCMC run's model.
    :param prior: draws from ``Predictive`` by site, of shape (draws, ...).
    :param prior_predictive: likewise.
    :param posterior_predictive: likewise.
    :return: ``arviz.InferenceData`` (ArviZ 0.x; run with 0.23.4) or ``xarray.DataTree`` (1.x; run with
        1.3.0), with groups posterior, sample_stats (divergences of an MCMC run), log_likelihood,
        observed_data and those given.
    :raises ValueError: for unknown coords, draws off their manifold, a run without draws, a log likelihood
        without draws of all latent sites.

    >>> import geoopt
    >>> x = geometry(geoopt.Sphere()).uniform_sample((2, 5), (3,))
    >>> data = to_inference_data({"x": x}, manifolds={"x": geoopt.Sphere()}, coords="angles")
    >>> data.posterior["x"].dims, data.posterior["x_coord"].values.tolist()
    (('chain', 'draw', 'x_coord'), ['polar', 'azimuth'])
    """
    if coords not in COORDINATES:
        raise ValueError(f"coords: got {coords!r}, expected one of {sorted(COORDINATES)}.")
    samples, found = gather_samples(source, manifolds, group_by_chain)
    model = getattr(source.kernel, "model", None) if isinstance(source, MCMC) else None
    if log_likelihood and model is None:
        raise ValueError(
            "log_likelihood: needs an MCMC run of a model (not a potential_fn, nor a dict of draws)."
        )
    convert = _Converter(found, coords)
    groups: dict[str, dict[str, Any]] = {"posterior": convert.group(samples)}
    observed: Mapping[str, Tensor] = observed_data or {}
    if isinstance(source, MCMC):
        chains, draws = next(iter(samples.values())).shape[:2]
        diverging = _diverging(source, chains, draws)
        if diverging is not None:
            groups["sample_stats"] = {"diverging": diverging.numpy()}
        if model is not None:
            args, kwargs = source._args or (), source._kwargs or {}
            own = _observed(model, args, kwargs)
            observed = observed_data or own
            if log_likelihood:
                rows = _log_likelihood(model, args, kwargs, samples, list(own))
                groups["log_likelihood"] = {k: v.cpu().numpy() for k, v in rows.items()}
    for name, group in (
        ("prior", prior),
        ("prior_predictive", prior_predictive),
        ("posterior_predictive", posterior_predictive),
    ):
        if group:
            groups[name] = convert.group({k: v.unsqueeze(0) for k, v in group.items()})
    if observed:
        groups["observed_data"] = {k: v.detach().cpu().numpy() for k, v in observed.items()}
    data = _from_dict(groups, convert.dims, convert.coords)
    circular = convert.circular
    data["posterior"].attrs["circular"] = [f"{k}[{n}]" for k, names in circular.items() for n in names]
    data["posterior"].attrs["circ_var_names"] = [
        k for k, names in circular.items() if names and len(names) == len(convert.coords[f"{k}_coord"])
    ]
    return data
