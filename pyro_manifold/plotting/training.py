"""Plots of training results: the scan over manifold dimensions."""

from typing import Any

from ._axes import axes_or_new, styled

__all__ = ["elbow"]


def elbow(scan: Any, ax: Any = None, *, label: str | None = None, **style: Any) -> Any:
    """Plot the held-out error against the manifold dimension on a logarithmic scale, with a ring around the
    elbow.

    :param scan: the result of :func:`~pyro_manifold.training.scan_dimension`, or any object with ``dims``,
        ``errors`` and ``elbow``.
    :param label: label of the line.
    :param style: keyword arguments for matplotlib's ``plot``.
    """
    ax = axes_or_new(ax, figsize=(5, 3.5), layout="constrained")
    (line,) = ax.plot(scan.dims, scan.errors, **styled("line", style, marker="o", markersize=4, label=label))
    at = scan.errors[scan.dims.index(scan.elbow)]
    ring = {"markersize": 13, "fillstyle": "none", "color": line.get_color()}
    ax.plot([scan.elbow], [at], marker="o", linestyle="none", **ring)
    ax.annotate(
        f"n = {scan.elbow}",
        (scan.elbow, at),
        xytext=(9, 7),
        textcoords="offset points",
        color=line.get_color(),
    )
    ax.set(yscale="log", xlabel="dimension n of the manifold", ylabel="rms distance of held-out rows")
    ax.xaxis.get_major_locator().set_params(integer=True)
    return ax
