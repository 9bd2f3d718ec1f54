"""Plots of Markov chains and posteriors: draws on the Poincaré disk, rank plots and calibration plots."""

import math
from typing import Any

import geoopt
import numpy as np
import torch
from torch import Tensor

from ..geometry import geometry
from ..infer.arviz import _arviz, to_inference_data
from ..infer.diagnostics.convergence import geodesic_statistics
from ..infer.diagnostics.frechet import frechet_mean
from ..infer.sbc.calibration import SBCResult
from ..infer.sbc.uniformity import ecdf_band
from ._axes import COLORS, axes_or_new, styled
from .plane import latent_axes, to_plane

__all__ = ["disk_posterior", "grouped", "plot_rank", "plot_sbc"]


def grouped(x: Tensor, event_dim: int) -> Tensor:
    """``x`` on the CPU, without a gradient.

    :raises ValueError: unless its shape is ``(chains, draws) + event``.
    """
    if x.dim() != 2 + event_dim:
        raise ValueError(
            f"x: got shape {tuple(x.shape)}, expected (chains, draws) + event for one point of the site."
        )
    return x.detach().cpu()


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
    x = grouped(x, geo.event_dim)
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
    :return: an array of axes.
    """
    f = geodesic_statistics(manifold, grouped(x, geometry(manifold).event_dim))
    names = ["distance to the mean", *(f"v{i}" for i in range(1, f.shape[-1]))]
    drawn = _arviz().plot_rank(
        to_inference_data({n: s for n, s in zip(names, f.unbind(-1), strict=True)}), **kwargs
    )
    if not hasattr(drawn, "viz"):
        return drawn
    return np.array([drawn.viz["plot"][name].item() for name in names])  # of arviz-plots


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
