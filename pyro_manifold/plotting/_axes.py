"""Axes and styles for all plotting functions."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from ..ops.highest_density import highest_density_levels

COLORS = [  # for ten classes; they also differ in lightness
    "#4477aa",
    "#ee6677",
    "#228833",
    "#ccbb44",
    "#66ccee",
    "#aa3377",
    "#999999",
    "#ee8833",
    "#224466",
    "#77cc99",
]


def axes_or_new(ax: Any, **kwargs: Any) -> Any:
    """``ax``, or new axes made by ``plt.subplots(**kwargs)`` if it is ``None``."""
    if ax is not None:
        return ax
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("pyro_manifold.plotting draws with matplotlib: pip install matplotlib") from error
    return plt.subplots(**kwargs)[1]


def styled(kind: str, style: dict[str, Any], **defaults: Any) -> dict[str, Any]:
    """``style``, completed by ``defaults``, for a "line" or for "points". The caller may use any of
    matplotlib's aliases (``c`` or ``color``, ``lw`` or ``linewidth``)."""
    import matplotlib.cbook
    import matplotlib.collections
    import matplotlib.lines

    artist = matplotlib.lines.Line2D if kind == "line" else matplotlib.collections.Collection
    given = matplotlib.cbook.normalize_kwargs(style, artist)
    out = {**matplotlib.cbook.normalize_kwargs(defaults, artist), **given}
    if {"c", "facecolor"} & set(given) and "color" not in given:
        out.pop("color", None)  # scatter accepts only one of them
    return out


def log_density_at(log_prob: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The log density at points ``x``, shape ``(height, width) + event``, without a gradient.

    :raises ValueError: unless ``log_prob`` gives one number for each point.
    """
    with torch.no_grad():
        out = log_prob.log_prob(x) if isinstance(log_prob, Distribution) else log_prob(x)
    if not isinstance(out, Tensor) or out.shape != x.shape[:2]:
        seen = f"shape {tuple(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
        raise ValueError(
            f"log_prob: got {seen} for points of shape {tuple(x.shape)}; expected {tuple(x.shape[:2])}, a log density "
            "for each point, such as the method log_prob of a distribution."
        )
    return out


def colour_scale(density: Tensor, decades: float | None) -> tuple[Tensor, dict[str, Any]]:
    """The density as it is drawn, and matplotlib's options: a logarithmic scale over ``decades`` powers of ten below
    the largest value, or a linear one if that is None."""
    if decades is None:
        return density, {}
    import matplotlib.colors

    top = float(density.max())
    low = top * 10.0**-decades
    return density.clamp_min(low), {"norm": matplotlib.colors.LogNorm(low, top)}


def outlined(
    ax: Any,
    x: Tensor,
    y: Tensor,
    log_prob: Tensor,
    area: Tensor,
    probs: Sequence[float],
    style: dict[str, Any],
) -> None:
    """Contours of the smallest regions that hold the shares ``probs``, labelled with these where lines are long
    enough."""
    levels = highest_density_levels(log_prob, area, probs)
    names = dict(zip(levels, (f"{p:.0%}" for p in probs), strict=True))
    look = {"colors": [COLORS[1]], "linewidths": 1.2, "linestyles": "solid", "zorder": 4, **style}
    lines = ax.contour(x.numpy(), y.numpy(), log_prob.numpy(), levels=sorted(names), **look)
    ax.clabel(lines, fmt=names, fontsize=7)
