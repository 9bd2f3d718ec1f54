"""Pictures: the plane and the Poincaré disk with their geodesics, maps of the sphere, grids of images.

Every function draws on the matplotlib axes it is given, or on new ones, and returns them. Matplotlib is imported when
a function is first called; ``pip install matplotlib`` (or the extra ``pyro-manifold[tutorials]``) provides it.
"""

import math
from collections.abc import Callable
from typing import Any

import geoopt
import torch
from torch import Tensor

from .geometry import Geometry, geometry
from .ops.lon_lat import from_lon_lat, lon_lat

__all__ = [
    "from_lon_lat",
    "geodesic",
    "image_grid",
    "latent_axes",
    "latent_scatter",
    "lon_lat",
    "sphere_density",
    "sphere_points",
    "to_plane",
    "world_axes",
]

_COLORS = [  # ten classes, told apart also by lightness
    "#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#999999", "#ee8833", "#224466", "#77cc99",
]  # fmt: skip


def _axes(ax: Any, **kwargs: Any) -> Any:
    if ax is not None:
        return ax
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("pyro_manifold.plotting draws with matplotlib: pip install matplotlib") from error
    return plt.subplots(**kwargs)[1]


def _styled(kind: str, style: dict[str, Any], **defaults: Any) -> dict[str, Any]:
    """Defaults of a "line" or of "points" under what the caller gives, whichever of matplotlib's aliases he uses."""
    import matplotlib.cbook
    import matplotlib.collections
    import matplotlib.lines

    artist = matplotlib.lines.Line2D if kind == "line" else matplotlib.collections.Collection
    given = matplotlib.cbook.normalize_kwargs(style, artist)
    out = {**matplotlib.cbook.normalize_kwargs(defaults, artist), **given}
    if {"c", "facecolor"} & set(given) and "color" not in given:
        out.pop("color", None)  # scatter takes one of them
    return out


def _curvature(geo: Geometry, z: Tensor) -> float:
    try:
        curvature = float(geo.curvature(z))
    except NotImplementedError:
        curvature = math.nan
    if not geo.has_chart or not curvature <= 0:
        raise ValueError(
            f"manifold: {geo.manifold.name} cannot be drawn in the plane; expected a Euclidean or hyperbolic one. "
            "Use sphere_density for a sphere."
        )
    return curvature


def to_plane(manifold: geoopt.Manifold, z: Tensor) -> Tensor:
    r"""Points of a 2-D flat or hyperbolic manifold to the plane, or to the *unit* Poincaré disk whatever model they are in.

    .. math:: z \mapsto \tanh\big(\tfrac{\sqrt{c}\,|v|}{2}\big)\,\tfrac{v}{|v|}, \qquad v = \log_o z

    :param manifold: Euclidean, PoincareBall, Lorentz or Stereographic with negative curvature :math:`-c`.
    :param z: points, shape ``(..., event)``.
    :raises ValueError: for another manifold or dimension.

    >>> to_plane(geoopt.Lorentz(), torch.tensor([1.0, 0.0, 0.0]))
    tensor([0., 0.])
    """
    geo = geometry(manifold)
    curvature = _curvature(geo, z)
    if geo.dim(z.shape[-1:]) != 2:
        raise ValueError(f"z: got shape {tuple(z.shape)}; expected points of a 2-dimensional {manifold.name}.")
    v = geo.chart_inv(z).detach()
    if curvature == 0:
        return v
    r = v.norm(dim=-1, keepdim=True)
    return torch.tanh(0.5 * math.sqrt(-curvature) * r) * v / r.clamp_min(torch.finfo(r.dtype).tiny)


def latent_axes(manifold: geoopt.Manifold, ax: Any = None, *, spacing: float = 0.5, lines: int = 8) -> Any:
    """Axes for a 2-D latent space with a grid of geodesics; on hyperbolic space the unit disk with its boundary.

    The grid lines cross the two coordinate axes at right angles, ``spacing`` (geodesic length) apart.

    :param manifold: as in :func:`to_plane`.
    :param ax: matplotlib axes to draw on.
    :param spacing: distance between neighbouring lines along the axis they cross.
    :param lines: number of lines on each side of the origin.
    """
    if not (spacing > 0 and lines >= 0):
        raise ValueError(f"spacing, lines: got {spacing} and {lines}; expected a positive number and a count.")
    ax = _axes(ax, figsize=(6, 6))
    geo = geometry(manifold)
    like = torch.zeros((), dtype=torch.float64)
    curvature = _curvature(geo, like)
    reach = lines * spacing if curvature == 0 else 12 / math.sqrt(-curvature)
    at = spacing * torch.arange(-lines, lines + 1, dtype=torch.float64)
    along = torch.linspace(-reach, reach, 401, dtype=torch.float64)
    for axis in (0, 1):
        first, second = torch.eye(2, dtype=torch.float64)[[axis, 1 - axis]]
        feet = geo.chart(at.unsqueeze(-1) * first)
        across = (along.unsqueeze(-1) * second).expand(len(at), -1, -1)
        curves = geo.exp_frame(feet.unsqueeze(1).expand(-1, len(along), -1), across)
        for curve in to_plane(manifold, curves):
            ax.plot(*curve.T.numpy(), color="0.85", linewidth=0.7, zorder=0)
    if curvature < 0:
        import matplotlib.patches

        ax.add_patch(matplotlib.patches.Circle((0, 0), 1, fill=False, color="0.25", linewidth=1.4, zorder=3))
        ax.set(xlim=(-1.03, 1.03), ylim=(-1.03, 1.03))
        ax.axis("off")
    ax.set_aspect("equal")
    return ax


def geodesic(manifold: geoopt.Manifold, p: Tensor, q: Tensor, ax: Any = None, **style: Any) -> Any:
    """The geodesic segment from ``p`` to ``q``; ``style`` goes to matplotlib's ``plot``."""
    ax = latent_axes(manifold) if ax is None else ax
    geo = geometry(manifold)
    t = torch.linspace(0, 1, 101, dtype=p.dtype, device=p.device).unsqueeze(-1)
    v = geo.log_frame(p, q).detach()
    curve = to_plane(manifold, geo.exp_frame(p.detach().expand(101, -1), t * v))
    ax.plot(*curve.T.cpu().numpy(), **_styled("line", style, color="black", linewidth=1.5))
    return ax


def latent_scatter(
    manifold: geoopt.Manifold, z: Tensor, labels: Tensor | None = None, ax: Any = None, *, title: str = "class", **style: Any
) -> Any:
    """Points of a 2-D latent space, coloured by class with a legend.

    :param z: points, shape (n,) + event.
    :param labels: integer classes, shape (n,).
    :param title: of the legend.
    :param style: goes to matplotlib's ``scatter``.
    """
    if labels is not None and labels.shape != z.shape[:1]:
        raise ValueError(f"labels: got shape {tuple(labels.shape)}; expected ({len(z)},), one class per point.")
    ax = latent_axes(manifold) if ax is None else ax
    xy = to_plane(manifold, z).cpu()
    look: dict[str, Any] = dict(s=14, linewidths=0, alpha=0.85, zorder=2)
    if labels is None:
        ax.scatter(*xy.T.numpy(), **_styled("points", style, color=_COLORS[0], **look))
        return ax
    labels = labels.cpu()
    for i, label in enumerate(labels.unique().tolist()):
        own = _styled("points", style, color=_COLORS[i % len(_COLORS)], label=str(label), **look)
        ax.scatter(*xy[labels == label].T.numpy(), **own)
    ax.legend(title=title, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, markerscale=2)
    return ax


def world_axes(ax: Any = None, *, projection: str = "mollweide", spacing: float = 30.0, labels: bool = True) -> Any:
    """Axes for :math:`S^2` in an equal-area projection, with a graticule: area on paper is area on the sphere.

    The third axis points up (north), the first to the centre (0 E); matplotlib's coordinates there are those of
    :func:`lon_lat`. No coastlines: those are data of their own.

    :param ax: matplotlib axes of projection "mollweide" or "hammer"; made anew if omitted.
    :param projection: of new axes.
    :param spacing: degrees between meridians and between parallels.
    :param labels: write the degrees at the graticule.
    :raises ValueError: for another projection, which would not keep areas, or a spacing outside (0, 90].
    """
    name = projection if ax is None else ax.name
    if name not in ("mollweide", "hammer"):
        what = "ax" if ax is not None else "projection"
        raise ValueError(
            f"{what}: got a {name} projection; expected one that keeps areas, 'mollweide' or 'hammer', "
            "e.g. plt.subplot(projection='mollweide')."
        )
    if not 0 < spacing <= 90:
        raise ValueError(f"spacing: got {spacing}; expected degrees in (0, 90], e.g. 30.")
    ax = _axes(ax, figsize=(8, 4.4), subplot_kw={"projection": projection}, layout="constrained")
    ax.set_longitude_grid(spacing)
    ax.set_latitude_grid(spacing)
    ax.grid(True, color="0.6", alpha=0.45, linewidth=0.5)
    ax.tick_params(labelsize=6, colors="0.45")
    if not labels:
        ax.set_xticklabels([])
        ax.set_yticklabels([])
    return ax


def sphere_points(x: Tensor, ax: Any = None, **style: Any) -> Any:
    """Points of :math:`S^2` on a map; ``style`` goes to matplotlib's ``scatter``.

    :param x: points, shape (n, 3).
    :param ax: axes of :func:`world_axes`, made anew if omitted.
    """
    lon, lat = (t.detach().cpu().numpy() for t in lon_lat(x))
    ax = world_axes() if ax is None else ax
    ax.scatter(lon, lat, **_styled("points", style, s=6, color=_COLORS[0], linewidths=0, zorder=3))
    return ax


def sphere_density(
    log_prob: Callable[[Tensor], Tensor],
    ax: Any = None,
    *,
    points: Tensor | None = None,
    resolution: int = 200,
    decades: float | None = None,
    projection: str = "mollweide",
) -> Any:
    """A density on the sphere :math:`S^2` in an equal-area projection, so that mass is what the eye sees.

    The third axis points up, the first to the centre of the map.

    :param log_prob: log density of points of shape (..., 3), for example a distribution's method.
    :param points: points to mark, shape (n, 3).
    :param resolution: cells from pole to pole.
    :param decades: colours on a logarithmic scale over this many powers of ten below the largest density; linear if omitted.
    :param projection: "mollweide" or "hammer", for new axes.
    :raises ValueError: for axes of another projection.
    """
    ax = world_axes(ax, projection=projection, labels=False)
    edge_lat = torch.linspace(-math.pi / 2, math.pi / 2, resolution + 1)
    edge_lon = torch.linspace(-math.pi, math.pi, 2 * resolution + 1)
    lat, lon = torch.meshgrid((edge_lat[1:] + edge_lat[:-1]) / 2, (edge_lon[1:] + edge_lon[:-1]) / 2, indexing="ij")
    x = from_lon_lat(lon, lat)
    with torch.no_grad():
        density = log_prob(x).exp()
    scale: dict[str, Any] = {}
    if decades is not None:
        import matplotlib.colors

        top = float(density.max())
        scale = {"norm": matplotlib.colors.LogNorm(top * 10.0**-decades, top)}
        density = density.clamp_min(top * 10.0**-decades)
    mesh = ax.pcolormesh(edge_lon.numpy(), edge_lat.numpy(), density.numpy(), cmap="magma", rasterized=True, **scale)
    ax.figure.colorbar(mesh, ax=ax, label="density per unit area", shrink=0.8)
    if points is not None:
        sphere_points(points, ax, color="white", edgecolors="black", linewidths=0.3)
    ax.grid(True, color="white", alpha=0.25, linewidth=0.5)
    return ax


def image_grid(images: Tensor, ax: Any = None, *, columns: int | None = None, title: str | None = None) -> Any:
    """Grey images in [0, 1] side by side, dark ink on white.

    :param images: shape (n, height, width).
    :param columns: images per row; by default as square as possible.
    """
    if images.dim() != 3 or not len(images):
        raise ValueError(f"images: got shape {tuple(images.shape)}; expected (n, height, width) with n > 0.")
    n, height, width = images.shape
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    tile = torch.nn.functional.pad(images.detach().cpu().float(), (1, 1, 1, 1), value=0.15)
    tile = torch.cat([tile, tile.new_zeros(rows * columns - n, height + 2, width + 2)])
    canvas = tile.reshape(rows, columns, height + 2, width + 2).transpose(1, 2).flatten(2).flatten(0, 1)
    ax = _axes(ax, figsize=(0.6 * columns, 0.6 * rows + 0.3), layout="constrained")
    ax.imshow(canvas.numpy(), cmap="Greys", vmin=0, vmax=1, interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.set_frame_on(False)
    if title:
        ax.set_title(title, fontsize=10, loc="left")
    return ax


def elbow(scan: Any, ax: Any = None, *, label: str | None = None, **style: Any) -> Any:
    """Held-out error by manifold dimension on a logarithmic scale, with a ring around the elbow.

    :param scan: what :func:`~pyro_manifold.models.scan_dimension` returns, or anything with ``dims``, ``errors`` and ``elbow``.
    :param label: of the line; ``style`` goes to matplotlib's ``plot``.
    """
    ax = _axes(ax, figsize=(5, 3.5), layout="constrained")
    (line,) = ax.plot(scan.dims, scan.errors, **_styled("line", style, marker="o", markersize=4, label=label))
    at = scan.errors[scan.dims.index(scan.elbow)]
    ring = {"markersize": 13, "fillstyle": "none", "color": line.get_color()}
    ax.plot([scan.elbow], [at], marker="o", linestyle="none", **ring)
    ax.annotate(f"n = {scan.elbow}", (scan.elbow, at), xytext=(9, 7), textcoords="offset points", color=line.get_color())
    ax.set(yscale="log", xlabel="dimension n of the manifold", ylabel="rms distance of held-out rows")
    ax.xaxis.get_major_locator().set_params(integer=True)
    return ax
