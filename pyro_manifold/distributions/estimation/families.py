"""The tangent coordinates of the parameters of every family that has an estimator."""

from typing import Any

import geoopt
from torch import Tensor

from ...geometry import geometry
from ..angular_central_gaussian import AngularCentralGaussian
from ..bingham import Bingham
from ..kent import Kent
from ..matrix_fisher import MatrixFisher
from ..power_spherical import PowerSpherical
from ..projected_normal import ProjectedNormal
from ..von_mises_fisher import VonMisesFisher
from ..wrapped_cauchy import WrappedCauchy
from .coordinates import CHARTS, Chart, Frame, Number, Point, Shape, SumZero, Symmetric

_SPHERE = geometry(geoopt.Sphere())


@CHARTS.register(PowerSpherical)
@CHARTS.register(VonMisesFisher)
def _rotationally_symmetric(d: Any) -> Chart:
    return Chart({"loc": Point(_SPHERE), "concentration": Number(low=0.0)})


@CHARTS.register(WrappedCauchy)
def _wrapped_cauchy(d: WrappedCauchy) -> Chart:
    return Chart({"loc": Number(), "concentration": Number(low=0.0, high=1.0)})


@CHARTS.register(ProjectedNormal)
def _projected_normal(d: ProjectedNormal) -> Chart:
    return Chart({"concentration": Number(1)})


@CHARTS.register(AngularCentralGaussian)
def _angular_central_gaussian(d: AngularCentralGaussian) -> Chart:
    return Chart({"scale_tril": Shape()})


@CHARTS.register(Bingham)
def _bingham(d: Bingham) -> Chart:
    return Chart({"matrix": Symmetric()})


@CHARTS.register(MatrixFisher)
def _matrix_fisher(d: MatrixFisher) -> Chart:
    return Chart({"matrix": Number(2)})


def _one_mode(p: dict[str, Tensor]) -> Tensor:
    return 2 * p["axis_ovalness"].amax(-1) <= p["concentration"]


@CHARTS.register(Kent)
def _kent(d: Kent) -> Chart:
    parameters = {"frame": Frame(), "concentration": Number(low=0.0), "axis_ovalness": SumZero()}
    return Chart(parameters, inside=_one_mode)
