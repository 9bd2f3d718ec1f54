"""The hidden divergence is that on the manifold, the bounds are bounds where they say so, and extreme encoders stay
finite. The generic checks run from cases.py."""

import copy
import math
import pickle

import geoopt
import mpmath
import numpy as np
import pyro
import pytest
import scipy.special
import scipy.stats
import torch
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn

from pyro_manifold.constraints import on
from pyro_manifold.distributions._cube_beta import MARGIN, CubeBeta
from pyro_manifold.flows import LearnedEmbedding
from pyro_manifold.geometry import SpecialOrthogonal, geometry
from pyro_manifold.models import EmbeddingVAE
from pyro_manifold.nn import GroupActionHead
from pyro_manifold.transforms import (
    CubeToRotations,
    CubeToSphere,
    CubeToTorus,
    Pad,
    StereographicChart,
)

D = torch.float64


def learned() -> LearnedEmbedding:
    torch.manual_seed(1)
    return LearnedEmbedding(geoopt.Sphere(), 1, (8,))


EMBEDDINGS = {
    "circle": lambda: CubeToSphere(1),
    "S2": lambda: CubeToSphere(2),
    "torus": lambda: CubeToTorus(2),
    "SO3": lambda: CubeToRotations(),
    "chart": lambda: StereographicChart(2),
    "learned": learned,
}
GROUPS = ["circle", "S2", "torus", "SO3", "learned"]


def make(embedding: str = "circle", *, dtype: torch.dtype = D, **options) -> EmbeddingVAE:
    pyro.clear_param_store()
    torch.manual_seed(0)
    options = {"hidden": 12, "likelihood_scale": 0.3, **options}
    return EmbeddingVAE(EMBEDDINGS[embedding](), 6, **options).to(dtype)


# --- the distribution of the cube ---------------------------------------------------------------------------------


@pytest.mark.parametrize("a, b", [(1.0, 1.0), (1.5, 40.0), (3e3, 7e3), (8e6, 2e6)])
def test_beta_keeps_its_digits(a, b) -> None:
    """In float32: density against SciPy, entropy and divergence against mpmath (SciPy's entropy is 0 at 1e7)."""
    d = CubeBeta(torch.tensor(a), torch.tensor(b))
    mp = mpmath.mp
    with mp.workdps(40):
        one = mp.log(mp.beta(a, b)) - (a - 1) * mp.digamma(a) - (b - 1) * mp.digamma(b)
        entropy = float(one + (a + b - 2) * mp.digamma(a + b))
    assert float(d.entropy()) == pytest.approx(entropy, abs=1e-5)
    u = torch.tensor(scipy.stats.beta(a, b).ppf([0.1, 0.5, 0.9]), dtype=torch.float32)
    expected = scipy.stats.beta(a, b).logpdf(u.double().numpy())
    np.testing.assert_allclose(d.log_prob(u).numpy(), expected, atol=2e-5)
    uniform = CubeBeta(torch.tensor(1.0), torch.tensor(1.0))
    kl = torch.distributions.kl_divergence(d, uniform)
    assert float(kl) == pytest.approx(-entropy, abs=1e-5)


def test_beta_divergence_by_quadrature() -> None:
    p, q = (CubeBeta(*torch.tensor(c, dtype=D)) for c in ([2.5, 7.0], [1.2, 3.0]))
    nodes, weights = (torch.as_tensor(x) for x in scipy.special.roots_legendre(100))
    u = (nodes + 1) / 2
    expected = (weights / 2 * p.log_prob(u).exp() * (p.log_prob(u) - q.log_prob(u))).sum()
    torch.testing.assert_close(torch.distributions.kl_divergence(p, q), expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, D])
def test_draws_and_densities_at_the_ends_are_finite(dtype) -> None:
    a = torch.tensor([1.0, 1.0, 1e7, 1e7, 3e6], dtype=dtype, requires_grad=True)
    b = torch.tensor([1.0, 1e7, 1.0, 1e7, 1.0], dtype=dtype, requires_grad=True)
    d = CubeBeta(a, b)
    u = d.rsample((200,))
    assert u.min() >= MARGIN * 0.99 and u.max() <= 1 - MARGIN * 0.9
    grads = torch.autograd.grad(u.sum() + d.log_prob(u).sum() + d.entropy().sum(), (a, b))
    assert all(g.isfinite().all() for g in grads)
    assert d.log_prob(torch.tensor([0.0, 0.0, 1.0, 0.5, 1.0], dtype=dtype)).isfinite().all()


# --- divergences ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", [False, True])
@pytest.mark.parametrize("embedding", ["circle", "S2", "torus", "SO3"])
def test_hidden_divergence_is_that_on_the_manifold(embedding, action) -> None:
    """Monte Carlo of the densities of the images, with respect to Riemannian volume: within 6 standard errors, false
    alarm 2e-9 each."""
    vae = make(embedding, group_action=action)
    torch.manual_seed(2)
    x = torch.randn(3, 6, dtype=D)
    hidden, isometry = vae._encode(x)
    images = torch.distributions.TransformedDistribution(
        hidden, [vae.embedding, *([isometry] if action else [])]
    )
    points = images.sample((20_000,))
    on_manifold = images.log_prob(points) + float(
        geometry(vae.embedding.manifold).log_volume(vae.point_shape)
    )
    posterior = vae.encode(x)
    kl = vae.divergence(posterior, vae.prior, posterior.sample((1,)))
    error = on_manifold.std(0) / math.sqrt(20_000)
    assert kl.shape == (3,) and (kl > 0).all() and ((on_manifold.mean(0) - kl).abs() < 6 * error).all()


def test_hidden_divergence_by_quadrature_on_the_circle() -> None:
    vae = make("circle", group_action=True)
    x = torch.randn(1, 6, dtype=D)
    with torch.no_grad():
        posterior = vae.encode(x)
        t = ((torch.arange(200_000, dtype=D) + 0.5) / 200_000).unsqueeze(-1)
        log_q = posterior.log_prob(t.unsqueeze(1)).squeeze(-1)
        assert float(log_q.exp().mean()) == pytest.approx(1, abs=1e-4)
        expected = (log_q.exp() * log_q).mean()
        kl = vae.divergence(posterior, vae.prior, posterior.sample((1,)))
    assert float(kl) == pytest.approx(float(expected), abs=2e-4)


def test_normal_hidden_variables() -> None:
    """Their divergence is in closed form too."""
    vae = make("chart")
    x = torch.randn(4, 6, dtype=D)
    posterior = vae.encode(x)
    z = posterior.sample((50_000,))
    expected = posterior.log_prob(z) - vae.prior.log_prob(z)
    kl = vae.divergence(posterior, vae.prior, z[:1])
    assert ((expected.mean(0) - kl).abs() < 6 * expected.std(0) / math.sqrt(50_000)).all()
    assert geometry(geoopt.Sphere()).contains(vae.to_manifold(z)).all()


# --- bounds ---------------------------------------------------------------------------------------------------------


class Rings(nn.Module):
    """Unit vectors to six numbers, fixed."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer(
            "matrix", torch.tensor([[1.0, 0.0, 2.0, -1.0, 0.5, 1.0], [0.0, 1.0, 0.3, 1.0, 2.0, -1.0]])
        )

    def forward(self, c: Tensor) -> Tensor:
        return (c @ self.matrix).sin()


def oracle(x: Tensor, scale: float) -> Tensor:
    """log p(x) by the trapezoid rule over the angle."""
    angle = torch.arange(4096, dtype=D) * (2 * math.pi / 4096)
    mean = Rings().to(D)(torch.stack([angle.cos(), angle.sin()], -1))
    return torch.distributions.Normal(mean, scale).log_prob(x.unsqueeze(1)).sum(-1).logsumexp(-1) - math.log(
        4096
    )


@pytest.mark.parametrize("action", [False, True])
def test_bounds_are_below_the_oracle_and_reach_it(action) -> None:
    """With the true decoder: ELBO below log p(x), IWAE near it, the evidence on it."""
    vae = make("circle", group_action=action)
    vae.decoder = Rings().to(D)
    torch.manual_seed(3)
    angle = 2 * math.pi * torch.rand(40, dtype=D)
    x = Rings().to(D)(torch.stack([angle.cos(), angle.sin()], -1)) + 0.3 * torch.randn(40, 6, dtype=D)
    truth = oracle(x, 0.3)
    with torch.no_grad():
        elbo = torch.stack([vae.elbo(x, 50) for _ in range(20)])
    assert (elbo.mean(0) < truth + 6 * elbo.std(0) / 20**0.5).all()
    torch.testing.assert_close(vae.log_evidence(x, 1 << 10), truth, rtol=0, atol=0.03)
    assert float((vae.iwae(x, 1000) - truth).mean()) == pytest.approx(0, abs=0.1)
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.02}), TraceMeanField_ELBO())
    for _ in range(50):
        svi.step(x)
    with torch.no_grad():
        after = vae.elbo(x, 100).mean()
    assert float(elbo.mean()) + 1 < float(after) < float(truth.mean())


def test_an_action_on_a_learned_embedding_gives_no_bound() -> None:
    """An embedding that sends the whole cube to one point, and an action that takes it to the row's own: the
    objective is log p(x | its point), above log p(x) for any prior that is not concentrated there."""
    vae = make("learned", group_action=True, encoder=nn.Identity(), hidden=6)
    vae.decoder = Rings().to(D)
    with torch.no_grad():
        for p in (*vae.embedding.decoder.parameters(), *vae.action.parameters(), *vae.posterior.parameters()):
            p.zero_()
        vae.embedding.decoder.last.bias.copy_(torch.tensor([1.0, 0.0]))  # every u goes to the angle 0
        vae.action.element.linear.weight[0, 0] = vae.action.element.linear.weight[1, 1] = (
            1.0  # turned to that of the first two numbers
        )
        vae.posterior.bias[1] = -40.0  # q is uniform: no divergence
    x = Rings().to(D)(torch.tensor([[0.6, 0.8], [-1.0, 0.0]], dtype=D))
    x = torch.cat([torch.tensor([[0.6, 0.8], [-1.0, 0.0]], dtype=D), x[:, 2:]], -1)
    best = torch.distributions.Normal(Rings().to(D)(x[:, :2]), 0.3).log_prob(x).sum(-1)
    assert not vae.is_bound and "no bound" in vae.bound
    torch.testing.assert_close(vae.elbo(x), best, rtol=0, atol=1e-5)
    assert (vae.elbo(x) > vae.log_evidence(x, 64) + 1).all()
    with pytest.raises(ValueError, match="iwae: of this model it would be no bound.*use log_evidence"):
        vae.iwae(x)


@pytest.mark.parametrize("embedding", EMBEDDINGS)
def test_elbo_of_the_class_is_that_of_pyro(embedding) -> None:
    """Means of the single-draw estimates agree within 6 standard errors."""
    vae = make(embedding, group_action=embedding in GROUPS)
    x = torch.randn(3, 6, dtype=D)
    with torch.no_grad():
        own = torch.stack([vae.elbo(x).sum() for _ in range(50)])
        mean = float(vae.elbo(x, 5000).sum())
        elbo = Trace_ELBO(num_particles=5000, vectorize_particles=True)
        theirs = -elbo.loss(vae.model, vae.guide, x)
    # Pyro's estimates also have the noise of log q - log p
    assert abs(mean - theirs) < 6 * (1.0 + float(own.std())) * math.sqrt(2 / 5000)


@pytest.mark.parametrize(
    "embedding, action, bound, words",
    [
        ("circle", True, True, "uniform on the manifold"),
        ("circle", False, True, "uniform on the manifold"),
        ("learned", False, True, "image of the uniform distribution of the cube.*looser"),
        ("learned", True, False, "no bound"),
        ("chart", False, True, "image of the standard normal"),
        ("chart", True, True, "image of the standard normal"),
    ],
)
def test_the_class_says_what_its_objective_is(embedding, action, bound, words) -> None:
    import re

    vae = make(embedding, group_action=action)
    assert vae.is_bound is bound and re.search(words, vae.bound)


# --- any encoder, any batch, any dtype ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, D])
@pytest.mark.parametrize("action", [False, True])
@pytest.mark.parametrize("embedding", ["circle", "S2", "torus", "SO3", "learned"])
def test_extreme_encoders_have_finite_gradients(embedding, action, dtype) -> None:
    for size in (0.0, 30.0, 1e4, 1e30):
        vae = make(embedding, dtype=dtype, group_action=action)
        with torch.no_grad():
            for p in vae.posterior.parameters():
                p.copy_(size * torch.randn_like(p).sign())
        loss = vae.elbo(torch.randn(20, 6, dtype=dtype)).sum()
        loss.backward()
        assert loss.isfinite()
        assert all(p.grad.isfinite().all() for p in vae.parameters() if p.grad is not None)


@pytest.mark.parametrize("embedding", EMBEDDINGS)
def test_empty_batches_copies_and_files(embedding, tmp_path) -> None:
    vae = make(embedding, group_action=embedding in GROUPS)
    empty = torch.zeros(0, 6, dtype=D)
    assert vae.elbo(empty).shape == vae.log_evidence(empty, 8).shape == (0,)
    assert vae.encode(empty).batch_shape == (0,) and vae.reconstruct(empty).shape == (0, 6)
    x = torch.randn(4, 6, dtype=D)
    vae.save(tmp_path / "vae.pt")
    other = make(embedding, group_action=embedding in GROUPS)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(1)
    other.load(tmp_path / "vae.pt")
    values = []
    for model in (vae, other, copy.deepcopy(vae), pickle.loads(pickle.dumps(vae))):
        torch.manual_seed(0)
        values.append(model.elbo(x))
    assert all(torch.equal(values[0], v) for v in values)
    with pytest.raises(ValueError, match="construct"):
        make(embedding, likelihood="bernoulli").load(tmp_path / "vae.pt")


def test_frozen_embeddings_stay_as_they_are() -> None:
    for frozen in (True, False):
        vae = make("learned")
        if frozen:
            vae.embedding.freeze()
        before = [p.clone() for p in vae.embedding.decoder.parameters()]
        svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
        svi.step(torch.randn(5, 6, dtype=D))
        same = all(torch.equal(p, q) for p, q in zip(before, vae.embedding.decoder.parameters(), strict=True))
        assert same is frozen


@pytest.mark.parametrize("embedding", ["circle", "learned"])
def test_draws(embedding) -> None:
    vae = make(embedding, group_action=True, likelihood="bernoulli")
    x = torch.ones(5, 6, dtype=D)
    for draws in (vae.sample(7), vae.sample(7, x), vae.model(size=7)):
        assert draws.shape == (7, 6) and set(draws.unique().tolist()) <= {0.0, 1.0}
    z = Predictive(vae.model, guide=vae.guide, num_samples=3)(x)["z"]
    assert z.shape == (3, 5, 1) and on(geoopt.Sphere()).check(vae.to_manifold(z)).all()


def test_images_and_networks_of_the_user() -> None:
    pyro.clear_param_store()
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 7), nn.Tanh())
    vae = EmbeddingVAE(
        CubeToSphere(2), (3, 4), hidden=7, encoder=net, decoder=nn.Linear(7, 12), likelihood="bernoulli"
    )
    x = torch.ones(5, 3, 4)
    assert vae.elbo(x).shape == vae.log_evidence(x, 16).shape == vae.iwae(x, 3).shape == (5,)
    assert vae.reconstruct(x).shape == vae.sample(5).shape == (5, 3, 4) and vae.embed(x).shape == (5, 3)
    SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO()).step(x)
    with pytest.raises(ValueError, match="decoder: for an input of shape"):
        EmbeddingVAE(CubeToSphere(2), (3, 4), hidden=7, decoder=nn.Linear(7, 11)).sample(2)


def test_an_embedding_that_is_injective_only() -> None:
    """From R^1 into R^3, whose image is no manifold with a geometry: bound, draws and evidence."""
    vae = EmbeddingVAE(Pad(1, 3), 4, hidden=5)
    with torch.no_grad():
        vae.posterior.bias[1] = 2.0  # wider than the prior, so that few draws have most of the weight
    x = torch.randn(6, 4)
    assert vae.family == "normal" and vae.is_bound and not vae.embedding.bijective
    gap = vae.log_evidence(x, 512) - vae.iwae(x, 2000)
    assert vae.embed(x).shape == (6, 3) and gap.abs().max() < 0.2
    with pytest.raises(ValueError, match="group_action: .*does not say which manifold"):
        EmbeddingVAE(Pad(1, 3), 4, group_action=True)


def test_sets_of_weights_side_by_side_and_chunks() -> None:
    vae = make("circle")
    x = torch.randn(3, 5, 6, dtype=D)
    whole = vae.log_evidence(x, 64)
    assert whole.shape == (3, 5)
    torch.testing.assert_close(vae.log_evidence(x, 64, chunk=30), whole)
    torch.testing.assert_close(vae.log_evidence(x[0, 0], 64), whole[0, 0])


# --- the head of the group ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "manifold, dim",
    [(geoopt.Sphere(), 1), (geoopt.Sphere(), 4), (SpecialOrthogonal(3), 3), (CubeToTorus(2).manifold, 2)],
)
def test_actions_are_isometries(manifold, dim) -> None:
    torch.manual_seed(0)
    head, geo = GroupActionHead(manifold, 7, dim).to(D), geometry(manifold)
    h = torch.randn(6, 7, dtype=D)
    g = head(h)
    shape = geo.point_shape(dim)
    p, q = (geo.uniform_sample((6,), shape, dtype=D) for _ in range(2))
    torch.testing.assert_close(geo.dist(g(p), g(q)), geo.dist(p, q), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(geo.dist(g.inv(g(p)), p), torch.zeros(6, dtype=D), rtol=0, atol=1e-6)
    assert (g.log_abs_det_jacobian(p, g(p)) == 0).all() and (geo.dist(g(p), p) > 1e-3).all()


@pytest.mark.parametrize(
    "call, match",
    [
        (
            lambda: EmbeddingVAE(torch.distributions.ExpTransform(), 6, dim=1),
            "embedding: got ExpTransform.*from the cube",
        ),
        (lambda: EmbeddingVAE(CubeToSphere(2), 6, dim=3), "dim: got 3, but the embedding has 2"),
        (lambda: EmbeddingVAE(torch.distributions.StickBreakingTransform(), 6), "dim: .*does not say"),
        (lambda: make(likelihood="poisson"), "likelihood: got 'poisson'"),
        (lambda: make(likelihood_scale=-1.0), "likelihood_scale: got -1.0"),
        (lambda: EmbeddingVAE(CubeToSphere(2), 0), "data_dim: got 0"),
        (lambda: make().encode(torch.zeros(3, 5, dtype=D)), r"x: got shape \(3, 5\).*size 6"),
        (lambda: make().elbo(torch.zeros(3, 6)), "x: got dtype torch.float32"),
        (lambda: GroupActionHead(geoopt.PoincareBall(), 3, 2), "manifold: got .*no group of isometries"),
        (
            lambda: make("learned", group_action=True).sample(3, torch.zeros(0, 6, dtype=D)),
            r"x: got shape \(0, 6\)",
        ),
    ],
)
def test_bad_input(call, match) -> None:
    with pytest.raises(ValueError, match=match):
        call()
