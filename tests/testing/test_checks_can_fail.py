"""Each check meets something it must reject: broken geometries, transforms, distributions and modules."""

import math
from typing import Any

import geoopt
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import Transform

from pyro_manifold.distributions import ManifoldUniform, VonMisesFisher, WrappedNormal
from pyro_manifold.geometry import Geometry, SphereGeometry
from pyro_manifold.ops.tracing import is_concrete
from pyro_manifold.testing import (
    DISTRIBUTION_CHECKS,
    GEOMETRY_CHECKS,
    MODULE_CHECKS,
    TRANSFORM_CHECKS,
    check_precision,
    check_stress,
)
from pyro_manifold.transforms import ExpMap, Pad
from pyro_manifold.transforms.module import ModuleTransform

SPHERE, BALL = geoopt.Sphere(), geoopt.PoincareBall()
LIKE = torch.empty((), dtype=torch.float64)


def broken(base: type, **methods: Any) -> Any:
    return type("Broken", (base,), methods)


def shortened(self: Any, p: Tensor, v: Tensor) -> Tensor:
    return SphereGeometry.log_det_exp(self, p, v) * 0.99


GEOMETRIES = {
    "shapes_and_membership": dict(
        contains=lambda self, x, atol=None: torch.ones(x.shape[:-1], dtype=torch.bool)
    ),
    "batch_axes": dict(inner=lambda self, p, u, w: (u * w).sum(-1) * (1 + (p.dim() > 2) * p[..., 0])),
    "exp_and_log": dict(dist=lambda self, p, q: (p - q).norm(dim=-1)),
    "frames": dict(
        to_tangent=lambda self, p, v: SphereGeometry.to_tangent(self, p, v) * 2,
        from_tangent=lambda self, p, u: SphereGeometry.from_tangent(self, p, u) / 2,
    ),
    "tangent_spaces": dict(transport=lambda self, p, q, u: self.project_tangent(q, u)),
    "embedding": dict(embed_tangent=lambda self, p, v: 2 * SphereGeometry.embed_tangent(self, p, v)),
    "geodesics": dict(geodesic=lambda self, p, u, t: (SphereGeometry.exp(self, p, t * u), u)),
    "volume_change": dict(log_det_exp=shortened),
    "coincidence": dict(dist=lambda self, p, q: (p * q).sum(-1).arccos()),
    "global_chart": dict(has_chart=True, chart=lambda self, v: SphereGeometry.chart(self, 3 * v)),
    "volume": dict(log_volume=lambda self, shape: 2.5),
    "preimages": dict(preimages=lambda self, p, v, radius: torch.stack([v, v + 1])),
    "group_action": dict(act=lambda self, g, x: SphereGeometry.act(self, g, x.flip(-1))),
    "features": dict(to_features=lambda self, x: -SphereGeometry.to_features(self, x)),
}


@pytest.mark.parametrize("check", GEOMETRY_CHECKS)
def test_geometry(check: str) -> None:
    GEOMETRY_CHECKS[check](SphereGeometry(SPHERE), 2, LIKE)
    with pytest.raises(AssertionError):
        GEOMETRY_CHECKS[check](broken(SphereGeometry, **GEOMETRIES[check])(SPHERE), 2, LIKE)


def test_missing_preimages() -> None:
    """The first of them maps right and comes first; that there are others only the mass of a wide normal
    tells."""
    broke = broken(SphereGeometry, preimages=lambda self, p, v, radius: v.unsqueeze(0))
    with pytest.raises(AssertionError, match="preimages are missing: .* mass 0.8"):
        GEOMETRY_CHECKS["preimages"](broke(SPHERE), 2, LIKE)


def test_velocities_that_never_turn() -> None:
    broke = broken(SphereGeometry, embed_tangent=Geometry.embed_tangent)
    with pytest.warns(UserWarning, match="embed_tangent: geodesics of Sphere close"):
        GEOMETRY_CHECKS["embedding"](broke(SPHERE), 2, LIKE)


def test_chart_is_demanded_where_there_is_one() -> None:
    with pytest.raises(AssertionError, match="no chart"):
        broke = broken(SphereGeometry, injectivity_radius=lambda self, shape: float("inf"))
        GEOMETRY_CHECKS["global_chart"](broke(SPHERE), 2, LIKE)


TRANSFORMS = {
    "shapes": dict(forward_shape=lambda self, shape: torch.Size(shape)),
    "inverse": dict(_inverse=lambda self, y: 2 * ExpMap._inverse(self, y)),
    "volume_change": dict(
        log_abs_det_jacobian=lambda self, x, y: 0.99 * ExpMap.log_abs_det_jacobian(self, x, y)
    ),
    "jvp": dict(jvp=lambda self, x, tangents: ExpMap.jvp(self, x, tangents.flip(-1))),
    "autocast_of_map": dict(
        _exact=(), __call__=lambda self, x: ExpMap.__call__(self, x) + torch.is_autocast_enabled("cpu")
    ),
    "changed_values": dict(__call__=Transform.__call__, _inv_call=Transform._inv_call),
    "gradients": dict(_call=lambda self, x: ExpMap._call(self, x - x.mean(0))),
    "pickling": dict(__reduce__=lambda self: (ExpMap, (self.manifold, self.loc.roll(1)))),
    "composition": dict(log_abs_det_jacobian=lambda self, x, y: torch.full_like(x[..., 0], torch.nan)),
}


@pytest.mark.parametrize("check", TRANSFORM_CHECKS)
def test_transform(check: str) -> None:
    loc, x = torch.eye(3).double()[0], torch.tensor([[0.3, 0.4], [-1.0, 0.2]]).double()
    TRANSFORM_CHECKS[check](ExpMap(SPHERE, loc), x)
    with pytest.raises((AssertionError, AttributeError)):
        TRANSFORM_CHECKS[check](broken(ExpMap, **TRANSFORMS[check])(SPHERE, loc), x)


class Distribution(WrappedNormal):
    """A wrapped normal to be broken; ``expand`` must build the subclass."""

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        return super().expand(batch_shape, self._get_checked_instance(type(self), _instance))


def double_scale(self: Any, value: Tensor) -> Tensor:
    """A density that is normalised, but not that of the draws."""
    return WrappedNormal(self.manifold, self.loc, 1.3 * self.scale, validate_args=False).log_prob(value)


def detached(self: Any, sample_shape: Any = ()) -> Tensor:
    """Draws whose gradient is 20% too small."""
    x = WrappedNormal.rsample(self, sample_shape)
    return x.detach() + 0.8 * (x - x.detach())


def remembered(self: Any, value: Tensor) -> Tensor:
    """The density of a value as it was when it was first asked for."""
    first = self.__dict__.setdefault("_seen", {}).setdefault(id(value), value.detach().clone())
    now = WrappedNormal.log_prob(self, value)
    return now + (WrappedNormal.log_prob(self, first) - now).detach()


def with_torchs_cache(self: Any, manifold: Any, loc: Tensor, scale: Tensor) -> None:
    """A distribution whose map remembers draws as torch does."""
    WrappedNormal.__init__(self, manifold, loc, scale)
    stale = broken(ExpMap, __call__=Transform.__call__, _inv_call=Transform._inv_call)
    self.transforms = [stale(manifold, loc, cache_size=1)]
    self.log_prob = lambda x: dist.TransformedDistribution.log_prob(self, x)


FAMILIES: dict[str, dict[str, Any]] = {
    "shapes": dict(log_prob=lambda self, x: WrappedNormal.log_prob(self, x).sum()),
    "infer_shapes": dict(infer_shapes=staticmethod(lambda **shapes: (torch.Size(), torch.Size([3])))),
    "expansion": dict(
        expand=lambda self, batch_shape, _instance=None: WrappedNormal(
            self.manifold, self.loc, self.scale
        ).expand(batch_shape)
    ),
    "broadcasting": dict(
        log_prob=lambda self, x: WrappedNormal.log_prob(self, x) + math.log(sum(self.batch_shape) or 1)
    ),
    "empty_batches": dict(log_prob=lambda self, x: WrappedNormal.log_prob(self, x).reshape(-1)),
    "copies": dict(__reduce__=lambda self: (WrappedNormal, (self.manifold, self.loc, 2.0))),
    "validation": dict(_validate_sample=lambda self, value: None),
    "support_of_draws": dict(sample=lambda self, shape=(): 2 + WrappedNormal.sample(self, shape)),
    "masked_rows": dict(_validate_sample=lambda self, value: None),
    "mapping": dict(log_prob=lambda self, x: WrappedNormal.log_prob(self, x) + float(not is_concrete(x))),
    "derivatives": dict(
        log_prob=lambda self, x: WrappedNormal.log_prob(self, x) + (x - x.detach()).square().sum(-1)
    ),
    "autocast": dict(
        _exact=(), log_prob=lambda self, x: WrappedNormal.log_prob(self, x) + torch.is_autocast_enabled("cpu")
    ),
    "changed_values": dict(log_prob=remembered),
    "changed_parameters": dict(__init__=with_torchs_cache),
    "pyro_site": dict(expand=lambda self, batch_shape, _instance=None: self),
    "compilation": dict(
        log_prob=lambda self, x: WrappedNormal.log_prob(self, x) + float(torch.compiler.is_compiling())
    ),
    "one_graph": dict(
        log_prob=lambda self, x: (
            WrappedNormal.log_prob(self, x) if bool(x.sum() > 0) else WrappedNormal.log_prob(self, x)
        )
    ),
    "total_mass": dict(log_prob=lambda self, x: WrappedNormal.log_prob(self, x) + 1e-4),
    "moments": dict(variance=property(lambda self: self.scale.expand(2))),
    "goodness_of_fit": dict(log_prob=double_scale),
    "pushforward": dict(log_prob=lambda self, x: WrappedNormal.log_prob(self, x) + 1e-6),
    "gradients_of_log_prob": dict(
        log_prob=lambda self, x: WrappedNormal.log_prob(self, x) + 0 * (x - self.loc).norm(dim=-1).sqrt()
    ),
    "pathwise_gradient": dict(rsample=detached),
}


@pytest.mark.parametrize("check", DISTRIBUTION_CHECKS)
def test_distribution(check: str) -> None:
    params = dict(loc=torch.tensor([0.3, -0.2]).double(), scale=torch.tensor([0.7]).double())
    manifold = geoopt.Euclidean(ndim=1) if check == "moments" else BALL  # whose entropy has a closed form
    DISTRIBUTION_CHECKS[check](lambda loc, scale: Distribution(manifold, loc, scale), params)
    distribution = broken(Distribution, **FAMILIES[check])
    with pytest.raises((AssertionError, ValueError, torch._dynamo.exc.TorchDynamoException)):
        DISTRIBUTION_CHECKS[check](lambda loc, scale: distribution(manifold, loc, scale), params)


def test_stress() -> None:
    distribution = broken(Distribution, rsample=lambda self, shape=(): WrappedNormal.rsample(self, shape) / 0)
    with pytest.raises(AssertionError, match="not finite"):
        check_stress(
            lambda loc, scale: distribution(BALL, loc, scale), dict(loc=torch.zeros(2), scale=torch.ones(1))
        )


class Bad(torch.nn.Module):
    """A module with every fault the checks look for, one at a time."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault, self.weight, self.spare = (
            fault,
            torch.nn.Parameter(torch.randn(2, 2)),
            torch.nn.Parameter(torch.zeros(1)),
        )
        self.hidden = float(torch.randn(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.fault == "changed_values":
            return self.__dict__.setdefault("seen", {}).setdefault(id(x), x @ self.weight)
        y = x @ self.weight + (0 if self.fault == "gradients" else self.spare)
        return y + {"batches": x.mean(0), "gradients": 0.0, "state": self.hidden, "": 0.0}[self.fault]


@pytest.mark.parametrize("check", MODULE_CHECKS)
def test_module(check: str) -> None:
    x = torch.randn(4, 2)
    MODULE_CHECKS[check](lambda: Bad(""), x, lambda m, x: m(x))
    with pytest.raises(AssertionError):
        MODULE_CHECKS[check](lambda: Bad(check), x, lambda m, x: m(x))


def test_expansion_to_a_batch_that_does_not_fit_is_caught() -> None:
    class Accepting(ManifoldUniform):
        def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
            return Accepting(self.manifold, self.event_shape, batch_shape, dtype=torch.float64)

    with pytest.raises(AssertionError, match=r"batch shape \(3, 2\) is expanded to \(3, 3\)"):
        DISTRIBUTION_CHECKS["expansion"](lambda: Accepting(SPHERE, (3,), dtype=torch.float64), {})


class Layer(ModuleTransform):
    """A scaling, broken by the sign of the log-determinant that its inverse remembers, or by what it says it
    reads."""

    def __init__(self, fault: str = "") -> None:
        super().__init__(cache_size=1)
        self.dim = self.codomain_dim = 2
        self.fault, self.log_scale = fault, torch.nn.Parameter(torch.tensor([0.3, 0.0], dtype=torch.float64))

    def forward_and_log_volume(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x * self.log_scale.exp(), self.log_scale.sum().expand(x.shape[:-1])

    def inverse_and_log_volume(self, y: Tensor) -> tuple[Tensor, Tensor]:
        log_volume = self.log_scale.sum().expand(y.shape[:-1])
        return y * (-self.log_scale).exp(), -log_volume if self.fault == "volume_change" else log_volume

    def depends(self) -> list[Any]:
        return [] if self.fault == "changed_values" else [self.log_scale]


@pytest.mark.parametrize("check", ["volume_change", "changed_values"])
def test_what_a_layer_remembers(check: str) -> None:
    x = torch.randn(3, 2, dtype=torch.float64)
    TRANSFORM_CHECKS[check](Layer(), x)
    with pytest.raises(AssertionError):
        TRANSFORM_CHECKS[check](Layer(check), x)


def test_a_density_of_parts_of_two_distributions_is_caught() -> None:
    """The normaliser is computed when the distribution is made, the rest when it is asked."""

    class Half(WrappedNormal):
        def __init__(self, manifold: Any, loc: Tensor, scale: Tensor) -> None:
            super().__init__(manifold, loc, scale)
            self.log_scale = self.scale.log().sum(-1).detach().clone()

        def log_prob(self, value: Tensor) -> Tensor:
            return super().log_prob(value) + self.scale.log().sum(-1) - self.log_scale

    params = dict(loc=torch.tensor([0.3, -0.2]).double(), scale=torch.tensor([0.7]).double())
    with pytest.raises(AssertionError, match="scale changed in place is of neither the old nor the new"):
        DISTRIBUTION_CHECKS["changed_parameters"](lambda loc, scale: Half(BALL, loc, scale), params)


class Added(Pad):
    """An injective map that torch may add up."""

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return self.log_volume(x)


def test_an_injective_map_that_adds_its_volume() -> None:
    x = torch.randn(3, 2, dtype=torch.float64)
    TRANSFORM_CHECKS["composition"](Pad(2, 3), x)
    with pytest.raises(AssertionError, match="added up"):
        TRANSFORM_CHECKS["composition"](Added(2, 3), x)


PRECISION = {
    "float32 is off": dict(
        entropy=lambda self: (
            VonMisesFisher.entropy(self) + self.concentration - (self.concentration + 1e-3) + 1e-3
        )
    ),
    "variance is negative": dict(variance=property(lambda self: VonMisesFisher.variance.fget(self) - 1e-3)),  # type: ignore[attr-defined]
    "gradient of entropy in concentration.*not finite": dict(
        entropy=lambda self: (
            VonMisesFisher.entropy(self) + 0 * (self.concentration - self.concentration).sqrt()
        )
    ),
    "entropy.*not finite": dict(entropy=lambda self: VonMisesFisher.entropy(self) + torch.inf),
}


@pytest.mark.parametrize("message", PRECISION)
def test_precision(message: str) -> None:
    """Cancellation at order kappa, a negative variance, a NaN gradient and an infinite value are all
    caught."""
    params = dict(loc=torch.eye(3)[0], concentration=torch.tensor(1e6))
    check_precision(VonMisesFisher, params)
    with pytest.raises(AssertionError, match=message):
        check_precision(broken(VonMisesFisher, **PRECISION[message]), params)
