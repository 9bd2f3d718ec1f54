"""Methods of a geometry on several batch axes, and of one point with many vectors: is each element's value its own?"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..geometry import Geometry
from ._tools import close, random_points, random_tangent

_AXES = (2, 1, 3)


def batch_axes(geo: Geometry, dim: int, like: Tensor) -> None:
    """With three batch axes every method gives what it gives for the elements in a row; so does one point for
    many vectors."""
    p, v = random_points(geo, dim, 6, like), 0.1 * random_tangent(geo, dim, 6, like)
    for name, method, args in _methods(geo, p, v):
        wide = _tuple(method(*(a.reshape(_AXES + a.shape[1:]) for a in args)))
        for many, one in zip(wide, _tuple(method(*args)), strict=True):
            close(many, one.reshape(_AXES + one.shape[1:]), f"{name} on three batch axes", 100)
    for name, method, args in _methods(geo, p[3].expand_as(p), v):
        if len(args) > 1:
            for one, each in zip(_tuple(method(p[3], *args[1:])), _tuple(method(*args)), strict=True):
                close(one, each, f"{name} of one point and many others", 100)


def _tuple(x: Any) -> tuple[Tensor, ...]:
    return x if isinstance(x, tuple) else (x,)


def _methods(geo: Geometry, p: Tensor, v: Tensor) -> list[tuple[str, Callable[..., Any], tuple[Tensor, ...]]]:
    """Names, methods and arguments, the point first."""
    q, u = geo.exp_frame(p, v), geo.to_tangent(p, v)
    many: list[tuple[str, Callable[..., Any], tuple[Tensor, ...]]] = [
        ("exp_frame", geo.exp_frame, (p, v)),
        ("to_tangent", geo.to_tangent, (p, v)),
        ("from_tangent", geo.from_tangent, (p, u)),
        ("project_tangent", geo.project_tangent, (p, u)),
        ("embed_tangent", geo.embed_tangent, (p, v)),
        ("geodesic", lambda a, b: geo.geodesic(a, b, 0.5), (p, u)),
        ("inner", lambda a, b: geo.inner(a, b, b), (p, u)),
        ("chord", geo.chord, (p, q)),
        ("project", geo.project, (p,)),
        ("frame", geo.frame, (p,)),
        ("contains", lambda a: geo.contains(a).to(a), (p,)),
        ("to_features", geo.to_features, (p,)),
    ]
    if geo.has_log:
        many += [("log_frame", geo.log_frame, (p, q)), ("dist", geo.dist, (p, q))]
        many.append(("log_det_exp", geo.log_det_exp, (p, v)))
    if geo.is_symmetric and geo.has_log:
        many.append(("transport", lambda a, b, c: geo.transport(a, b, c), (p, q, u)))
    if geo.has_chart:
        many += [("chart", geo.chart, (v,)), ("chart_inv", geo.chart_inv, (geo.chart(v),))]
    if geo.ambient_coordinates(p) is not None:
        many.append(("ambient_coordinates", geo.ambient_coordinates, (p,)))
    if geo.killing_fields(p) is not None:
        many.append(("killing_fields", geo.killing_fields, (p,)))
    return many
