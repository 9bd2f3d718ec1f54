"""Distributions: how one is made, parameters, and the extreme ones."""

from functools import partial

import geoopt
import pyro.distributions as dist
import torch

import pyro_manifold.distributions as mdist
from pyro_manifold import nn
from pyro_manifold.geometry import SpecialOrthogonal

from .base import DistributionCase
from .geometries import (
    BALL,
    BALL2,
    BALL_HALF,
    EUCLIDEAN,
    LORENTZ,
    S1_H2,
    S1_S2,
    SO3,
    SPD,
    SPHERE,
    SPHERE_R2,
    TORUS,
)
from .transforms import H2, R3, X2, injective_flow_of, two_circles

_RANK = {
    "infer_shapes": "shapes alone do not tell a batch of vectors from a matrix; points are taken for vectors"
}
_BASE = {
    "validation": "torch's normal distribution, the base, takes infinite numbers; test_invalid_parameters "
    "has the weights"
}
_BREAK = {"one_graph": "the radial engine (quadrature, data-dependent windows) runs outside the graph"}
_TRIL = [[0.8, 0.0], [0.5, 0.6]]
_CONCENTRATIONS = tuple(dict(concentration=k) for k in (0.0, 1e-6, 1e3, 1e6))
_SIZES = (1e-8, 83767.77, 1e15, 1e37)
_EXTREMES = tuple(dict(concentration=k) for k in (0.0, 1e-8, 83767.77, 2e7, 1e13, 1e19, 1e37))
_TINY_AND_HUGE = (dict(scale=[1e-6]), dict(scale=[1e-3]), dict(scale=[2.0]))
_SYMMETRIC = [[1.0, 0.5, -0.2], [0.5, -2.0, 0.3], [-0.2, 0.3, 0.7]]
_R4 = [[0.5, 0.5, 0.5, -0.5], [0.5, 0.5, -0.5, 0.5], [0.5, -0.5, 0.5, 0.5], [0.5, -0.5, -0.5, -0.5]]
_FRAME4 = [[0.5, 0.5, 0.5, 0.5], [0.5, 0.5, -0.5, -0.5], [0.5, -0.5, 0.5, -0.5], [0.5, -0.5, -0.5, 0.5]]
_FRAME = [[0.36, 0.48, 0.8], [0.48, 0.64, -0.6], [-0.8, 0.6, 0.0]]


def lower_and_upper(like: torch.Tensor) -> nn.NeighbourRegions:
    """The lower half plane for the first chart, the upper one for the second."""
    codes = torch.tensor([[0.0, -1.0], [0.0, 1.0]], dtype=like.dtype, device=like.device)
    return nn.NeighbourRegions(torch.nn.Identity(), nn.VectorQuantizer(codes))


def lower_and_upper_shares(loc: torch.Tensor, scale: float) -> torch.Tensor:
    """The probabilities of both halves of a circle for a normal angle: those of half turns, summed."""
    ends = torch.pi * torch.arange(-21, 22, dtype=loc.dtype, device=loc.device)
    below = torch.special.ndtr((ends - loc) / scale)
    share = below[..., 1:] - below[..., :-1]
    return torch.stack([share[..., ::2].sum(-1), share[..., 1::2].sum(-1)], -1)


DISTRIBUTIONS = [
    DistributionCase("uniform-S1", lambda: mdist.ManifoldUniform(SPHERE, (2,)), {}),
    DistributionCase("uniform-S2", lambda: mdist.ManifoldUniform(SPHERE, (3,)), {}),
    DistributionCase("uniform-scaled-S2", lambda: mdist.ManifoldUniform(SPHERE_R2, (3,)), {}),
    DistributionCase(
        "wrapped-scaled-S2",
        lambda loc, scale: mdist.WrappedNormal(SPHERE_R2, loc, scale),
        dict(loc=X2, scale=[1.4, 0.8]),
        stress=_TINY_AND_HUGE,
    ),
    DistributionCase(
        "riemannian-scaled-ball",
        lambda loc, scale: mdist.RiemannianNormal(BALL_HALF, loc, scale),
        dict(loc=[0.3, -0.4], scale=0.4),
        skip=_BREAK,
        stress=(dict(scale=1e-3), dict(scale=1.0)),
    ),
    DistributionCase(
        "product-S1xS2",
        lambda loc, concentration: mdist.ProductDistribution(
            S1_S2,
            [
                mdist.VonMisesFisher(loc[..., :2], concentration[..., 0]),
                mdist.PowerSpherical(loc[..., 2:], concentration[..., 1]),
            ],
        ),
        dict(loc=[0.6, 0.8, *X2], concentration=[3.0, 0.5]),
        skip={"infer_shapes": "its arguments are distributions, which have shapes"},
    ),
    DistributionCase("uniform-S1xS2", lambda: mdist.ManifoldUniform(S1_S2), {}),
    DistributionCase(
        "wrapped-R2",
        lambda loc, scale: mdist.WrappedNormal(EUCLIDEAN, loc, scale),
        dict(loc=[0.3, -1.0], scale=[0.5, 2.0]),
    ),
    DistributionCase(
        "wrapped-S1",
        lambda loc, scale: mdist.WrappedNormal(SPHERE, loc, scale),
        dict(loc=[0.6, 0.8], scale=[2.0]),
        stress=_TINY_AND_HUGE,
    ),
    DistributionCase(
        "wrapped-S2",
        lambda loc, scale: mdist.WrappedNormal(SPHERE, loc, scale),
        dict(loc=X2, scale=[0.7, 0.4]),
        stress=_TINY_AND_HUGE,
    ),
    DistributionCase(
        "wrapped-S2-tril",
        lambda loc, scale_tril: mdist.WrappedNormal(SPHERE, loc, scale_tril=scale_tril),
        dict(loc=X2, scale_tril=_TRIL),
    ),
    DistributionCase(
        "wrapped-S2-truncated",
        lambda loc, scale: mdist.WrappedNormal(SPHERE, loc, scale, truncated=True),
        dict(loc=X2, scale=[1.5]),
        stress=_TINY_AND_HUGE,
    ),
    DistributionCase(
        "wrapped-ball",
        lambda loc, scale: mdist.WrappedNormal(BALL, loc, scale),
        dict(loc=[0.3, -0.4], scale=[0.7]),
        stress=_TINY_AND_HUGE,
    ),
    DistributionCase(
        "wrapped-ball-tril",
        lambda loc, scale_tril: mdist.WrappedNormal(BALL2, loc, scale_tril=scale_tril),
        dict(loc=[0.3, -0.4], scale_tril=_TRIL),
    ),
    DistributionCase(
        "wrapped-lorentz",
        lambda loc, scale: mdist.WrappedNormal(LORENTZ, loc, scale),
        dict(loc=H2, scale=[0.7, 0.3]),
        stress=_TINY_AND_HUGE,
    ),
    DistributionCase(
        "wrapped-S1xH2",
        lambda loc, scale: mdist.WrappedNormal(S1_H2, loc, scale),
        dict(loc=[0.6, 0.8, 0.1, 0.2], scale=[0.7, 0.5, 0.9]),
    ),
    DistributionCase(
        "wrapped-SO3",
        lambda loc, scale: mdist.WrappedNormal(SO3, loc, scale),
        dict(loc=R3, scale=[0.8]),
        stress=_TINY_AND_HUGE,
        skip=_RANK,
    ),
    DistributionCase(
        "wrapped-torus",
        lambda loc, scale: mdist.WrappedNormal(TORUS, loc, scale),
        dict(loc=[3.0, -1.0], scale=[1.2, 0.7]),
        stress=_TINY_AND_HUGE,
    ),
    DistributionCase(
        "wrapped-SPD2",
        lambda loc, scale: mdist.WrappedNormal(SPD, loc, scale),
        dict(loc=[[1.5, 0.3], [0.3, 0.7]], scale=[0.5]),
        stress=_TINY_AND_HUGE,
        skip=_RANK,
    ),
    DistributionCase("uniform-SO3", lambda: mdist.ManifoldUniform(SO3, (3, 3)), {}),
    DistributionCase("uniform-SO4", lambda: mdist.ManifoldUniform(SpecialOrthogonal(4), (4, 4)), {}),
    DistributionCase("uniform-stiefel", lambda: mdist.ManifoldUniform(geoopt.Stiefel(), (4, 2)), {}),
    DistributionCase(
        "wrapped-torus-tril",
        lambda loc, scale_tril: mdist.WrappedNormal(TORUS, loc, scale_tril=scale_tril),
        dict(loc=[3.0, -1.0], scale_tril=_TRIL),
    ),
    DistributionCase(
        "wrapped-SO4-truncated",
        lambda loc, scale: mdist.WrappedNormal(SpecialOrthogonal(4), loc, scale, truncated=True),
        dict(loc=_R4, scale=[0.7]),
        skip=_RANK,
    ),
    DistributionCase(
        "wrapped-cauchy",
        lambda loc, concentration: mdist.WrappedCauchy(loc, concentration),
        dict(loc=3.0, concentration=0.6),
        skip={
            "validation": "a scalar is one value of a distribution of the circle; test_wrapped_cauchy checks "
            "the errors"
        },
        extremes=(dict(concentration=0.0), dict(concentration=1 - 2.0**-24)),
        stress=(dict(concentration=0.0), dict(concentration=0.999999)),
    ),
    DistributionCase("uniform-torus", lambda: mdist.ManifoldUniform(TORUS, (2,)), {}),
    DistributionCase(
        "riemannian-S2",
        lambda loc, scale: mdist.RiemannianNormal(SPHERE, loc, scale),
        dict(loc=X2, scale=0.7),
        skip=_BREAK,
        stress=(dict(scale=1e-3), dict(scale=1e3), dict(loc=[-1.0, 0.0, 0.0])),
    ),
    DistributionCase(
        "riemannian-S1",
        lambda loc, scale: mdist.RiemannianNormal(SPHERE, loc, scale),
        dict(loc=[0.6, 0.8], scale=1.5),
        skip=_BREAK,
    ),
    DistributionCase(
        "riemannian-S3",
        lambda loc, scale: mdist.RiemannianNormal(SPHERE, loc, scale),
        dict(loc=[0.5, 0.5, -0.5, 0.5], scale=0.9),
        skip=_BREAK,
    ),
    DistributionCase(
        "riemannian-ball",
        lambda loc, scale: mdist.RiemannianNormal(BALL, loc, scale),
        dict(loc=[0.3, -0.4], scale=0.7),
        skip=_BREAK,
        stress=(dict(scale=1e-3), dict(scale=2.0)),
    ),
    DistributionCase(
        "riemannian-lorentz-3",
        lambda loc, scale: mdist.RiemannianNormal(LORENTZ, loc, scale),
        dict(loc=[1.5, 1.0, -0.5, 0.0], scale=0.7),
        skip=_BREAK,
        stress=(dict(scale=1e-3), dict(scale=2.0)),
    ),
    DistributionCase(
        "riemannian-SPD2",
        lambda loc, scale: mdist.RiemannianNormal(SPD, loc, scale),
        dict(loc=[[1.5, 0.3], [0.3, 0.7]], scale=0.7),
        skip={
            **_RANK,
            "pathwise_gradient": "draws have no pathwise derivative in scale; that in loc is in "
            "test_spd_distributions.py",
        },
        stress=(dict(scale=1e-3), dict(scale=1.0)),
    ),
    DistributionCase(
        "inverse-wishart",
        lambda df, scale_matrix: mdist.InverseWishart(df, scale_matrix),
        dict(df=20.0, scale_matrix=[[3.0, 0.5], [0.5, 1.5]]),
        extremes=tuple(dict(df=k) for k in (5.5, 1e3, 1e6)),
        stress=(dict(df=3.0), dict(df=1e4), dict(scale_matrix=[[1e-6, 0.0], [0.0, 1e-8]])),
    ),
    DistributionCase(
        "inverse-wishart-1",
        lambda df, scale_tril: mdist.InverseWishart(df, scale_tril=scale_tril),
        dict(df=20.0, scale_tril=[[1.5]]),
    ),
    DistributionCase(
        "vmf-S1",
        lambda loc, concentration: mdist.VonMisesFisher(loc, concentration),
        dict(loc=[0.6, 0.8], concentration=2.0),
        stress=_CONCENTRATIONS,
        extremes=_EXTREMES,
    ),
    DistributionCase(
        "vmf-S2",
        lambda loc, concentration: mdist.VonMisesFisher(loc, concentration),
        dict(loc=X2, concentration=5.0),
        extremes=_EXTREMES,
        stress=_CONCENTRATIONS + (dict(loc=[1.0, 0.0, 0.0]), dict(loc=[-1.0, 0.0, 0.0])),
    ),
    DistributionCase(
        "vmf-S3",
        lambda loc, concentration: mdist.VonMisesFisher(loc, concentration),
        dict(loc=[0.0, *X2], concentration=3.0),
        stress=_CONCENTRATIONS,
        extremes=_EXTREMES,
    ),
    DistributionCase(
        "power-spherical-S1",
        lambda loc, concentration: mdist.PowerSpherical(loc, concentration),
        dict(loc=[0.6, 0.8], concentration=2.0),
        stress=_CONCENTRATIONS,
        extremes=_EXTREMES,
    ),
    DistributionCase(
        "power-spherical-S3",
        lambda loc, concentration: mdist.PowerSpherical(loc, concentration),
        dict(loc=[0.0, *X2], concentration=3.0),
        stress=_CONCENTRATIONS,
        extremes=_EXTREMES,
    ),
    DistributionCase(
        "projected-normal-S2",
        lambda concentration: mdist.ProjectedNormal(concentration),
        dict(concentration=[0.6, 0.8, -1.0]),
        extremes=tuple(dict(concentration=[k, 0.0, 0.0]) for k in (0.0, 1e-30, 1.0, 1e4, 1e15, 1e37)),
        stress=(dict(concentration=[0.0, 0.0, 0.0]), dict(concentration=[100.0, 0.0, 0.0])),
    ),
    DistributionCase(
        "projected-normal-S3",
        lambda concentration: mdist.ProjectedNormal(concentration),
        dict(concentration=[0.6, 0.8, -1.0, 1.0]),
    ),
    DistributionCase(
        "bingham-S2",
        lambda matrix: mdist.Bingham(matrix),
        dict(matrix=_SYMMETRIC),
        extremes=tuple(dict(matrix=[[k, 0.0, 0.0], [0.0, k / 2, 0.0], [0.0, 0.0, -k]]) for k in _SIZES),
        stress=(
            dict(matrix=[[0.0, 0.0, 0.0]] * 3),
            dict(matrix=[[1e4, 0.0, 0.0], [0.0, 1e4, 0.0], [0.0, 0.0, -1e4]]),
            dict(matrix=[[1e6, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]),
        ),
    ),
    DistributionCase(
        "bingham-S1", lambda matrix: mdist.Bingham(matrix), dict(matrix=[[1.0, 0.5], [0.5, -1.0]])
    ),
    DistributionCase(
        "watson-S2",
        lambda loc, concentration: mdist.Watson(loc, concentration),
        dict(loc=X2, concentration=3.0),
        extremes=tuple(
            dict(loc=[0.0, 0.0, 1.0], concentration=sign * k) for k in (0.0, *_SIZES) for sign in (1, -1)
        ),
        stress=tuple(dict(concentration=k) for k in (0.0, 1e4, -1e4, 1e6, -1e6)),
    ),
    DistributionCase(
        "watson-S3",
        lambda loc, concentration: mdist.Watson(loc, concentration),
        dict(loc=[0.0, *X2], concentration=-4.0),
    ),
    DistributionCase(
        "watson-S1",
        lambda loc, concentration: mdist.Watson(loc, concentration),
        dict(loc=[0.6, 0.8], concentration=-2.0),
    ),
    DistributionCase(
        "kent-S2",
        lambda frame, concentration, ovalness: mdist.Kent(frame, concentration, ovalness),
        dict(frame=_FRAME, concentration=5.0, ovalness=2.0),
        extremes=tuple(
            dict(frame=torch.eye(3).tolist(), concentration=k, ovalness=r * k)
            for k in _SIZES
            for r in (0.0, 0.4, 0.5)
        ),
        stress=(
            dict(concentration=0.0, ovalness=0.0),
            dict(concentration=1e4, ovalness=5e3),
            dict(concentration=1e6, ovalness=1e3),
        ),
    ),
    DistributionCase(
        "kent-S3",
        lambda frame, concentration, axis_ovalness: mdist.Kent(
            frame, concentration, axis_ovalness=axis_ovalness
        ),
        dict(frame=_FRAME4, concentration=5.0, axis_ovalness=[2.0, 1.0, -3.0]),
    ),
    DistributionCase(
        "fisher-bingham-S2",
        lambda loc, concentration, matrix: mdist.FisherBingham(loc, concentration, matrix),
        dict(loc=X2, concentration=3.0, matrix=_SYMMETRIC),
        extremes=tuple(
            dict(
                loc=[0.0, 0.0, 1.0],
                concentration=k,
                matrix=[[r * k, 0.0, 0.0], [0.0, -k, 0.0], [0.0, 0.0, 0.1 * k]],
            )
            for k in (0.0, 1e-8, 1.0, 83767.77)
            for r in (0.0, 0.4)
        ),
        stress=(
            dict(concentration=0.0, matrix=[[0.0, 0.0, 0.0]] * 3),
            dict(concentration=1e4),
            dict(concentration=1e4, matrix=[[1e4, 0.0, 0.0], [0.0, -1e4, 0.0], [0.0, 0.0, 0.0]]),
            dict(
                concentration=10.0,
                loc=[0.0, 0.0, 1.0],
                matrix=[[50.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, 0.0]],
            ),
        ),
    ),
    DistributionCase(
        "fisher-bingham-S1",
        lambda loc, concentration, matrix: mdist.FisherBingham(loc, concentration, matrix),
        dict(loc=[0.6, 0.8], concentration=2.0, matrix=[[1.0, 0.5], [0.5, -1.0]]),
    ),
    DistributionCase(
        "acg-S2",
        lambda scale_tril: mdist.AngularCentralGaussian(scale_tril),
        dict(scale_tril=[[1.0, 0.0, 0.0], [0.5, 0.7, 0.0], [-0.3, 0.2, 0.5]]),
        extremes=(dict(scale_tril=[[1e-6, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1e3]]),),
        stress=(dict(scale_tril=[[1.0, 0.0, 0.0], [0.0, 1e-4, 0.0], [0.0, 0.0, 1e4]]),),
    ),
    DistributionCase(
        "pushforward-flow",
        lambda loc, scale: mdist.Pushforward(
            dist.Normal(loc, scale.unsqueeze(-1)).to_event(1), injective_flow_of(loc.dtype, loc.device)
        ),
        dict(loc=[0.3, -0.2], scale=0.5),
        skip={"infer_shapes": "its arguments are a distribution and a map, not tensors", **_BASE},
    ),
    DistributionCase(
        "uniform-on-curve",
        lambda: mdist.UniformOn(two_circles()[0], -1.0, 2.5),
        {},
        skip={"one_graph": "the nodes of the volume are computed outside the graph"},
    ),
    DistributionCase(
        "atlas",
        lambda weights, loc: mdist.Atlas(
            weights, [mdist.Pushforward(dist.Normal(loc, 0.5).to_event(1), h) for h in two_circles()]
        ),
        dict(weights=[0.3, 0.7], loc=[0.1]),
        skip={"infer_shapes": "its arguments are distributions, not tensors", **_BASE},
    ),
    DistributionCase(
        "atlas-in-regions",
        lambda weights, loc: mdist.Atlas(
            weights,
            [
                mdist.Pushforward(dist.Normal(loc, 0.5).to_event(1), h, off_manifold="reject")
                for h in two_circles()
            ],
            regions=lower_and_upper(weights),
            acceptance=partial(lower_and_upper_shares, loc, 0.5),
            atol=0.1,
        ),
        dict(weights=[0.3, 0.7], loc=[0.1]),
        skip={"infer_shapes": "its arguments are distributions, not tensors", **_BASE},
    ),
    DistributionCase(
        "isotropic-gaussian",
        lambda loc, scale: mdist.IsotropicGaussian(loc, scale),
        dict(loc=R3, scale=0.8),
        skip={**_RANK, **_BREAK},
        extremes=tuple(dict(scale=k) for k in (0.1, 1.0, 1.5, 4.0, 1e37)),
        stress=tuple(dict(scale=k) for k in (1e-6, 1e-3, 0.5, 1.5, 30.0, 1e30)),
    ),
    DistributionCase(
        "matrix-fisher",
        lambda matrix: mdist.MatrixFisher(matrix),
        dict(matrix=[[1.0, 0.3, 0.0], [-0.5, 0.7, 0.2], [0.1, 0.0, -0.4]]),
        extremes=tuple(dict(matrix=[[k, 0.0, 0.0], [0.0, k, 0.0], [0.0, 0.0, k]]) for k in _SIZES),
        stress=(
            dict(matrix=[[0.0, 0.0, 0.0]] * 3),
            dict(matrix=[[1e4, 0.0, 0.0], [0.0, 1e4, 0.0], [0.0, 0.0, -1e4]]),
        ),
    ),
]
