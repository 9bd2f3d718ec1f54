"""Auto-encoders with latent variables on every manifold."""

import copy
import math
import pickle
from pathlib import Path
from typing import Any

import geoopt
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases.vaes import VAES, FlowPosterior, flow_vae, vae
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn

from pyro_manifold.distributions import ManifoldUniform, ProductDistribution, RiemannianNormal, WrappedNormal
from pyro_manifold.flows import SphereFlow
from pyro_manifold.geometry import SpecialOrthogonal, Torus, geometry
from pyro_manifold.models import ManifoldVAE
from pyro_manifold.nn import ConvDecoder, ConvEncoder
from pyro_manifold.testing.quadrature import manifold_rule

D = torch.float64
SPHERE = geoopt.Sphere()
NAMES = {name: (args, kwargs) for name, args, kwargs in VAES}


def rows(n: int = 40) -> Tensor:
    """Points about a circle in three dimensions."""
    t = torch.rand(n, dtype=D, generator=torch.Generator().manual_seed(0)) * 2 * math.pi
    return torch.stack([t.cos(), t.sin(), 0.3 * (2 * t).cos()], -1)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n == "frames")) for n in [*NAMES, "flow"]]
)
def test_training_raises_the_bound_on_every_manifold(name: str) -> None:
    pyro.set_rng_seed(0)
    model = flow_vae() if name == "flow" else vae(*NAMES[name][0], **NAMES[name][1])
    model = model.double()
    x = rows(12)
    svi = SVI(model.model, model.guide, pyro.optim.Adam({"lr": 0.05}), TraceMeanField_ELBO())
    before = model.elbo(x, 20).mean().detach()
    losses = [svi.step(x) / len(x) for _ in range(25)]
    after = model.elbo(x, 20).mean().detach()
    assert all(map(math.isfinite, losses)) and float(after) > float(before) + 0.1
    z, mean = model.interpolate(x[0], x[1], 5)
    assert bool(geometry(model.manifold).contains(z).all()) and mean.shape == (5, 3)
    assert model.sample(2).shape == model.sample(2, x).shape == (2, 3)
    assert model.elbo(x[:0]).shape == model.iwae(x[:0], 3).shape == model.encode(x[:0]).batch_shape == (0,)


QUADRATURE: list[tuple[geoopt.Manifold, int, dict[str, Any]]] = [
    (SPHERE, 1, {}),
    (SPHERE, 1, {"prior": "vmf", "posterior": "wrapped"}),
    (SPHERE, 2, {}),
    (SPHERE, 2, {"posterior": "power_spherical"}),
    (SPHERE, 2, {"prior": "riemannian", "posterior": "riemannian"}),
    (Torus(), 2, {}),
    (SpecialOrthogonal(3), 3, {}),
    (geoopt.PoincareBall(), 2, {"prior": "riemannian"}),
    (geoopt.ProductManifold((SPHERE, 2), (geoopt.PoincareBall(), 1)), 2, {}),
]


@pytest.mark.parametrize("manifold, dim, kwargs", QUADRATURE)
def test_iwae_rises_to_the_evidence_by_quadrature(manifold: Any, dim: int, kwargs: Any) -> None:
    """The evidence is the integral of p(x | z) p(z) over the manifold; the bound lies below it, and the
    importance-weighted bound reaches it."""
    model = vae(manifold, dim, **kwargs).double()
    x = rows(3)
    with torch.no_grad():
        model.decoder.net[-1].weight.mul_(3)  # a decoder that matters
        model.encoder.scale[0].bias.add_(0.5)  # and a posterior that covers
    geo = geometry(model.manifold)
    rule = manifold_rule(model.manifold, geo.base_point(model.point_shape, dtype=D), 9.0, 40, 32)
    with torch.no_grad():
        prior = model.prior.log_prob(rule.points) + rule.weights.log()
        exact = torch.stack([(model.decode(rule.points).log_prob(row) + prior).logsumexp(0) for row in x])
    assert abs(float(prior.logsumexp(0))) < 1e-6
    pyro.set_rng_seed(0)
    bound, k_30, k_big = (
        model.elbo(x, 3000).detach(),
        model.iwae(x.repeat(100, 1), 30),
        model.iwae(x, 40_000),
    )
    k_30 = k_30.reshape(100, 3).mean(0)
    # relative variance of the weights below 10 (measured): 6 sd of the log-mean are 6 sqrt(10 / 4e4) = 0.095
    torch.testing.assert_close(k_big, exact, atol=0.095, rtol=0)
    assert (
        bool((bound < exact).all()) and float(bound.mean()) < float(k_30.mean()) < float(exact.mean()) + 0.03
    )


class FlowPrior(nn.Module):
    """A sphere flow of the uniform distribution."""

    def __init__(self) -> None:
        super().__init__()
        self.flow = SphereFlow(2, depth=2, bins=4, hidden=(8,))

    def forward(self) -> Any:
        like = next(self.parameters())
        return dist.TransformedDistribution(ManifoldUniform(SPHERE, 3, dtype=like.dtype), [self.flow])


def test_prior_and_posterior_may_be_flows() -> None:
    """Their evidence, too, is the integral over the sphere, and both are trained."""
    pyro.set_rng_seed(0)
    model = ManifoldVAE(
        geoopt.Sphere(), 2, 3, hidden=4, prior=FlowPrior(), posterior=FlowPosterior(4), likelihood="normal"
    ).double()
    x = rows(20)
    old = [p.clone() for p in model.parameters()]
    svi = SVI(model.model, model.guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    for _ in range(10):
        svi.step(x)
    moved = [not torch.equal(a, b) for a, b in zip(model.parameters(), old, strict=True)]
    assert sum(moved) > 0.9 * len(moved)
    rule = manifold_rule(SPHERE, torch.tensor([1.0, 0, 0], dtype=D), 9.0, 60, 60)
    with torch.no_grad():
        prior = model.prior.log_prob(rule.points) + rule.weights.log()
        exact = torch.stack([(model.decode(rule.points).log_prob(row) + prior).logsumexp(0) for row in x[:3]])
    # relative variance of the weights below 10 (measured): 6 sd of the log-mean are 6 sqrt(10 / 8e3) = 0.21
    torch.testing.assert_close(model.iwae(x[:3], 8000), exact, atol=0.21, rtol=0)
    z, _ = model.interpolate(x[:4], x[4:8], 3)  # between draws: this posterior has no centre
    assert z.shape == (3, 4, 3)
    copied = copy.deepcopy(model)
    assert copied.elbo(x).shape == (20,) and pickle.loads(pickle.dumps(model)).settings() == model.settings()


COMPACT = geoopt.ProductManifold((SPHERE, 3), (Torus(), 2), (SPHERE, 2))
EXTREME: list[tuple[geoopt.Manifold, int, Any]] = [
    (SPHERE, 1, "vmf"),
    (SPHERE, 2, "power_spherical"),
    (SPHERE, 2, "riemannian"),
    (SPHERE, 64, "vmf"),
    (Torus(), 2, "wrapped"),
    (SpecialOrthogonal(3), 3, "wrapped"),
    (COMPACT, 5, ["riemannian", "wrapped", "power_spherical"]),
]


@pytest.mark.parametrize("value", [0.0, 1e6, -1e6])
@pytest.mark.parametrize("manifold, dim, posterior", EXTREME)
def test_extreme_encoders_have_finite_gradients(
    manifold: Any, dim: int, posterior: Any, value: float
) -> None:
    """Features that are all 0, and widths of log 2, 1e6 and 1e-5."""
    for dtype in (torch.float32, D):
        model = vae(manifold, dim, posterior=posterior).to(dtype)
        with torch.no_grad():
            for p in (*model.encoder.loc.parameters(), *model.encoder.scale.parameters()):
                p.zero_()
            model.encoder.scale[0].bias.fill_(value)
        loss = model.elbo(rows(5).to(dtype)).sum()
        loss.backward()
        assert loss.isfinite() and all(bool(p.grad.isfinite().all()) for p in model.parameters())


def test_products_take_a_family_for_each_factor() -> None:
    model = vae(*NAMES["product"][0], **NAMES["product"][1]).double()
    q, p = model.encode(rows(5)), model.prior
    assert isinstance(q, ProductDistribution) and isinstance(p, ProductDistribution)
    assert isinstance(p.parts[0], ManifoldUniform) and isinstance(q.parts[1], RiemannianNormal)
    assert model.settings()["posterior"] == "vmf, riemannian"
    whole = vae(*NAMES["product"][0], prior="wrapped", posterior="wrapped")
    assert isinstance(whole.prior, WrappedNormal)  # is one distribution on the product
    each = vae(geoopt.ProductManifold((SPHERE, 3), (SPHERE, 2)), 3)
    assert each.settings()["posterior"] == "vmf, vmf" and isinstance(each.prior, ManifoldUniform)
    with pytest.raises(ValueError, match="prior: got 3 families.*each of the 2 factors"):
        vae(*NAMES["product"][0], prior=["uniform", "wrapped", "wrapped"])


class Flip(nn.Module):
    """Features of an image of shape (2, 2), by a network for one batch axis only."""

    def __init__(self, out: int) -> None:
        super().__init__()
        self.layer = nn.Linear(4, out)

    def forward(self, x: Tensor) -> Tensor:
        assert x.dim() == 3
        return self.layer(x.flatten(1))


def test_networks_of_ones_own() -> None:
    model = ManifoldVAE(SPHERE, 2, (2, 2), hidden=6, encoder=Flip(6), decoder=nn.Linear(6, 4))
    x = torch.ones(7, 2, 2)
    assert model.elbo(x, 3).shape == (7,) and model.sample(5).shape == (5, 2, 2)
    assert model.iwae(x.expand(3, 7, 2, 2), 4).shape == (3, 7) and model.elbo(x[0]).shape == ()
    assert model.interpolate(x[0], x[1], 3)[1].shape == (3, 2, 2)
    with pytest.raises(
        ValueError, match=r"encoder: for an input of shape \(7, 2, 2\).*\(7, 5\); expected \(7, 6\)"
    ):
        ManifoldVAE(SPHERE, 2, (2, 2), hidden=6, encoder=Flip(5)).elbo(x)
    with pytest.raises(ValueError, match=r"decoder: .* expected \(7, 4\)"):
        ManifoldVAE(SPHERE, 2, (2, 2), hidden=6, decoder=nn.Linear(6, 3)).elbo(x)


@pytest.mark.parametrize("side", [4, 7, 8, 28])
def test_convolutions_of_every_side(side: int) -> None:
    n = side * side
    encoder, decoder = ConvEncoder(side, 6, width=2), ConvDecoder(6, side, width=2)
    model = ManifoldVAE(SPHERE, 2, n, hidden=6, encoder=encoder, decoder=decoder)
    x = torch.ones(2, 3, n)
    assert encoder(x).shape == (2, 3, 6) and decoder(encoder(x)).shape == (2, 3, n)
    assert encoder(x[:, :0]).shape == (2, 0, 6) and decoder(encoder(x[0, 0])).shape == (n,)
    assert model.width == 2 * n and model.iwae(x, 3).shape == (2, 3)


def test_likelihoods() -> None:
    x = torch.tensor([[0.0, 2.0, 1.0], [1.0, 1.0, 0.0]])
    model = ManifoldVAE(Torus(), 1, 3, hidden=4, likelihood="categorical", classes=3)
    z = model.encode(x).sample()
    logits = model.decoder(z).reshape(2, 3, 3).log_softmax(-1)
    expected = logits.gather(-1, x.long().unsqueeze(-1)).sum((-1, -2))
    torch.testing.assert_close(model.decode(z).log_prob(x), expected)
    assert model.elbo(x).shape == (2,) and set(model.sample(50).unique().tolist()) <= {0.0, 1.0, 2.0}
    assert model.interpolate(x[0], x[1], 4)[1].shape == (4, 3, 3)
    with pytest.raises(
        ValueError, match="x: got numbers that are no class, between 0.5 and 3.0; expected .* 0 to 2"
    ):
        model.elbo(torch.tensor([[0.5, 3.0, 1.0]]))

    def laplace(out: Tensor) -> Any:
        return dist.Laplace(out[..., :3], out[..., 3:].exp()).to_event(1)

    other = ManifoldVAE(Torus(), 1, 3, hidden=4, likelihood=laplace, out_features=6)
    assert other.elbo(x).shape == (2,) and other.settings()["likelihood"] == "given by a function"


def test_files_and_copies(tmp_path: Path) -> None:
    x = rows(5)
    for name, (args, kwargs) in NAMES.items():
        a, b = vae(*args, **kwargs).double(), vae(*args, **kwargs).double()
        with torch.no_grad():
            for p in a.parameters():
                p.add_(0.01)
        a.save(tmp_path / f"{name}.pt")
        b.load(tmp_path / f"{name}.pt")
        scores = []
        for model in (a, b, copy.deepcopy(a), pickle.loads(pickle.dumps(a))):
            pyro.set_rng_seed(0)
            scores.append(model.iwae(x, 3))
        assert all(torch.equal(scores[0], s) for s in scores), name
    with pytest.raises(ValueError, match="plane.pt.*Euclidean.*construct it alike"):
        vae(geoopt.PoincareBall(), 2).load(tmp_path / "plane.pt")


def test_the_posterior_predictive_of_pyro() -> None:
    model = vae(SPHERE, 2)
    out = Predictive(model.model, guide=model.guide, num_samples=3)(rows(4).float())
    assert out["z"].shape == (3, 4, 3)


def test_widths_stay_where_the_density_is_known() -> None:
    """On SO(4) wide wrapped normals have no density; the width approaches the largest one that has."""
    manifold = SpecialOrthogonal(4)
    limit = geometry(manifold).wrapped_limit((4, 4))
    model = vae(manifold, 6).double()
    with torch.no_grad():
        model.encoder.scale[0].bias.fill_(100.0)
    scale = model.encode(rows(3)).scale
    assert bool((scale < limit).all()) and bool((scale > 0.9 * limit).all())


BAD: list[tuple[Any, str]] = [
    (
        lambda: vae(SPHERE, 2, posterior="normal"),
        "posterior: got 'normal'; expected 'wrapped' or 'riemannian'",
    ),
    (
        lambda: vae(geoopt.PoincareBall(), 2, posterior="vmf"),
        "needs the unit sphere, on PoincareBall; expected 'wrap",
    ),
    (
        lambda: vae(geoopt.PoincareBall(), 2, prior="uniform"),
        "prior: got 'uniform', which needs finite volume",
    ),
    (
        lambda: vae(Torus(), 2, posterior="riemannian"),
        "posterior: got 'riemannian', which needs constant curvature",
    ),
    (lambda: vae(geoopt.Scaled(geoopt.Sphere(), 2.0), 2, posterior="vmf"), "needs the unit sphere"),
    (
        lambda: vae(geoopt.SymmetricPositiveDefinite(), 3, posterior="riemannian"),
        "not for posteriors.*expected 'wrapped'",
    ),
    (
        lambda: vae(SPHERE, 2, posterior="uniform"),
        "posterior: got 'uniform', which does not depend on the data",
    ),
    (lambda: vae(SPHERE, 2, prior=3), "prior: got 3"),
    (lambda: vae(SPHERE, 2, likelihood="poisson"), "likelihood: got 'poisson'"),
    (lambda: vae(SPHERE, 2, likelihood="categorical"), "classes: got None with likelihood='categorical'"),
    (lambda: vae(SPHERE, 2, classes=3), "classes: got 3 with likelihood='normal'"),
    (lambda: vae(SPHERE, 2, out_features=3), "out_features: got 3 with likelihood='normal'"),
    (lambda: vae(geoopt.Stiefel(), 5), "dim: Stiefel.*geoopt.ProductManifold"),
    (lambda: vae(SpecialOrthogonal(3), 2), "dim: got 2"),
    (
        lambda: vae(SPHERE, 2).interpolate(torch.zeros(3), torch.zeros(3), 1),
        "steps: got 1; expected at least 2",
    ),
    (
        lambda: vae(SPHERE, 2, prior=lambda: 3).prior,
        "prior: returned int; expected a distribution of event shape",
    ),
    (
        lambda: vae(SPHERE, 2, posterior=lambda h: ManifoldUniform(SPHERE, 3)).encode(torch.zeros(4, 3)),
        r"posterior: its distribution has batch shape \(\); expected \(4,\)",
    ),
    (
        lambda: vae(SPHERE, 2, prior=lambda: ManifoldUniform(SPHERE, 4)).prior,
        r"prior: returned \(4,\); expected .*\(3,\)",
    ),
    (lambda: ConvEncoder(3), "side: got 3; expected at least 4"),
]


@pytest.mark.parametrize("call, match", BAD)
def test_bad_input(call: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        call()
