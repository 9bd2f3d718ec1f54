"""Plots of Markov chains and posteriors on manifolds: traces on the sphere, draws on the Poincaré disk, rank
plots and calibration plots."""

import math
from typing import Any

import geoopt
import torch
from torch import Tensor

from ..constraints import check_point
from ..geometry import geometry
from ..infer.arviz import _arviz, to_inference_data
from ..infer.diagnostics.convergence import geodesic_statistics
from ..infer.diagnostics.frechet import frechet_mean
from ..infer.sbc.calibration import SBCResult
from ..infer.sbc.uniformity import ecdf_band
from ..ops.lon_lat import from_lon_lat
from ._axes import COLORS, axes_or_new, styled
from .plane import latent_axes, to_plane

__all__ = ["disk_posterior", "plot_rank", "plot_sbc", "sphere_trace"]


def _grouped(x: Tensor, event_dim: int) -> Tensor:
    """``x`` on the CPU, without a gradient.

    :raises ValueError: unless its shape is ``(chains, draws) + event``.
    """
    if x.dim() != 2 + event_dim:
        raise ValueError(
            f"x: got shape {tuple(x.shape)}, expected (chains, draws) + event for one point of the site."
        )
    return x.detach().cpu()


def sphere_trace(x: Tensor, ax: Any = None, *, lines: bool = True, **style: Any) -> Any:
    r"""Draw chains on :math:`S^2` in orthographic projection, with the Fréchet mean of the draws at the centre;
    the far side is drawn faintly.

    :param x: points, shape ``(chains, draws, 3)``.
    :param lines: join successive draws of a chain by arcs of great circles.
    :param style: keyword arguments for matplotlib's ``scatter``.
    :raises ValueError: for another shape.
    """
    x = _grouped(x, 1)
    if x.shape[-1] != 3:
        raise ValueError(
            f"x: got shape {tuple(x.shape)}, expected (chains, draws, 3): points of the sphere S^2."
        )
    ax = axes_or_new(ax, figsize=(5, 5), layout="constrained")
    sphere = geoopt.Sphere()
    geo = geometry(sphere)
    check_point(sphere, "x", x)
    x = geo.project(x.double())  # float32 points are not on the sphere to within float64 tolerance
    mean = frechet_mean(sphere, x.flatten(0, 1), tolerance=1e-4).mean
    up = torch.tensor([0.0, 0.0, 1.0] if abs(float(mean[2])) < 0.9 else [1.0, 0.0, 0.0], dtype=x.dtype)
    up = geo.project(up - (up * mean).sum() * mean)
    view = torch.stack([torch.linalg.cross(up, mean), up, mean])  # right, up, towards the eye

    def draw(path: Tensor, **kwargs: Any) -> None:
        p = path @ view.T
        for front, fade in ((True, 1.0), (False, 0.25)):
            shown = torch.where(((p[..., 2] >= 0) == front).unsqueeze(-1), p[..., :2], torch.nan)
            ax.plot(*shown.T.numpy(), **{**kwargs, "alpha": kwargs.get("alpha", 1.0) * fade})

    t = torch.linspace(-math.pi, math.pi, 181, dtype=x.dtype)
    for lat in torch.linspace(-60, 60, 5, dtype=x.dtype).deg2rad():
        draw(from_lon_lat(t, lat), color="0.8", linewidth=0.6, zorder=0)
    for lon in torch.arange(0, 180, 30, dtype=x.dtype).deg2rad():
        # latitudes beyond the poles give the other half of the great circle
        draw(from_lon_lat(lon, t), color="0.8", linewidth=0.6, zorder=0)
    ax.plot(t.cos().numpy(), t.sin().numpy(), color="0.25", linewidth=1.2)
    s = torch.linspace(0, 1, 12, dtype=x.dtype).unsqueeze(-1)
    for i, chain in enumerate(x):
        color = COLORS[i % len(COLORS)]
        if lines and len(chain) > 1:
            v = geo.log_frame(chain[:-1], chain[1:]).unsqueeze(1)
            arcs = geo.exp_frame(chain[:-1].unsqueeze(1).expand(-1, len(s), -1), s * v)
            draw(arcs.flatten(0, 1), color=color, linewidth=0.5, alpha=0.5, zorder=1)
        p = chain @ view.T
        front = p[:, 2] >= 0
        look = styled("points", style, s=8, linewidths=0, zorder=2, color=color, label=f"chain {i}")
        ax.scatter(*p[front, :2].T.numpy(), **look)
        ax.scatter(*p[~front, :2].T.numpy(), **{**look, "alpha": 0.2, "label": None})
    ax.set_aspect("equal")
    ax.axis("off")
    if len(x) > 1:
        ax.legend(loc="upper left", frameon=False, markerscale=2, fontsize=8)
    return ax


def disk_posterior(
    manifold: geoopt.Manifold,
    x: Tensor,
    ax: Any = None,
    *,
    probs: tuple[float, ...] = (0.5, 0.9),
    **style: Any,
) -> Any:
    """Plot draws on the hyperbolic plane in the unit disk (or on the flat plane), their Fréchet mean, and the
    geodesic circles about it that contain the fractions ``probs`` of the draws.

    :param manifold: PoincareBall, Lorentz, Stereographic with negative curvature, or Euclidean;
        2-dimensional.
    :param x: points, shape ``(chains, draws) + event``, one colour per chain.
    :param probs: fractions of the draws inside each circle.
    :param style: keyword arguments for matplotlib's ``scatter``.
    :raises ValueError: for another manifold or shape.
    """
    geo = geometry(manifold)
    x = _grouped(x, geo.event_dim)
    if not all(0 < p < 1 for p in probs):
        raise ValueError(f"probs: got {probs}, expected probabilities between 0 and 1.")
    to_plane(manifold, x)  # raises if the manifold cannot be drawn in the plane
    ax = latent_axes(manifold) if ax is None else ax
    for i, chain in enumerate(x):
        look: dict[str, Any] = dict(
            s=6, linewidths=0, alpha=0.5, zorder=2, color=COLORS[i % len(COLORS)], label=f"chain {i}"
        )
        ax.scatter(*to_plane(manifold, chain).T.numpy(), **styled("points", style, **look))
    mean = frechet_mean(manifold, x.flatten(0, 1), tolerance=1e-5).mean
    radius = geo.dist(mean.expand_as(x), x).flatten()
    t = torch.linspace(0, 2 * math.pi, 181, dtype=x.dtype)
    circle = torch.stack([t.cos(), t.sin()], -1)
    for p in probs:
        r = radius.quantile(p)
        curve = to_plane(manifold, geo.exp_frame(mean.expand((len(t),) + mean.shape), r * circle))
        ax.plot(*curve.T.numpy(), color="black", linewidth=1.2, zorder=3)
        ax.annotate(f"{p:.0%}", curve[45].tolist(), fontsize=8, ha="center", va="bottom", zorder=4)
    ax.scatter(
        *to_plane(manifold, mean).reshape(2, 1).numpy(),
        marker="+",
        color="black",
        s=80,
        zorder=4,
        label="Fréchet mean",
    )
    ax.legend(loc="upper right", frameon=False, fontsize=8)
    return ax


def plot_rank(manifold: geoopt.Manifold, x: Tensor, **kwargs: Any) -> Any:
    """ArviZ's rank plots of the distance of each draw to the Fréchet mean and of its log-map coordinates there.

    Chains that agree have flat histograms of ranks. Needs ArviZ 0.x, or 1.x with arviz-plots.

    :param manifold: geoopt manifold.
    :param x: points, shape ``(chains, draws) + event``.
    :param kwargs: keyword arguments for ``arviz.plot_rank``.
    :return: the result of ``arviz.plot_rank`` (an array of axes in 0.x).
    """
    f = geodesic_statistics(manifold, _grouped(x, geometry(manifold).event_dim))
    names = ["distance to the mean", *(f"v{i}" for i in range(1, f.shape[-1]))]
    return _arviz().plot_rank(
        to_inference_data({n: s for n, s in zip(names, f.unbind(-1), strict=True)}), **kwargs
    )


def plot_sbc(result: SBCResult, axes: Any = None, *, prob: float = 0.95) -> Any:
    """For each statistic of a calibration run, plot the empirical distribution function of the ranks minus the
    uniform one, with the simultaneous band that contains it with probability ``prob`` if the posterior is
    calibrated.

    A line that leaves the band is evidence of miscalibration. A maximum followed by a minimum means that the
    posterior is too narrow, the reverse that it is too wide; a single maximum means that its draws are too
    large, a single minimum that they are too small.

    :param axes: one matplotlib axes per statistic.
    :raises ValueError: for another number of axes.
    """
    n = len(result.ranks)
    if axes is None:
        columns = min(4, n)
        rows = math.ceil(n / columns)
        size = (2.6 * columns, 2.1 * rows)
        axes = axes_or_new(
            None, nrows=rows, ncols=columns, figsize=size, sharex=True, squeeze=False, layout="constrained"
        ).ravel()
        for ax in axes[n:]:
            ax.axis("off")
    axes = list(axes) if hasattr(axes, "__len__") else [axes]
    if len(axes) < n:
        raise ValueError(f"axes: got {len(axes)}, expected {n}, one per statistic.")
    band = ecdf_band(result.num_simulations, result.num_draws, prob)
    z = band.points
    for ax, (name, ranks) in zip(axes, result.ranks.items(), strict=False):
        counts = torch.bincount(ranks, minlength=result.num_draws + 1).cumsum(0)[:-1] / len(ranks)
        ax.fill_between(
            z.numpy(),
            (band.lower - z).numpy(),
            (band.upper - z).numpy(),
            color="0.88",
            linewidth=0,
            step="mid",
        )
        inside = bool(((counts >= band.lower) & (counts <= band.upper)).all())
        ax.step(
            z.numpy(),
            (counts - z).numpy(),
            where="mid",
            color=COLORS[0] if inside else COLORS[1],
            linewidth=1.2,
        )
        ax.axhline(0, color="0.5", linewidth=0.5)
        ax.set_title(name + ("" if inside else "  (leaves the band)"), fontsize=9, loc="left")
    axes[0].set_ylabel("ECDF − uniform", fontsize=9)
    return axes
