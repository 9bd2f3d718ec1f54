"""Models of orientation distribution functions given diffusion tensors, for the experiment of that name: flows on the
manifolds and in log-coordinates, ridge regression, a perceptron, and nearest neighbours. Each has ``fit``, ``log_prob``
of fields in nats w.r.t. the volume of the product of spheres, ``sample`` and ``predict``."""

import math
import time
from pathlib import Path
from typing import Any

import geoopt
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_manifold.distributions import WrappedNormal
from pyro_manifold.geometry import geometry
from pyro_manifold.infer import frechet_mean
from pyro_manifold.models import ManifoldToManifoldFlow
from pyro_manifold.nn import MLP
from pyro_manifold.training import Phase, fit
from pyro_manifold.transforms import ExpChart, ExpMap

SPD, SPHERE = geoopt.SymmetricPositiveDefinite(), geoopt.Sphere()
SPHERES = geometry(SPHERE)


class Pairs:
    """Fields of tensors ``y`` and of points ``x`` of a sphere; ``noise`` is the standard deviation of what is added to
    each tangent coordinate of x whenever it is looked at, so that a density exists; 0 if x has noise already."""

    def __init__(self, y: Tensor, x: Tensor, noise: float = 0.0) -> None:
        self.y, self.x, self.noise = y, x, noise

    def noisy(self, x: Tensor) -> Tensor:
        v = self.noise * torch.randn(*x.shape[:-1], x.shape[-1] - 1)
        return SPHERES.project(SPHERES.exp_frame(x, v)) if self.noise else x


def centre(manifold: geoopt.Manifold, x: Tensor) -> Tensor:
    geo = geometry(manifold)
    pixels = x.flatten(0, 3)[:4000]
    mean = frechet_mean(manifold, geo.project(pixels.double()), tolerance=1e-6).mean
    return geo.project(mean.to(x))


def mean_of(draws: Tensor) -> Tensor:
    """Their Fréchet mean, along the first axis."""
    x = SPHERES.project(draws.double())
    return SPHERES.project(frechet_mean(SPHERE, x, tolerance=1e-3).mean.to(draws))


class Flow:
    """A conditional flow of fields on the manifolds; ``coupled`` says whether its couplings read the tensors."""

    def __init__(self, **options: Any) -> None:
        self.options = options

    def make(self, train: Pairs) -> ManifoldToManifoldFlow:
        return ManifoldToManifoldFlow.from_data(SPD, train.y, SPHERE, train.noisy(train.x), **self.options)

    def coordinates(self, x: Tensor) -> tuple[Tensor, Any]:
        """What the flow is one of, and the log volume from there to the sphere."""
        return x, 0.0

    def fit(self, train: Pairs, valid: Pairs, *, seconds: float, lr: float, checkpoint: Path | None) -> None:
        torch.manual_seed(0)
        self.model = self.make(train)
        voxels = math.prod(train.x.shape[1:4])

        def loss(x: Tensor, y: Tensor) -> Tensor:
            return -self.log_prob(train.noisy(x), y).mean() / voxels

        phase = Phase(
            "likelihood", loss, list(self.model.parameters()), lr=lr, seconds=seconds, epochs=10_000
        )
        self.history = fit(
            [phase],
            (train.x, train.y),
            model=self.model,
            validation=(valid.x, valid.y),
            batch_size=max(1, 1024 // voxels),
            clock=time.process_time,
            checkpoint=checkpoint,
            save_every=30.0,
            disable_progbar=True,
        )
        self.parameters = sum(p.numel() for p in self.model.parameters())

    def log_prob(self, x: Tensor, y: Tensor) -> Tensor:
        v, log_volume = self.coordinates(x)
        return self.model.log_prob(v, y) - log_volume

    def sample(self, y: Tensor, n: int) -> Tensor:
        return self.model.sample(y, n)

    def predict(self, y: Tensor, draws: Tensor) -> Tensor:
        return mean_of(draws)


class LogFlow(Flow):
    """The same flow of log-coordinates as if they were all of flat space. Draws longer than pi wrap around, so that
    what is reported as a density is one of the coordinates only."""

    def make(self, train: Pairs) -> ManifoldToManifoldFlow:
        self.log = ExpMap(SPHERE, centre(SPHERE, train.x))
        v = self.log.inv(train.noisy(train.x))
        return ManifoldToManifoldFlow.from_data(SPD, train.y, geoopt.Euclidean(ndim=1), v, **self.options)

    def coordinates(self, x: Tensor) -> tuple[Tensor, Any]:
        v = self.log.inv(x)
        return v, self.log.log_volume(v).sum((-1, -2, -3))

    def sample(self, y: Tensor, n: int) -> Tensor:
        v = self.model.sample(y, n)
        self.beyond = float((v.norm(dim=-1) > math.pi).float().mean())
        return self.log(v)


class PerVoxel:
    """Baselines that see the log-coordinates of the tensors of a voxel and the eight around it."""

    parameters = 0

    def prepare(self, train: Pairs) -> None:
        self.source = ExpChart(SPD, centre(SPD, train.y))
        self.chart = ExpChart(SPHERE, centre(SPHERE, train.x))
        v = self.source.inv(train.y)
        self.mean, self.scale = v.flatten(0, 3).mean(0), v.flatten(0, 3).std(0)

    def features(self, y: Tensor) -> Tensor:
        """Shape (fields, H, W, 54)."""
        v = (self.source.inv(y) - self.mean) / self.scale
        h = v[:, 0].movedim(-1, 1)
        around = nn.functional.unfold(h, 3, padding=1)
        return around.mT.unflatten(1, h.shape[-2:])

    def given(self, y: Tensor) -> Any:
        """The distribution of each voxel, batch (fields, 1, H, W)."""
        raise NotImplementedError

    def log_prob(self, x: Tensor, y: Tensor) -> Tensor:
        return self.given(y).log_prob(x).sum((-1, -2, -3))

    def sample(self, y: Tensor, n: int) -> Tensor:
        return self.given(y).sample((n,))


class Ridge(PerVoxel):
    """Linear in the features, with squares and products of the voxel's own; normal errors in the chart."""

    def features(self, y: Tensor) -> Tensor:
        f = super().features(y)
        own = f[..., 4::9]  # the middle of each 3 x 3
        i, j = torch.triu_indices(own.shape[-1], own.shape[-1])
        return torch.cat([torch.ones_like(f[..., :1]), f, own[..., i] * own[..., j]], -1)

    def fit(self, train: Pairs, valid: Pairs, **_: Any) -> None:
        self.prepare(train)
        f, v = self.features(train.y).flatten(0, 2), self.chart.inv(train.noisy(train.x)).flatten(0, 3)
        g, u = self.features(valid.y).flatten(0, 2), self.chart.inv(valid.noisy(valid.x)).flatten(0, 3)
        best = math.inf
        for penalty in (1e-3, 1e-1, 1.0, 10.0, 100.0):
            eye = penalty * torch.eye(f.shape[-1])
            weight = torch.linalg.solve(f.mT @ f + eye, f.mT @ v)
            error = float((g @ weight - u).square().mean())
            if error < best:
                best, self.weight = error, weight
        residual = (v - f @ self.weight).double()
        full = residual.mT @ residual / len(residual)
        best = math.inf
        for share in (0.003, 0.03, 0.1, 0.3, 0.9):
            tril = torch.linalg.cholesky((1 - share) * full + share * full.diagonal().diag())
            normal = dist.MultivariateNormal(torch.zeros(len(full), dtype=torch.float64), scale_tril=tril)
            loss = -float(normal.log_prob((u - g @ self.weight).double()).mean())
            if loss < best:
                best, self.tril = loss, tril.float()
        self.parameters = self.weight.numel()

    def given(self, y: Tensor) -> Any:
        mean = (self.features(y) @ self.weight).unsqueeze(1)
        return dist.TransformedDistribution(
            dist.MultivariateNormal(mean, scale_tril=self.tril, validate_args=False),
            [self.chart],
            validate_args=False,
        )

    def predict(self, y: Tensor, draws: Tensor) -> Tensor:
        return self.chart((self.features(y) @ self.weight).unsqueeze(1))


class Perceptron(PerVoxel):
    """Mean and scale of the principal coordinates of the chart, by a perceptron of two layers."""

    def fit(self, train: Pairs, valid: Pairs, *, seconds: float, lr: float, **_: Any) -> None:
        torch.manual_seed(0)
        self.prepare(train)
        v = self.chart.inv(train.noisy(train.x)).flatten(0, 3)
        loc = v.mean(0)
        values, axes = torch.linalg.eigh((v - loc).mT.double() @ (v - loc).double() / len(v))
        self.loc, self.axes = loc, (axes * values.clamp_min(1e-12).sqrt()).float()
        self.net = MLP(54, 2 * len(loc), (128, 128))
        voxels = math.prod(train.x.shape[1:4])
        phase = Phase(
            "likelihood",
            lambda x, y: -self.log_prob(train.noisy(x), y).mean() / voxels,
            list(self.net.parameters()),
            lr=lr,
            seconds=seconds / 3,
            epochs=10_000,
        )
        self.history = fit(
            [phase],
            (train.x, train.y),
            model=self.net,
            validation=(valid.x, valid.y),
            batch_size=max(1, 1024 // voxels),
            clock=time.process_time,
            disable_progbar=True,
        )
        self.parameters = sum(p.numel() for p in self.net.parameters())

    def moments(self, y: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_scale = self.net(self.features(y)).unsqueeze(1).chunk(2, -1)
        return mean, (5 * (log_scale / 5).tanh()).exp()

    def given(self, y: Tensor) -> Any:
        mean, scale = self.moments(y)
        return _InAxes(dist.Normal(mean, scale).to_event(1), self.axes, self.loc, self.chart)

    @torch.no_grad()
    def predict(self, y: Tensor, draws: Tensor) -> Tensor:
        return self.chart(self.loc + self.moments(y)[0] @ self.axes.mT)


class _InAxes:
    """A normal of principal coordinates as a distribution on the sphere."""

    def __init__(self, base: Any, axes: Tensor, loc: Tensor, chart: ExpChart) -> None:
        self.base, self.axes, self.loc, self.chart = base, axes, loc, chart

    def log_prob(self, x: Tensor) -> Tensor:
        v = self.chart.inv(x)
        z = torch.linalg.solve(self.axes, (v - self.loc).mT).mT
        return self.base.log_prob(z) - torch.linalg.slogdet(self.axes).logabsdet - self.chart.log_volume(v)

    @torch.no_grad()
    def sample(self, shape: Any) -> Tensor:
        return self.chart(self.loc + self.base.sample(shape) @ self.axes.mT)


class Neighbours(PerVoxel):
    """The k voxels for training with the most similar surroundings: a mixture of wrapped normals about their ODFs."""

    def fit(self, train: Pairs, valid: Pairs, **_: Any) -> None:
        self.prepare(train)
        f, x = self.features(train.y).flatten(0, 2), train.noisy(train.x).flatten(0, 3)
        keep = torch.randperm(len(f), generator=torch.Generator().manual_seed(0))[:8000]
        self.known, self.values = f[keep], x[keep]
        best = math.inf
        few, truth = valid.y[:40], valid.noisy(valid.x[:40])
        for k in (5, 20):
            for scale in (0.007, 0.01, 0.014, 0.02, 0.03):
                self.k, self.width = k, scale
                loss = -float(self.log_prob(truth, few).mean())
                if loss < best:
                    best, chosen = loss, (k, scale)
        self.k, self.width = chosen

    def nearest(self, y: Tensor, k: int) -> Tensor:
        """ODFs, (fields, 1, H, W, k, m)."""
        f = self.features(y)
        index = torch.cdist(f.flatten(0, 2), self.known).topk(k, largest=False).indices
        return self.values[index].unflatten(0, f.shape[:3]).unsqueeze(1)

    def log_prob(self, x: Tensor, y: Tensor) -> Tensor:
        out = [
            WrappedNormal(SPHERE, self.nearest(row[None], self.k), self.width, validate_args=False)
            .log_prob(value[None].unsqueeze(-2))
            .logsumexp(-1)
            .sum((-1, -2, -3))
            - math.prod(value.shape[:3]) * math.log(self.k)
            for row, value in zip(y, x, strict=True)
        ]
        return torch.cat(out)

    def sample(self, y: Tensor, n: int) -> Tensor:
        near = self.nearest(y, self.k)
        pick = torch.randint(self.k, (n, *near.shape[:4], 1, 1))
        x = near.expand(n, *near.shape).gather(-2, pick.expand(*pick.shape[:-1], near.shape[-1])).squeeze(-2)
        v = self.width * torch.randn(*x.shape[:-1], x.shape[-1] - 1)
        return SPHERES.project(SPHERES.exp_frame(x, v))

    def predict(self, y: Tensor, draws: Tensor) -> Tensor:
        return self.nearest(y, 1).squeeze(-2)


MODELS: dict[str, Any] = {
    "ridge": Ridge,
    "perceptron": Perceptron,
    "nearest neighbours": Neighbours,
    "Euclidean GLOW": lambda **o: LogFlow(**o),
    "ManifoldGLOW, four charts": lambda **o: Flow(**o),
    "ManifoldGLOW, one flow": lambda **o: Flow(**o, coupled=False),
    "ManifoldGLOW": lambda **o: Flow(**o, one_chart=True),
}
