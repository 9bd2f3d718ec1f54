"""The registry of kernels and guides, and the sites that each must take;
``tests/infer/test_inference_cases.py`` walks it."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import geoopt
import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide.initialization import init_to_sample

from pyro_manifold import flows
from pyro_manifold.constraints import on
from pyro_manifold.distributions import ManifoldUniform, WrappedNormal
from pyro_manifold.geometry import SpecialOrthogonal, Torus, geometry
from pyro_manifold.infer import (
    AutoManifoldDelta,
    AutoManifoldFlow,
    AutoManifoldMultivariateNormal,
    AutoManifoldNormal,
    GeodesicHMC,
    GeodesicNUTS,
)

SPHERE = geoopt.Sphere()


@dataclass(frozen=True)
class SiteCase:
    """A latent of this shape on a manifold, or an ordinary one."""

    name: str
    manifold: geoopt.Manifold | None
    shape: tuple[int, ...]

    def support(self) -> Any:
        return dist.constraints.real if self.manifold is None else on(self.manifold)

    def potential(self, z: dict[str, torch.Tensor]) -> torch.Tensor:
        """Minus log density of one chain: of a normal, of its restriction to a compact manifold, of a
        Riemannian normal."""
        x = z["x"]
        if self.manifold is not None:
            geo = geometry(self.manifold)
            event = self.shape[len(self.shape) - geo.event_dim :]
            if float(geo.injectivity_radius(event)) == math.inf:
                return 2 * geo.dist(geo.base_point(event, dtype=x.dtype), x).square()
        return 0.5 * (x * (torch.arange(x.numel()).to(x).reshape(x.shape) % 3 + 1) - 1).square().sum()

    def model(self, dtype: torch.dtype) -> Callable[[], Any]:
        """A posterior of such a site as a Pyro model."""

        def model() -> Any:
            if self.manifold is None:
                prior = dist.Normal(torch.zeros(self.shape, dtype=dtype), 1.0).to_event(len(self.shape))
            else:
                geo = geometry(self.manifold)
                cut = len(self.shape) - geo.event_dim
                batch, event = self.shape[:cut], self.shape[cut:]
                if float(geo.injectivity_radius(event)) < math.inf:
                    prior = ManifoldUniform(self.manifold, event, batch, dtype=dtype).to_event(cut)
                else:
                    loc = geo.base_point(event, dtype=dtype).expand(batch + event)
                    prior = WrappedNormal(self.manifold, loc, 0.5).to_event(cut)
            x = pyro.sample("x", prior)
            plates = x.shape[: x.dim() - len(self.shape)]
            size = torch.Size(self.shape).numel()
            pyro.factor("f", -0.5 * (x - 0.5).square().reshape(plates + (size,)).sum(-1))
            return x

        return model


SITES = [
    SiteCase("scalar", None, ()),
    SiteCase("vector", None, (3,)),
    SiteCase("empty vector", None, (0,)),
    SiteCase("circle", SPHERE, (2,)),
    SiteCase("sphere", SPHERE, (3,)),
    SiteCase("S300", SPHERE, (301,)),
    SiteCase("spheres in a plate", SPHERE, (2, 3)),
    SiteCase("empty plate of spheres", SPHERE, (0, 3)),
    SiteCase("torus", Torus(), (1,)),
    SiteCase("rotation", SpecialOrthogonal(3), (3, 3)),
    SiteCase("empty plate of rotations", SpecialOrthogonal(3), (0, 3, 3)),
    SiteCase("ball", geoopt.PoincareBall(), (2,)),
    SiteCase("SPD", geoopt.SymmetricPositiveDefinite(), (2, 2)),
]


def direction() -> None:
    """One direction and a positive number."""
    x = pyro.sample("x", dist.ProjectedNormal(torch.tensor([1.0, 0.0, 0.0])))
    s = pyro.sample("s", dist.LogNormal(0.0, 1.0))
    pyro.sample("y", dist.Normal(x[..., 0], s), obs=torch.tensor(0.5))


def two_directions() -> None:
    direction()
    pyro.sample("z", dist.ProjectedNormal(torch.tensor([1.0, 0.0, 0.0])))


def _free(z: dict[str, torch.Tensor]) -> torch.Tensor:
    return 0.5 * z["x"].square().sum()


@dataclass(frozen=True)
class KernelCase:
    """A kernel of ``direction`` or of a potential; ``settings``: another value for each public attribute."""

    make: Callable[..., Any]
    small: dict[str, Any]  # options that make a run short

    settings = {
        "adapt_mass_matrix": False,
        "adapt_step_size": False,
        "chains": 2,
        "full_mass": True,
        "init_strategy": init_to_sample,
        "initial_params": {"x": torch.tensor([0.0, 0.6, 0.8]), "s": torch.tensor(0.3)},
        "inverse_mass_matrix": {("x",): torch.tensor(0.25), ("s",): torch.tensor([4.0])},
        "isometries": {"x": torch.neg},
        "manifolds": {"x": SPHERE},
        "mass_matrix_adapter": object(),
        "max_plate_nesting": 1,
        "max_tree_depth": 3,
        "model": two_directions,
        "num_gradients": 7,
        "num_steps": 7,
        "potential_fn": _free,
        "proposals": {"x": dist.ProjectedNormal(torch.tensor([1.0, 0.0, 0.0]))},
        "step_size": 0.125,
        "target_accept_prob": 0.6,
        "trajectory_length": 7.0,
        "transforms": {},
        "compile": "trace",
        "vectorize": "loop",
        "warmup_gradients": 7,
    }


KERNELS = [
    KernelCase(GeodesicHMC, {"trajectory_length": 0.5}),
    KernelCase(GeodesicNUTS, {"max_tree_depth": 3}),
]


@dataclass(frozen=True)
class GuideCase:
    """A guide and, for one of flows, a flow of the site ``x`` for each name of a :class:`SiteCase`."""

    make: Callable[..., Any]
    flows: Mapping[str, Callable[[], Any]] | None = None

    def guide(
        self, model: Callable[..., Any], site: str = "sphere", dtype: torch.dtype = torch.float32
    ) -> Any:
        if self.flows is None:
            return self.make(model)
        return self.make(model, {"x": self.flows[site]().to(dtype)} if site in self.flows else {})


SMALL: dict[str, Any] = dict(bins=4, hidden=(4,), number=1)
GUIDES = [
    GuideCase(AutoManifoldNormal),
    GuideCase(AutoManifoldMultivariateNormal),
    GuideCase(AutoManifoldDelta),
    GuideCase(
        AutoManifoldFlow,
        {
            "circle": lambda: flows.SphereFlow(1, 1, **SMALL),
            "sphere": lambda: flows.SphereFlow(2, 1, **SMALL),
            "S300": lambda: flows.SphereFlow(300, 1, **SMALL),
            "torus": lambda: flows.TorusFlow(1, 1, **SMALL),
            "rotation": lambda: flows.RotationFlow(1, **SMALL),
            "ball": lambda: flows.InChart(geoopt.PoincareBall(), flows.Coupling(2, [0], hidden=(4,))),
            "SPD": lambda: flows.InChart(
                geoopt.SymmetricPositiveDefinite(), flows.Coupling(3, [0], hidden=(4,))
            ),
        },
    ),
]
