"""A good call of everything exported that takes arguments, and what does not belong in each of them.

``GOOD`` lists ``(callable, arguments)``; :func:`wrong` gives, for one good argument, values of another kind.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import geoopt
import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import pyro_manifold.distributions as md
from pyro_manifold import (
    constraints,
    datasets,
    evaluation,
    flows,
    geometry,
    infer,
    models,
    nn,
    testing,
    training,
)
from pyro_manifold import transforms as mt
from pyro_manifold.contrib import lhc

SPHERE, BALL, LORENTZ = geoopt.Sphere(), geoopt.PoincareBall(), geoopt.Lorentz()
E3 = torch.eye(3)
LINE = mt.Pad(1, 2)
LATENT = dist.Normal(torch.zeros(2), 1.0).to_event(1)
NORMAL = dist.Normal(torch.zeros(1), 1.0).to_event(1)


ROUND = torch.nn.functional.normalize(torch.randn(9, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
ROWS = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))


def model() -> None:
    pyro.sample("z", md.ManifoldUniform(SPHERE, (3,)))


NET = torch.nn.Linear(2, 1)


def flow() -> models.ManifoldFlow:
    return models.ManifoldFlow.from_data(ROWS, 1, hidden=(4,), latent_hidden=(4,), latent_depth=1)


def vq_flow() -> models.VQFlow:
    return models.VQFlow.from_data(
        ROWS, 1, 2, hidden=(4,), latent_hidden=(4,), code_hidden=(4,), latent_depth=1
    )


APART, AXES = 1 - E3, datasets.half_icosphere(2)
DRAWS = torch.nn.functional.normalize(
    torch.randn(2, 20, 3, generator=torch.Generator().manual_seed(0)), dim=-1
)

GOOD: list[tuple[Callable[..., Any], dict[str, Any]]] = [
    (md.AngularCentralGaussian, dict(scale_tril=E3)),
    (md.AngularCentralGaussian, dict(covariance_matrix=E3)),
    (md.Bingham, dict(matrix=E3)),
    (md.InverseWishart, dict(df=5.0, scale_matrix=E3)),
    (md.InverseWishart, dict(df=5.0, scale_tril=E3)),
    (md.FisherBingham, dict(loc=E3[0], concentration=5.0, matrix=E3)),
    (md.IsotropicGaussian, dict(loc=E3, scale=0.5)),
    (md.UniformOn, dict(surface=LINE, low=-1.0, high=1.0)),
    (md.Watson, dict(loc=E3[0], concentration=-2.0)),
    (md.ConditionalPushforward, dict(base=flows.LatentFlow(1, [], 2), transform=LINE)),
    (md.Kent, dict(frame=E3, concentration=5.0, ovalness=1.0)),
    (md.Kent, dict(frame=E3, concentration=5.0, axis_ovalness=torch.tensor([1.0, -1.0]))),
    (
        md.ProductDistribution,
        dict(
            manifold=geoopt.ProductManifold((SPHERE, 3), (SPHERE, 3)),
            parts=[md.ManifoldUniform(SPHERE, (3,))] * 2,
        ),
    ),
    (md.ManifoldUniform, dict(manifold=SPHERE, event_shape=3, batch_shape=(2,))),
    (md.MatrixFisher, dict(matrix=E3)),
    (md.PowerSpherical, dict(loc=E3[0], concentration=torch.tensor(2.0))),
    (md.ProjectedNormal, dict(concentration=E3[0])),
    (md.Pushforward, dict(base=NORMAL, transform=LINE, off_manifold="project", atol=0.1)),
    (md.Atlas, dict(weights=torch.ones(1), components=[md.Pushforward(NORMAL, LINE)], atol=0.1)),
    (
        md.Atlas,
        dict(
            weights=torch.ones(1),
            components=[md.Pushforward(NORMAL, LINE)],
            regions=nn.NeighbourRegions(torch.nn.Identity(), nn.VectorQuantizer(torch.zeros(1, 2))),
            overlap="add",
            acceptance=torch.ones(1),
            draws=10,
        ),
    ),
    (md.RiemannianNormal, dict(manifold=SPHERE, loc=E3[0], scale=torch.tensor(1.0))),
    (md.VonMisesFisher, dict(loc=E3[0], concentration=torch.tensor(2.0))),
    (md.VonMisesFisher.fit, dict(x=ROUND, weights=torch.ones(9))),
    (md.Kent.fit, dict(x=ROUND, weights=torch.ones(9))),
    (md.WrappedCauchy.fit, dict(x=ROUND[:, 0], weights=torch.ones(9))),
    (md.RiemannianNormal.fit, dict(manifold=SPHERE, x=ROUND, weights=torch.ones(9))),
    (
        md.WrappedNormal.fit,
        dict(manifold=SPHERE, x=ROUND, weights=torch.ones(9), covariance="isotropic", truncated=True),
    ),
    (md.standard_errors, dict(distribution=md.VonMisesFisher.fit(ROUND), x=ROUND, weights=torch.ones(9))),
    (md.fit_mixture, dict(data=ROUND, components=2, family="kent", uniform=True, validation=ROUND, steps=1)),
    (md.kernel_mixture, dict(data=ROUND, concentration=torch.ones(2), uniform=0.1, validation=ROUND)),
    (md.kernel_mixture, dict(data=ROUND, concentration=9.0, family="kent", neighbours=[2, 3])),
    (md.WrappedCauchy, dict(loc=torch.tensor(0.0), concentration=torch.tensor(0.5))),
    (md.WrappedNormal, dict(manifold=SPHERE, loc=E3[0], scale=torch.tensor(1.0))),
    (md.WrappedNormal, dict(manifold=SPHERE, loc=E3[0], scale_tril=torch.eye(2))),
    (md.WrappedNormal, dict(manifold=SPHERE, loc=E3[0], covariance_matrix=torch.eye(2))),
    (geometry.geometry, dict(manifold=SPHERE)),
    (geometry.SpecialOrthogonal, dict(n=3)),
    (geometry.EmbeddedManifold, dict(transform=LINE)),
    (geometry.ImplicitManifold, dict(constraint=lambda x: x.norm(dim=-1) - 1, near=E3[0])),
    (constraints.on, dict(manifold=SPHERE)),
    (mt.BallToHyperboloid, dict(ball=BALL, hyperboloid=LORENTZ)),
    (mt.SphereToStereographic, dict(sphere=SPHERE, plane=geoopt.SphereProjection())),
    (mt.StereographicChart, dict(dim=2)),
    (mt.Chart, dict(forward=LINE, inverse=LINE.inv, dim=1, codomain_dim=2)),
    (mt.ConformalEmbedding, dict(dim=1, codomain_dim=2, blocks=1)),
    (mt.ExpChart, dict(manifold=SPHERE, loc=E3[0])),
    (mt.ExpMap, dict(manifold=SPHERE, loc=E3[0])),
    (mt.PolarExpMap, dict(manifold=SPHERE, loc=E3[0])),
    (mt.Translation, dict(manifold=SPHERE, loc=E3[0])),
    (mt.LinearEmbedding, dict(matrix=torch.ones(2, 1), loc=torch.zeros(2))),
    (mt.Pad, dict(dim=1, codomain_dim=2)),
    (mt.Rotation, dict(matrix=E3)),
    (mt.LeftMultiplication, dict(matrix=E3)),
    (mt.CubeToSphere, dict(dim=2)),
    (mt.CubeToTorus, dict(dim=2)),
    (flows.LearnedEmbedding, dict(manifold=SPHERE, dim=1, hidden=(4,), project=False)),
    (mt.hutchinson_log_volume, dict(transform=LINE, u=torch.zeros(2, 1), probes=2, rtol=1e-3, max_steps=3)),
    (flows.Affine, dict(matrix=torch.eye(2), loc=torch.zeros(2))),
    (flows.Spline, dict(dim=1, bins=4, bound=3.0)),
    (flows.Autoregressive, dict(dim=2, hidden=(4,), bins=4, bound=3.0)),
    (flows.CircularSpline, dict(dim=2, transformed_indices=[0], bins=4, hidden=(4,), number=1)),
    (flows.CircularAutoregressive, dict(dim=2, bins=4, hidden=(4,), number=1)),
    (flows.TorusFlow, dict(dim=2, depth=1)),
    (flows.CylindricalSpline, dict(dim=2, levels=1, bins=4, hidden=(4,), number=1)),
    (flows.SphereFlow, dict(dim=2, depth=1)),
    (
        flows.DirectionLift,
        dict(
            manifold=geoopt.CanonicalStiefel(),
            event_shape=[3, 2],
            layer=flows.SphereFlow(2, 1),
            direction=torch.ones(2),
        ),
    ),
    (flows.FrameFlow, dict(manifold=geoopt.CanonicalStiefel(), event_shape=[3, 2], depth=1)),
    (
        flows.FactorCoupling,
        dict(
            manifold=geoopt.ProductManifold((SPHERE, 3), (SPHERE, 3)), index=0, layer=flows.SphereFlow(2, 1)
        ),
    ),
    (flows.HopfSpline, dict(bins=4, hidden=(4,), number=1)),
    (flows.RotationFlow, dict(depth=1)),
    (flows.Partial, dict(dim=3, first=1, layers=[flows.LULinear(1)])),
    (flows.Conditional, dict(layer=flows.LULinear(2), context_dim=1)),
    (
        flows.Coupling,
        dict(dim=2, transformed_indices=[0], kind="spline", hidden=(4,), bins=4, bound=3.0),
    ),
    (models.ManifoldGLOW, dict(manifold=SPHERE, shape=(1, 2, 2), loc=E3[0], scales=1, depth=1)),
    (
        models.ManifoldToManifoldFlow,
        dict(
            source=SPHERE,
            source_shape=(1, 2, 2),
            source_loc=E3[0],
            manifold=SPHERE,
            shape=(1, 2, 2),
            loc=E3[0],
            source_scale=torch.ones(2),
            features=2,
            width=4,
            coupled=True,
            depth=1,
        ),
    ),
    (flows.ActNorm, dict(shape=(1, 2, 2, 3), spread=1.0)),
    (flows.ChannelMixing, dict(shape=(2, 2, 2, 3), coordinates=True, matrix=torch.eye(6))),
    (
        flows.FieldCoupling,
        dict(shape=(1, 2, 2, 3), transformed_indices=[0], kind="affine", hidden=4, depth=1),
    ),
    (flows.FieldFlow, dict(layers=[flows.Squeeze()])),
    (flows.GroupAction, dict(manifold=SPHERE, channels=1, event_shape=(3,))),
    (
        flows.MultiScaleField,
        dict(
            manifold=SPHERE,
            shape=(1, 2, 2),
            layers=[[flows.GroupAction(SPHERE, 1, (3,))]],
            loc=E3[0],
        ),
    ),
    (flows.Squeeze, dict(manifold=SPHERE)),
    (flows.glow_scales, dict(manifold=SPHERE, shape=(1, 2, 2), loc=E3[0], scales=1, depth=1)),
    (nn.ConvNet, dict(in_channels=1, out_channels=2, hidden=4, depth=1, kernel=3, context_channels=1)),
    (flows.InChart, dict(manifold=BALL, layer=flows.LULinear(2), loc=torch.zeros(2))),
    (
        flows.ContinuousFlow,
        dict(
            field=lambda t, x: torch.zeros_like(x),
            manifold=SPHERE,
            solver="rk4",
            steps=2,
            rtol=1e-3,
            atol=1e-3,
            max_steps=9,
            divergence="exact",
            probes=1,
            adjoint=False,
        ),
    ),
    (flows.Haar, dict(height=2, width=2)),
    (flows.InjectiveFlow, dict(embedding=LINE, layers=[flows.LULinear(2)])),
    (flows.SpecialConformal, dict(dim=2, hidden=(4,))),
    (flows.LocalFrames, dict(codes=torch.zeros(1, 3), matrix=torch.eye(2)[None], loc=torch.zeros(1, 2))),
    (flows.LocalQuadrics, dict(codes=torch.zeros(1, 3), coefficients=torch.zeros(1, 1, 3), dim=1)),
    (flows.LULinear, dict(dim=2, matrix=torch.eye(2), loc=torch.zeros(2))),
    (flows.LatentFlow, dict(dim=2, layers=[flows.LULinear(2)], context_dim=1)),
    (
        lhc.MorphingHead,
        dict(base=flows.LatentFlow(2, []), S=torch.eye(2), mixture=torch.randn(9, 1), hidden=(4,)),
    ),
    (nn.Conditioner, dict(in_dim=2, out_dim=2, hidden=(4,), context_dim=1)),
    (nn.MaskedMLP, dict(variables=2, features=1, out_dim=2, hidden=(4,), context_dim=1)),
    (nn.TangentField, dict(manifold=SPHERE, event_shape=3, hidden=(4,), context_dim=1)),
    (nn.KillingField, dict(manifold=SPHERE, event_shape=3, hidden=(4,))),
    (nn.MLP, dict(in_dim=2, out_dim=2, hidden=(4,), context_dim=1)),
    (nn.VectorQuantizer, dict(codes=torch.zeros(3, 2), decay=0.9, restart=0.1)),
    (
        nn.NeighbourRegions,
        dict(
            encoder=NET,
            quantizer=nn.VectorQuantizer(torch.zeros(3, 1)),
            neighbours=1,
            eps=0.1,
            normals=torch.tensor([[1.0], [-1.0]]),
            reach=torch.ones(3, 2),
            centres=torch.zeros(3, 1),
        ),
    ),
    (
        nn.VQAutoencoder,
        dict(encoder=NET, decoder=torch.nn.Linear(1, 2), quantizer=nn.VectorQuantizer(torch.zeros(3, 1))),
    ),
    (flows.coupling_chain, dict(dim=2, depth=1, context_dim=1)),
    (flows.autoregressive_chain, dict(dim=2, depth=1, context_dim=1)),
    (infer.AutoManifoldDelta, dict(model=model)),
    (
        infer.AutoManifoldFlow,
        dict(model=model, flows={"z": flows.SphereFlow(2, 1)}, bases={"z": md.ManifoldUniform(SPHERE, 3)}),
    ),
    (infer.AutoManifoldMultivariateNormal, dict(model=model, init_scale=0.1)),
    (infer.AutoManifoldNormal, dict(model=model, family="wrapped", init_scale=0.1)),
    (infer.CircularReparam, dict(scale=9.0)),
    (
        infer.GeodesicHMC,
        dict(
            model=model,
            chains=1,
            step_size=0.5,
            trajectory_length=1.0,
            target_accept_prob=0.8,
            vectorize="auto",
            adapt_step_size=True,
            full_mass=False,
        ),
    ),
    (infer.GeodesicHMC, dict(potential_fn=lambda z: z["z"].sum(), manifolds={"z": SPHERE})),
    (infer.GeodesicNUTS, dict(model=model, max_tree_depth=3)),
    (infer.VectorizedMCMC, dict(kernel=infer.GeodesicNUTS(model), num_samples=3)),
    (infer.ParallelMCMC, dict(kernel=infer.GeodesicNUTS(model), num_samples=3)),
    (infer.CompiledELBO, dict(elbo=pyro.infer.Trace_ELBO(), max_recordings=4)),
    (infer.align_axes, dict(x=DRAWS)),
    (
        infer.frechet_mean,
        dict(manifold=SPHERE, x=DRAWS[0, :5], weights=torch.ones(5), max_steps=9, tolerance=1e-3),
    ),
    (infer.geodesic_ess, dict(manifold=SPHERE, x=DRAWS, center=E3[0])),
    (infer.geodesic_r_hat, dict(manifold=SPHERE, x=DRAWS, center=E3[0])),
    (infer.manifold_summary, dict(source={"z": DRAWS}, manifolds={"z": SPHERE}, unit="degrees")),
    (
        infer.credible_ball,
        dict(manifold=SPHERE, draws=ROUND, weights=torch.ones(9), center="medoid", unit="degrees"),
    ),
    (
        infer.confidence_cone,
        dict(x=ROUND, weights=torch.ones(9), method="large_sample", seed=1, unit="degrees"),
    ),
    (
        infer.credible_region,
        dict(source=md.VonMisesFisher(E3[0], 9.0), prob=0.5, draws=ROUND, unit="square degrees"),
    ),
    (infer.to_inference_data, dict(source={"z": DRAWS}, manifolds={"z": SPHERE}, coords="ambient")),
    (nn.ExpMapHead, dict(manifold=BALL, in_features=2, dim=2)),
    (nn.ConvDecoder, dict(in_features=3, side=4, channels=1, width=2)),
    (nn.ConvEncoder, dict(side=4, out_features=3, channels=1, width=2)),
    (nn.ManifoldHead, dict(manifold=SPHERE, in_features=2, dim=2)),
    (nn.PointFeatures, dict(manifold=SPHERE, dim=2)),
    (nn.GyroplaneLayer, dict(manifold=BALL, dim=2, out_features=2)),
    (nn.GroupActionHead, dict(manifold=SPHERE, in_features=2, dim=2)),
    (nn.LogMapLayer, dict(manifold=BALL)),
    (nn.ManifoldDecoder, dict(manifold=BALL, dim=2, hidden=3, out_features=2, first="gyroplane")),
    (nn.ManifoldEncoder, dict(manifold=BALL, in_features=2, hidden=3, dim=2)),
    (nn.MobiusLinear, dict(manifold=BALL, in_features=2, out_features=2)),
    (
        models.AmbientFlow,
        dict(layers=[flows.LULinear(2)], latent=flows.LatentFlow(1, []), codomain_dim=2, eps=0.1),
    ),
    (models.ManifoldFlow, dict(transform=LINE, latent=flows.LatentFlow(1, []), off_manifold="project")),
    (
        models.ManifoldFlow.from_data,
        dict(x=ROWS, dim=1, depth=1, hidden=(4,), latent_hidden=(4,), latent_depth=1),
    ),
    (models.AmbientFlow.from_data, dict(x=ROWS, dim=1, depth=1, hidden=(4,), latent_depth=1, eps=0.1)),
    (
        models.VQFlow,
        dict(
            autoencoder=vq_flow().autoencoder,
            transform=vq_flow().transform,
            latent=vq_flow().latent,
            neighbours=1,
            eps=0.1,
            off_manifold="reject",
        ),
    ),
    (models.ManifoldMixture, dict(flows=[flow()], centres=torch.zeros(1, 2))),
    (models.ManifoldMixture.from_data, dict(x=ROWS, dim=1, charts=1, hidden=(4,), latent_hidden=(4,))),
    (models.LatentVAE, dict(data_shape=3, width=5, name="vae")),
    (
        models.EmbeddingVAE,
        dict(
            embedding=mt.CubeToSphere(1),
            data_dim=3,
            dim=1,
            group_action=True,
            hidden=4,
            likelihood="bernoulli",
            likelihood_scale=0.1,
            name="vae",
        ),
    ),
    (
        models.ManifoldVAE,
        dict(
            manifold=SPHERE,
            dim=2,
            data_dim=3,
            hidden=4,
            prior="uniform",
            posterior="vmf",
            prior_scale=1.0,
            name="vae",
        ),
    ),
    (
        models.PoincareVAE,
        dict(manifold=BALL, dim=2, data_dim=3, hidden=4, prior="wrapped", prior_scale=1.0, name="vae"),
    ),
    (
        training.fit,
        dict(
            phases=[
                training.Phase("mean", lambda x: NET(x).square().mean(), list(NET.parameters()), epochs=1)
            ],
            data=ROWS,
            model=NET,
            batch_size=10,
            seed=0,
            save_every=0.0,
            disable_progbar=True,
        ),
    ),
    (
        training.fit_likelihood,
        dict(flow=flows.LULinear(2), data=ROWS, base=LATENT, epochs=1, lr=1e-3, seed=0, disable_progbar=True),
    ),
    (
        training.fit_flow_matching,
        dict(
            flow=flows.ContinuousFlow(nn.TangentField(SPHERE, 3, (4,))),
            data=DRAWS[0],
            pairing="optimal",
            epochs=1,
            lr=1e-3,
            seed=0,
            disable_progbar=True,
        ),
    ),
    (
        training.fit_reverse_kl,
        dict(
            flow=flows.LULinear(2),
            base=LATENT,
            log_density=lambda x: -x.square().sum(-1),
            steps=2,
            batch_size=4,
            lr=1e-3,
            seed=0,
            disable_progbar=True,
        ),
    ),
    (
        training.fit_md,
        dict(
            flow=flow(),
            x=ROWS,
            epochs=1,
            batch_size=10,
            lr=1e-3,
            seed=0,
            disable_progbar=True,
        ),
    ),
    (
        training.fit_vq,
        dict(flow=vq_flow(), x=ROWS, epochs=1, seconds=1.0, lr=1e-3, commitment=0.1, batch_size=10),
    ),
    (
        training.fit_charts,
        dict(mixture=models.ManifoldMixture([flow()], torch.zeros(1, 2)), x=ROWS, rounds=1, epochs=1),
    ),
    (training.scan_dimension, dict(x=ROWS, dims=[1], held_out=0.2, epochs=1)),
    (evaluation.classifier_two_sample, dict(x=DRAWS[0], y=DRAWS[1], folds=2, epochs=1, lr=1e-3, seed=0)),
    (evaluation.connected_components, dict(x=ROWS, radius=1.0, least=0.1)),
    (evaluation.distortion, dict(distances=APART, graph=APART, scale=1.0)),
    (evaluation.embedding_report, dict(embedding=mt.CubeToSphere(1), draws=20, references=2, seed=0)),
    (evaluation.energy_distance, dict(x=DRAWS[0], y=DRAWS[1])),
    (evaluation.frechet_distance, dict(x=DRAWS[0], y=DRAWS[1])),
    (partial(evaluation.graph_map, adjacency=torch.ones(3, 3)), dict(distances=APART)),
    (
        evaluation.grid_mmd2,
        dict(p=torch.ones(2) / 2, truth=torch.ones(2) / 2, grid=torch.arange(2.0), scale=1.0),
    ),
    (evaluation.mmd2, dict(x=DRAWS[0], y=DRAWS[1], scale=1.0)),
    (evaluation.ood_auc, dict(inside=ROWS[:, 0], outside=ROWS[:, 1])),
    (evaluation.roc_auc, dict(negative=ROWS[:, 0], positive=ROWS[:, 1])),
    (
        datasets.branching_diffusion,
        dict(dim=2, depth=1, children=2, variance=1.0, copies=2, noise_factor=5.0, seed=0),
    ),
    (datasets.crossing_bundles, dict(n=1, size=1, frequency=1, angle=60.0, noise=0.1, odf_noise=0.1, seed=0)),
    (datasets.digits, dict(binarize=True, seed=0)),
    (datasets.half_icosphere, dict(frequency=1)),
    (datasets.image_manifold, dict(n=1, size=16, num=2, seed=0)),
    (
        datasets.lorenz,
        dict(n=2, trajectories=1, dt=0.01, spacing=0.25, warm_up=0.1, standardize=True, seed=0),
    ),
    (datasets.odf_peaks, dict(odf=torch.ones(21), axes=AXES, number=2, threshold=0.4, separation=25.0)),
    (datasets.odf_to_sphere, dict(odf=torch.ones(2) / 2, normalise=False, atol=1e-4)),
    (datasets.sarkar_embedding, dict(manifold=LORENTZ, parents=[0, 0, 1], edge=1.0)),
    (datasets.sphere_to_odf, dict(x=E3[0])),
    (datasets.tensor_odf, dict(tensors=E3, axes=AXES)),
    (datasets.tree_distances, dict(parents=[0, 0, 1])),
    (datasets.tree_layout, dict(parents=[0, 0, 1], edge=1.0)),
    (testing.two_sample_test, dict(manifold=SPHERE, x=DRAWS[0], y=DRAWS[1], permutations=9)),
    (testing.manifold_rule, dict(manifold=SPHERE, center=E3[0], radius=1.0, n_radial=4, n_angular=4)),
    (testing.pairwise_dist, dict(manifold=SPHERE, x=DRAWS[0], y=DRAWS[1])),
]


def wrong(value: Any) -> Iterator[tuple[str, Any]]:
    """Values that are no substitute for ``value``, each with a word for it."""
    if isinstance(value, Tensor):
        yield "numpy", value.numpy().astype(np.float32)
        yield "integers", torch.ones_like(value, dtype=torch.int64)
        yield "complex", value.to(torch.complex64)
        yield "meta", value.to("meta")
        yield "a string", "x"
        yield "None", None
        yield "a list", [None]
        return
    yield "None", None
    if isinstance(value, str):
        yield "a number", 3
        yield "another word", "nonsense"
        return
    if isinstance(value, bool):
        yield "a string", "yes"
        yield "a tensor", torch.ones(2)
        return
    yield "a string", "x"
    if isinstance(value, geoopt.Manifold):
        yield "the class", geoopt.Sphere
        yield "a tensor", torch.zeros(3)
    elif isinstance(value, int):
        yield "a fraction", 2.5
        yield "negative", -1
        yield "a tensor", torch.ones(2)
    elif isinstance(value, float):
        yield "nan", float("nan")
        yield "a list", [None]
    elif isinstance(value, dict):
        yield "a dict of strings", dict.fromkeys(value, "sphere")
        yield "a list", [3]
    elif isinstance(value, (list, tuple)):
        yield "a number", 3
        yield "a list of strings", ["x"]
        yield "a list of None", [None]
    else:  # callables, distributions, transforms, modules
        yield "a number", 3
        yield "a tensor", torch.zeros(3)


def called(f: Callable[..., Any]) -> str:
    return getattr(getattr(f, "func", f), "__qualname__", repr(f))
