"""Networks, conditional layers and models: how one is made and called."""

import geoopt
import pyro.distributions as dist
import torch

import pyro_manifold.distributions as mdist
from pyro_manifold import flows, models, nn
from pyro_manifold import transforms as mt
from pyro_manifold.contrib import lhc
from pyro_manifold.geometry import Torus

from .base import ModuleCase
from .geometries import SPHERE
from .transforms import (
    B2,
    ROTATIONS,
    S1_T2,
    S2,
    SMALL,
    circle,
    glow,
    injective_flow,
    learned,
    points,
    seeded,
)
from .vaes import VAE_MODULES

_CLOUD = torch.tensor(
    [[0.3, -0.2, 1.0], [1.0, 0.5, -0.4], [-0.7, 0.1, 0.2], [0.0, -1.0, 0.3], [0.4, 0.8, 0.9]]
)


def conditional_pushforward() -> mdist.ConditionalPushforward:
    normal = dist.Normal(torch.zeros(1), 1.0).to_event(1)
    layer = flows.Conditional(flows.Coupling(1, [0], hidden=(8,)), context_dim=3)
    return mdist.ConditionalPushforward(dist.ConditionalTransformedDistribution(normal, [layer]), circle())


def morphing_head() -> lhc.MorphingHead:
    base = flows.LatentFlow(2, flows.coupling_chain(2, 2, hidden=(5,)))
    S = torch.diag(torch.tensor([1.0, 2.0, 0.5, 0.3]))
    return lhc.MorphingHead(
        base, S, torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), hidden=(5,)
    )


def spd_to_sphere() -> models.ManifoldToManifoldFlow:
    """Of single pixels, from 2 x 2 matrices to S^2."""
    return models.ManifoldToManifoldFlow(
        geoopt.SymmetricPositiveDefinite(),
        (1, 1, 1),
        torch.eye(2),
        geoopt.Sphere(),
        (1, 1, 1),
        torch.tensor([0.0, 1.0, 0.0]),
        features=2,
        width=4,
        depth=1,
        hidden=4,
    )


MODULES = [
    ModuleCase("perceptron", lambda: learned(nn.MLP(2, 3, (5,))), B2),
    ModuleCase(
        "conditional-coupling",
        lambda: learned(flows.Conditional(flows.Coupling(3, [0, 1, 2]), context_dim=3)),
        S2,
        call=lambda m, c: m.condition(c)(c.flip(-1)),
    ),
    ModuleCase(
        "conditional-lu-linear",
        lambda: learned(flows.Conditional(flows.LULinear(3), context_dim=3)),
        S2,
        call=lambda m, c: m.condition(c)(c.flip(-1)),
    ),
    ModuleCase(
        "masked-perceptron",
        lambda: learned(nn.MaskedMLP(3, 1, 2, (7,))),
        S2,
        call=lambda m, x: m(x[..., None]),
    ),
    ModuleCase(
        "vq-autoencoder",
        lambda: learned(nn.VQAutoencoder.from_data(_CLOUD, 3, hidden=(5,), seed=1), 0.1),
        S2,
        call=lambda vq, x: (vq(x), vq.quantizer.distances(vq.encoder(x))),
    ),
    ModuleCase(
        "manifold-glow",
        lambda: seeded(
            lambda: learned(
                models.ManifoldGLOW(
                    geoopt.SymmetricPositiveDefinite(), (1, 2, 2), torch.eye(2), scales=2, depth=1, hidden=4
                ),
                0.1,
            )
        ),
        points(geoopt.SymmetricPositiveDefinite(), 2, 1, 2, 2, 3),
        call=lambda m, x: m.log_prob(x).unsqueeze(-1),
    ),
    ModuleCase(
        "manifold-to-manifold-flow",
        lambda: seeded(lambda: learned(spd_to_sphere(), 0.1)),
        points(geoopt.SymmetricPositiveDefinite(), 2, 1, 1, 1, 3),
        call=lambda m, y: (m.predict(y), m.log_prob(y.new_tensor(S2[1]).expand(1, 1, 1, 3), y).unsqueeze(-1)),
    ),
    ModuleCase(
        "conv-net",
        lambda: learned(nn.ConvNet(1, 2, 4, context_channels=1)),
        S2,
        call=lambda m, x: m(x.unflatten(-1, (1, 1, 3)), x.flip(-1).unflatten(-1, (1, 1, 3))),
    ),
    ModuleCase(
        "conditional-glow",
        lambda: learned(
            flows.Conditional(glow(geoopt.Sphere(), (1, 1, 3), [1.0, 0.0, 0.0]), context_dim=3), 0.2
        ),
        S2,
        call=lambda m, c: m.condition(c)(torch.cat([c, c], -1)),
    ),
    ModuleCase(
        "neighbour-regions",
        lambda: learned(
            nn.NeighbourRegions(nn.MLP(3, 2, (5,)), nn.VectorQuantizer(_CLOUD[:, :2]), neighbours=2, eps=0.3)
        ),
        S2,
        call=lambda regions, x: (regions.distances(x), regions(x).to(x)),
    ),
    ModuleCase("conditioner", lambda: learned(nn.Conditioner(2, 3, (5,))), B2),
    ModuleCase(
        "conditional-sphere-flow",
        lambda: seeded(
            lambda: learned(flows.Conditional(flows.SphereFlow(2, 2, **SMALL), context_dim=3), 0.2)
        ),
        S2,
        call=lambda m, c: m.condition(c).inv(c.flip(-1)),
    ),
    ModuleCase(
        "conditional-rotation-flow",
        lambda: seeded(
            lambda: learned(flows.Conditional(flows.RotationFlow(2, **SMALL), context_dim=3), 0.2)
        ),
        ROTATIONS,
        call=lambda m, c: m.condition(c[..., 0]).inv(c),
    ),
    ModuleCase(
        "conditional-torus-flow",
        lambda: learned(
            flows.Conditional(flows.TorusFlow(2, 2, kind="autoregressive", **SMALL), context_dim=3), 0.2
        ),
        S2,
        call=lambda m, c: m.condition(c).inv(c[..., :2]),
    ),
    ModuleCase(
        "conditional-factor-coupling",
        lambda: learned(
            flows.Conditional(
                flows.FactorCoupling(S1_T2, 1, flows.CircularSpline(2, [0], **SMALL)), context_dim=3
            ),
            0.2,
        ),
        S2,
        call=lambda m, c: m.condition(c)(torch.cat([torch.ones_like(c[..., :1]), torch.zeros_like(c)], -1)),
    ),
    ModuleCase(
        "conditional-circle",
        lambda: learned(flows.Conditional(flows.CircularSpline(1, **SMALL), context_dim=3), 0.2),
        S2,
        call=lambda m, c: m.condition(c)(c[..., :1]),
    ),
    ModuleCase(
        "conditional-flow",
        lambda: learned(flows.Conditional(injective_flow(), context_dim=3)),
        S2,
        call=lambda m, c: m.condition(c)(c[..., :2]),
    ),
    ModuleCase(
        "conditional-pushforward",
        lambda: learned(conditional_pushforward()),
        S2,
        call=lambda m, c: m.condition(c).log_prob(c[:, :2]).unsqueeze(-1),
    ),
    ModuleCase(
        "tangent-field",
        lambda: learned(nn.TangentField(geoopt.Sphere(), 3, (5,))),
        S2,
        call=lambda m, x: m(0.3, x),
    ),
    ModuleCase(
        "killing-field", lambda: learned(nn.KillingField(Torus(), 2, (5,))), B2, call=lambda m, x: m(0.3, x)
    ),
    ModuleCase(
        "conditional-continuous",
        lambda: learned(
            flows.Conditional(
                flows.ContinuousFlow(nn.TangentField(Torus(), 3, (5,)), solver="rk4", steps=2), context_dim=3
            ),
            0.3,
        ),
        S2,
        call=lambda m, c: m.condition(c)(c.flip(-1)),
    ),
    ModuleCase("exp-map-head", lambda: nn.ExpMapHead(geoopt.PoincareBall(), 3, 2), S2),
    ModuleCase("log-map", lambda: nn.LogMapLayer(geoopt.PoincareBall()), B2),
    ModuleCase("gyroplane", lambda: nn.GyroplaneLayer(geoopt.PoincareBall(), 2, 4), B2),
    ModuleCase("mobius", lambda: nn.MobiusLinear(geoopt.PoincareBall(), 2, 4), B2),
    ModuleCase("encoder", lambda: nn.ManifoldEncoder(geoopt.PoincareBall(), 3, 5, 2), S2),
    ModuleCase("decoder", lambda: nn.ManifoldDecoder(geoopt.PoincareBall(), 2, 5, 3), B2),
    ModuleCase(
        "latent-flow",
        lambda: learned(flows.LatentFlow(2, flows.coupling_chain(2, 2, 3, hidden=(5,)), 3)),
        S2,
        call=lambda m, c: m.condition(c).log_prob(c[:, :2]).unsqueeze(-1),
    ),
    ModuleCase(
        "morphing-head",
        lambda: learned(morphing_head()),
        S2,
        call=lambda m, c: m.condition(c).log_prob(c[:, :2]).unsqueeze(-1),
    ),
    ModuleCase(
        "manifold-flow",
        lambda: learned(models.ManifoldFlow.from_data(_CLOUD, 2, hidden=(5,), latent_hidden=(5,)), 0.1),
        S2,
        call=lambda m, x: m.log_prob(x).unsqueeze(-1),
    ),
    ModuleCase(
        "manifold-mixture",
        lambda: learned(
            models.ManifoldMixture.from_data(
                torch.cat([_CLOUD, _CLOUD + 20.0]), 2, 2, hidden=(5,), latent_hidden=(5,)
            ),
            0.1,
        ),
        S2,
        call=lambda m, x: torch.stack([m.log_prob(x), m.log_prob(x + 20.0)], -1),
    ),
    ModuleCase(
        "vq-flow",
        lambda: learned(
            models.VQFlow.from_data(
                torch.cat([_CLOUD, _CLOUD + 20.0]), 1, 2, hidden=(5,), latent_hidden=(5,), code_hidden=(5,)
            ),
            0.05,
        ),
        S2,
        call=lambda m, x: (torch.stack([m.log_prob(x), m.log_prob(x + 20.0)], -1), m.autoencoder(x)),
    ),
    ModuleCase(
        "conditional-special-conformal",
        lambda: learned(flows.Conditional(flows.SpecialConformal(3, hidden=(5,)), context_dim=3)),
        S2,
        call=lambda m, c: m.condition(c)(c.flip(-1)),
    ),
    ModuleCase(
        "local-frames",
        lambda: flows.Conditional(
            flows.LocalFrames(_CLOUD, 2 * torch.eye(2).repeat(5, 1, 1), _CLOUD[:, :2]), context_dim=3
        ),
        S2,
        call=lambda m, c: m.condition(c)(c[..., :2]),
    ),
    ModuleCase(
        "local-quadrics",
        lambda: flows.Conditional(
            flows.LocalQuadrics(
                _CLOUD, _CLOUD[:, :, None] * torch.tensor([1.0, -0.5, 0.2, 0.3, -0.1, 0.4]), 2
            ),
            context_dim=3,
        ),
        S2,
        call=lambda m, c: m.condition(c)(c.repeat(1, 2)[:, :5]),
    ),
    ModuleCase(
        "ambient-flow",
        lambda: learned(models.AmbientFlow.from_data(_CLOUD, 2, hidden=(5,), eps=0.3), 0.1),
        S2,
        call=lambda m, x: m.log_prob(x).unsqueeze(-1),
    ),
    ModuleCase("group-action-head", lambda: nn.GroupActionHead(SPHERE, 3, 2), S2, call=lambda m, h: m(h)(h)),
    ModuleCase(
        "embedding-vae",
        lambda: models.EmbeddingVAE(mt.CubeToSphere(2), 3, group_action=True, hidden=5),
        S2,
        call=lambda vae, x: (
            vae.decode(vae._encode(x)[0].mean).mean,
            vae._encode(x)[1](x),
            vae._encode(x)[0].variance,
        ),
    ),
    ModuleCase(
        "poincare-vae",
        lambda: models.PoincareVAE(geoopt.PoincareBall(), dim=2, data_dim=3, hidden=5),
        S2,
        call=lambda vae, x: (vae.decode(vae.encode(x).loc).mean, vae.encode(x).scale),
    ),
    *VAE_MODULES,
    ModuleCase("manifold-head", lambda: nn.ManifoldHead(geoopt.Sphere(), 3, 2), S2),
    ModuleCase("point-features", lambda: nn.PointFeatures(geoopt.Sphere(), 2), S2),
    ModuleCase(
        "conv-encoder", lambda: nn.ConvEncoder(4, 5, width=2), S2, call=lambda m, x: m(x.repeat(1, 6)[:, :16])
    ),
    ModuleCase("conv-decoder", lambda: nn.ConvDecoder(3, 4, width=2), S2),
]
