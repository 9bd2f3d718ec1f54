"""What every picture does with the axes and the styles it is given."""

from typing import Any

COLORS = [  # ten classes, told apart also by lightness
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
    if ax is not None:
        return ax
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("pyro_manifold.plotting draws with matplotlib: pip install matplotlib") from error
    return plt.subplots(**kwargs)[1]


def styled(kind: str, style: dict[str, Any], **defaults: Any) -> dict[str, Any]:
    """Defaults of a "line" or of "points" under what the caller gives, whichever of matplotlib's aliases he
    uses."""
    import matplotlib.cbook
    import matplotlib.collections
    import matplotlib.lines

    artist = matplotlib.lines.Line2D if kind == "line" else matplotlib.collections.Collection
    given = matplotlib.cbook.normalize_kwargs(style, artist)
    out = {**matplotlib.cbook.normalize_kwargs(defaults, artist), **given}
    if {"c", "facecolor"} & set(given) and "color" not in given:
        out.pop("color", None)  # scatter takes one of them
    return out
