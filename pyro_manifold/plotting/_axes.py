"""Axes and styles for all plotting functions."""

from typing import Any

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
