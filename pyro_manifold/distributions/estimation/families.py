"""The tangent coordinates of the parameters of every family that has an estimator."""

from typing import Any

import geoopt
import torch
from torch import Tensor

from ...geometry import SpecialOrthogonal, geometry
from ..angular_central_gaussian import AngularCentralGaussian
from ..bingham import Bingham
from ..fisher_bingham import FisherBingham
from ..inverse_wishart import InverseWishart
from ..isotropic_gaussian import IsotropicGaussian
from ..kent import Kent
from ..matrix_fisher import MatrixFisher
from ..power_spherical import PowerSpherical
from ..product import ProductDistribution
from ..projected_normal import ProjectedNormal
from ..riemannian_normal import RiemannianNormal
from ..von_mises_fisher import VonMisesFisher
from ..watson import Watson
from ..wrapped_cauchy import WrappedCauchy
from ..wrapped_normal import WrappedNormal
from .coordinates import CHARTS, Chart, Coordinates, Frame, Number, Point, Shape, SumZero, Symmetric, Tril

_SPHERE = geometry(geoopt.Sphere())


def _chart(d: Any, parameters: dict[str, Coordinates], inside: Any = None, **fixed: Any) -> Chart:
    """Of a distribution whose parameters are attributes and arguments of its constructor; ``fixed`` are its other
    arguments."""
    values = {name: getattr(d, name) for name in parameters}
    return Chart(parameters, values, lambda new: type(d)(**fixed, **new, validate_args=False), inside)


@CHARTS.register(PowerSpherical)
@CHARTS.register(VonMisesFisher)
def _rotationally_symmetric(d: Any) -> Chart:
    return _chart(d, {"loc": Point(_SPHERE), "concentration": Number(low=0.0)})


@CHARTS.register(Watson)
def _watson(d: Watson) -> Chart:
    return _chart(d, {"loc": Point(_SPHERE), "concentration": Number()})


@CHARTS.register(WrappedCauchy)
def _wrapped_cauchy(d: WrappedCauchy) -> Chart:
    return _chart(d, {"loc": Number(), "concentration": Number(low=0.0, high=1.0)})


@CHARTS.register(ProjectedNormal)
def _projected_normal(d: ProjectedNormal) -> Chart:
    return _chart(d, {"concentration": Number(1)})


@CHARTS.register(AngularCentralGaussian)
def _angular_central_gaussian(d: AngularCentralGaussian) -> Chart:
    return _chart(d, {"scale_tril": Shape()})


@CHARTS.register(Bingham)
def _bingham(d: Bingham) -> Chart:
    return _chart(d, {"matrix": Symmetric()})


@CHARTS.register(FisherBingham)
def _fisher_bingham(d: FisherBingham) -> Chart:
    return _chart(d, {"loc": Point(_SPHERE), "concentration": Number(low=0.0), "matrix": Symmetric()})


@CHARTS.register(MatrixFisher)
def _matrix_fisher(d: MatrixFisher) -> Chart:
    return _chart(d, {"matrix": Number(2)})


@CHARTS.register(InverseWishart)
def _inverse_wishart(d: InverseWishart) -> Chart:
    return _chart(d, {"df": Number(low=d.event_shape[-1] - 1), "scale_tril": Tril()})


@CHARTS.register(IsotropicGaussian)
def _isotropic_gaussian(d: IsotropicGaussian) -> Chart:
    return _chart(d, {"loc": Point(geometry(SpecialOrthogonal(3))), "scale": Number(low=0.0)})


def _one_mode(p: dict[str, Tensor]) -> Tensor:
    return 2 * p["axis_ovalness"].amax(-1) <= p["concentration"]


@CHARTS.register(Kent)
def _kent(d: Kent) -> Chart:
    parameters = {"frame": Frame(), "concentration": Number(low=0.0), "axis_ovalness": SumZero()}
    return _chart(d, parameters, inside=_one_mode)


@CHARTS.register(RiemannianNormal)
def _riemannian_normal(d: RiemannianNormal) -> Chart:
    parameters = {"loc": Point(d.geometry), "scale": Number(low=0.0, twice=False)}
    return _chart(d, parameters, manifold=d.manifold)


@CHARTS.register(WrappedNormal)
def _wrapped_normal(d: WrappedNormal) -> Chart:
    fixed: dict[str, Any] = {"manifold": d.manifold, "truncated": d.truncated, "validate_args": False}
    parameters: dict[str, Coordinates] = {"loc": Point(d.geometry), "scale": Number(1, low=0.0)}
    values = {"loc": d.loc, "scale": d.scale[..., :1] if d._isotropic else d.scale}
    if not d._diagonal:
        parameters = {"loc": Point(d.geometry), "scale_tril": Tril()}
        values = {"loc": d.loc, "scale_tril": d.base_dist.scale_tril}
    return Chart(parameters, values, lambda new: type(d)(**{**fixed, **new}))


@CHARTS.register(ProductDistribution)
def _product(d: ProductDistribution) -> Chart:
    """Names are those of the parts, with their number; parts without a chart, such as a uniform one, are held."""
    makers = [CHARTS.find(type(part)) for part in d.parts]
    charts = [None if make is None else make(part) for make, part in zip(makers, d.parts, strict=True)]

    def own(i: int, new: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name.split(".", 1)[1]: v for name, v in new.items() if name.split(".", 1)[0] == str(i)}

    def make(new: dict[str, Tensor]) -> ProductDistribution:
        parts = [
            part if c is None else c.make(own(i, new))
            for i, (c, part) in enumerate(zip(charts, d.parts, strict=True))
        ]
        return type(d)(d.manifold, parts, validate_args=False)

    def inside(new: dict[str, Tensor]) -> Tensor:
        ok = torch.ones(d.batch_shape, dtype=torch.bool)
        for i, c in enumerate(charts):
            if c is not None and c.inside is not None:
                ok = ok & c.inside(own(i, new)).cpu()
        return ok.to(next(iter(new.values())).device)

    known = [(i, c) for i, c in enumerate(charts) if c is not None]
    parameters = {f"{i}.{name}": k for i, c in known for name, k in c.parameters.items()}
    values = {f"{i}.{name}": v for i, c in known for name, v in c.values.items()}
    return Chart(parameters, values, make, inside)
