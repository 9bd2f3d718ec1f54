"""Auto-encoders: one for every kind of manifold."""

import copy
from functools import partial

import geoopt
import pyro.distributions as dist
import torch

import pyro_manifold.distributions as mdist
from pyro_manifold import flows, models
from pyro_manifold.geometry import Grassmann, SpecialOrthogonal, Torus, geometry

from .base import ModuleCase
from .transforms import S2, SMALL, learned, seeded


class FlowPosterior(torch.nn.Module):
    """A sphere flow conditioned on features, on top of the uniform distribution."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.flow = learned(flows.Conditional(flows.SphereFlow(2, 2, **SMALL), context_dim=features), 0.2)

    def forward(self, h: torch.Tensor) -> dist.TransformedDistribution:
        base = mdist.ManifoldUniform(geoopt.Sphere(), 3, h.shape[:-1], dtype=h.dtype)
        return dist.TransformedDistribution(base, [self.flow.condition(h)])


def flow_vae() -> models.ManifoldVAE:
    return seeded(
        lambda: models.ManifoldVAE(
            geoopt.Sphere(), 2, 3, hidden=4, posterior=FlowPosterior(4), likelihood="normal", name="flow_vae"
        )
    )


def vae(manifold: geoopt.Manifold, dim: int, **kwargs: object) -> models.ManifoldVAE:
    options = {"hidden": 5, "likelihood": "normal", "likelihood_scale": 0.5, "name": "case", **kwargs}
    return seeded(lambda: models.ManifoldVAE(copy.deepcopy(manifold), dim, 3, **options))  # type: ignore[arg-type]


def _vae_numbers(vae: models.ManifoldVAE, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Without draws: the posterior's parameters and density, and what is decoded of its centre."""
    loc, scale = vae.encoder(x)
    origin = geometry(vae.manifold).base_point(vae.point_shape, dtype=x.dtype, device=x.device)
    density = vae.encode(x).log_prob(origin.expand_as(loc)).unsqueeze(-1)
    return loc, scale, vae.decode(loc).mean, density


SPHERE_BALL = geoopt.ProductManifold((geoopt.Sphere(), 3), (geoopt.PoincareBall(), 2))
VAES: list[tuple[str, tuple[geoopt.Manifold, int], dict[str, object]]] = [
    ("plane", (geoopt.Euclidean(1), 2), {}),
    ("ball-riemannian", (geoopt.PoincareBall(), 2), dict(prior="riemannian", posterior="riemannian")),
    ("hyperboloid", (geoopt.Lorentz(), 2), {}),
    ("circle", (geoopt.Sphere(), 1), {}),
    ("sphere-power", (geoopt.Sphere(), 2), dict(posterior="power_spherical")),
    ("sphere-riemannian", (geoopt.Sphere(), 2), dict(posterior="riemannian", prior="vmf")),
    ("sphere-wrapped", (geoopt.Sphere(), 3), dict(posterior="wrapped")),
    ("sphere-64", (geoopt.Sphere(), 64), {}),
    ("torus", (Torus(), 2), {}),
    ("rotations", (SpecialOrthogonal(3), 3), {}),
    ("rotations-4", (SpecialOrthogonal(4), 6), {}),
    ("positive-matrices", (geoopt.SymmetricPositiveDefinite(), 3), {}),
    ("frames", (geoopt.ProductManifold((geoopt.Stiefel(), (4, 2))), 5), {}),
    ("lines", (Grassmann(3, 1), 2), {}),
    ("product", (SPHERE_BALL, 4), dict(prior=["uniform", "wrapped"], posterior=["vmf", "riemannian"])),
]

VAE_MODULES = [
    *(
        ModuleCase(f"vae-{name}", partial(vae, *args, **kwargs), S2, call=_vae_numbers)
        for name, args, kwargs in VAES
    ),
    ModuleCase(
        "flow-vae", flow_vae, S2, call=lambda m, x: (m.decode(x).mean, m.encode(x).log_prob(x).unsqueeze(-1))
    ),
]
