import copy
import math
import pickle

import geoopt
import pyro
import pytest
import torch
from pyro.infer import SVI, JitTrace_ELBO, Predictive, Trace_ELBO, TraceMeanField_ELBO

from pyro_manifold.geometry import geometry
from pyro_manifold.models import PoincareVAE

D = torch.float64


def ball(c: float = 0.8, learnable: bool = False) -> geoopt.PoincareBall:
    return geoopt.PoincareBall(torch.tensor(c, dtype=D), learnable=learnable)


def lorentz(c: float = 0.8) -> geoopt.Lorentz:
    return geoopt.Lorentz(torch.tensor(1 / c, dtype=D))


def product() -> geoopt.ProductManifold:
    return geoopt.ProductManifold((ball(), 2), (geoopt.Euclidean(1), 1))


def make(manifold: geoopt.Manifold, dim: int = 2, **kwargs) -> PoincareVAE:
    return PoincareVAE(manifold, dim, 6, **{"hidden": 8, "likelihood": "normal", **kwargs}).double()


def widen(vae: PoincareVAE, scale: float = 1.5) -> PoincareVAE:
    """A posterior near the origin and wider than the prior, so that importance weights are bounded."""
    with torch.no_grad():
        vae.encoder.scale[0].weight.mul_(0.1)
        vae.encoder.scale[0].bias.fill_(math.log(math.expm1(scale)))
        vae.encoder.loc.linear.weight.mul_(0.2)
        vae.encoder.loc.linear.bias.zero_()
    return vae


SETTINGS = [
    (lambda: geoopt.Euclidean(1), 2, {"decoder": "linear"}),
    (lambda: geoopt.Euclidean(1), 2, {"prior": "riemannian", "posterior": "riemannian"}),
    (ball, 2, {}),
    (ball, 2, {"isotropic": True, "decoder": "mobius"}),
    (ball, 2, {"prior": "riemannian", "posterior": "riemannian", "decoder": "wrapped"}),
    (ball, 3, {"prior": "riemannian", "posterior": "wrapped"}),
    (lorentz, 2, {"prior": "wrapped", "posterior": "riemannian"}),
    (product, 3, {"decoder": "wrapped"}),
]


# the likelihood is the decoder's affair: the default run takes one of them on most manifolds
@pytest.mark.parametrize(
    "likelihood, manifold, dim, kwargs",
    [
        *(("normal", *setting) for setting in SETTINGS),
        *(("bernoulli", *setting) for setting in SETTINGS[:3]),
        *(pytest.param("bernoulli", *setting, marks=pytest.mark.slow) for setting in SETTINGS[3:]),
    ],
)
def test_training_raises_the_bound(manifold, dim, kwargs, likelihood) -> None:
    x = (torch.randn(40, 1, dtype=D) * torch.linspace(-2, 2, 6, dtype=D) > 0).to(
        D
    )  # two kinds of rows: log 2 to gain
    vae = make(manifold(), dim, likelihood=likelihood, **kwargs)
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.03}), Trace_ELBO())
    before = vae.iwae(x, 200).mean()
    for _ in range(40):
        loss = svi.step(x)
    after = vae.iwae(x, 200).mean()
    assert math.isfinite(loss) and after > before + 0.2
    assert -loss / len(x) < after + 0.5  # the ELBO lies below, up to the noise of one draw


@pytest.mark.parametrize("manifold, dim, kwargs", SETTINGS)
def test_iwae_is_the_evidence_where_the_decoder_ignores_z(manifold, dim, kwargs) -> None:
    # Then p(x) = N(x; b, 1) whatever z is, if and only if prior and posterior are normalised in one measure.
    vae = widen(make(manifold(), dim, **kwargs))
    torch.nn.init.zeros_(vae.decoder.net[-1].weight)
    x = torch.randn(7, 6, dtype=D)
    exact = torch.distributions.Normal(vae.decoder.net[-1].bias, 1.0).log_prob(x).sum(-1)
    # weights p(z)/q(z) have a variance below 4 (measured): 6 sd of the mean of 2e4 are 6 * sqrt(4 / 2e4) =
    # 0.085
    assert torch.allclose(vae.iwae(x, 20_000), exact, atol=0.09)


@pytest.mark.parametrize("manifold", [lambda: geoopt.Euclidean(1), ball, lorentz])
@pytest.mark.parametrize("prior", ["wrapped", "riemannian"])
def test_iwae_agrees_with_quadrature(manifold, prior) -> None:
    vae = widen(make(manifold(), prior=prior, decoder="wrapped", prior_scale=0.9))
    with torch.no_grad():
        vae.decoder.net[-1].weight.mul_(4)  # a decoder that matters
    x = torch.randn(5, 6, dtype=D)
    geo, reach = geometry(vae.manifold), 9.0
    grid = torch.linspace(-reach, reach, 361, dtype=D)
    v = torch.cartesian_prod(grid, grid)
    z = geo.chart(v)
    volume = geo.log_det_exp(geo.origin(2, dtype=D).expand_as(z), v) + 2 * math.log(float(grid[1] - grid[0]))
    with torch.no_grad():
        prior_mass = vae.prior.log_prob(z) + volume
        exact = torch.stack([(prior_mass + vae.decode(z).log_prob(row)).logsumexp(0) for row in x])
    assert abs(float(prior_mass.logsumexp(0))) < 1e-4
    # relative variance of the weights p(x|z) p(z) / q(z) below 10 (measured): 6 sd of the log-mean are 6 *
    # sqrt(10 / 4e4)
    assert torch.allclose(vae.iwae(x, 40_000), exact, atol=0.095)


def test_iwae_counts_every_row_whatever_the_chunks_in_bounded_memory(monkeypatch) -> None:
    vae = make(ball())
    x = torch.randn(23, 6, dtype=D)
    seen = []
    decoder = vae.decoder.forward
    monkeypatch.setattr(vae.decoder, "forward", lambda z: seen.append(z[..., 0].numel() * 8) or decoder(z))
    whole = vae.iwae(x, 300)
    assert whole.shape == (23,) and max(seen) == 23 * 300 * 8  # one piece
    for chunk, k in ((1, 2), (100, 30), (20_000, 300)):
        seen.clear()
        parts = vae.iwae(x, k, chunk=chunk)
        assert max(seen) <= max(chunk, 8) and sum(seen) == 23 * k * 8
        assert (
            parts.shape == (23,) and (parts - whole).abs().max() < 6
        )  # no row left at log 0, none counted twice
    assert (
        abs(float(parts.mean() - whole.mean())) < 0.2
    )  # k = 300 both times; sd of the mean of 23 rows below 0.03
    seeded = []
    for _ in range(2):
        pyro.set_rng_seed(0)
        seeded.append(vae.iwae(x, 50, chunk=5000))
    assert torch.equal(*seeded)


def test_ball_and_hyperboloid_are_the_same_model() -> None:
    a = make(ball(), decoder="wrapped")
    b = make(lorentz(), decoder="wrapped", name="other")
    weights = {k: v for k, v in a.state_dict().items() if "manifold" not in k and k != "_extra_state"}
    b.load_state_dict({**b.state_dict(), **weights})
    x = torch.randn(9, 6, dtype=D)
    losses = []
    for vae in (a, b):
        pyro.set_rng_seed(1)
        losses.append(Trace_ELBO(num_particles=3).loss(vae.model, vae.guide, x))
    assert abs(losses[0] - losses[1]) < 1e-8 * abs(losses[0])


def test_minibatches_are_scaled_to_the_data_set() -> None:
    vae = make(ball())
    x = torch.randn(10, 6, dtype=D)
    pyro.set_rng_seed(0)
    plain = Trace_ELBO().loss(vae.model, vae.guide, x)
    pyro.set_rng_seed(0)
    scaled = Trace_ELBO().loss(vae.model, vae.guide, x, size=70)
    assert scaled == pytest.approx(7 * plain)


@pytest.mark.parametrize("elbo", [TraceMeanField_ELBO, JitTrace_ELBO])
def test_other_bounds(elbo) -> None:
    kwargs = {"ignore_jit_warnings": True} if elbo is JitTrace_ELBO else {}
    vae = make(ball())
    x = torch.randn(10, 6, dtype=D)
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.01}), elbo(**kwargs))
    losses = [svi.step(x) for _ in range(40)]
    assert sum(losses[-10:]) < sum(losses[:10])


def test_vectorised_particles_agree_with_the_bound() -> None:
    vae = make(ball())
    x = torch.randn(4, 6, dtype=D)
    many = Trace_ELBO(num_particles=2000, vectorize_particles=True).loss(vae.model, vae.guide, x)
    one = torch.tensor([Trace_ELBO().loss(vae.model, vae.guide, x) for _ in range(50)])
    assert abs(float(many - one.mean())) < 6 * float(one.std()) / math.sqrt(50)  # false alarm about 1e-7


def test_curvature_is_learned_when_learnable_and_only_then() -> None:
    for learnable in (True, False):
        pyro.clear_param_store()
        manifold = ball(0.5, learnable)
        vae = make(manifold)
        before = manifold.c.item()
        svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
        for _ in range(5):
            svi.step(torch.randn(20, 6, dtype=D))
        assert (manifold.c.item() != before) is learnable


def test_state_dict_restores_weights_curvature_and_prior(tmp_path) -> None:
    a, b = make(ball(0.8), prior_scale=1.7), make(ball(0.3), prior_scale=1.0)
    torch.save(a.state_dict(), tmp_path / "vae.pt")
    b.load_state_dict(torch.load(tmp_path / "vae.pt", weights_only=True))
    assert float(b.prior_scale) == float(a.prior_scale)
    like = torch.zeros((), dtype=D)
    assert torch.equal(geometry(b.manifold).curvature(like), geometry(a.manifold).curvature(like))
    x = torch.randn(5, 6, dtype=D)
    values = []
    for vae in (a, b, copy.deepcopy(a), pickle.loads(pickle.dumps(a))):
        pyro.set_rng_seed(0)
        values.append(vae.iwae(x, 20))
    assert all(torch.equal(values[0], v) for v in values)
    with pytest.raises(ValueError, match="saved from a model with .*'wrapped'.*construct it alike"):
        make(ball(), prior="riemannian").load_state_dict(a.state_dict())


def test_drawing_data() -> None:
    vae = make(ball(), likelihood="bernoulli")
    x = torch.ones(5, 6, dtype=D)
    for draws in (vae.sample(11), vae.sample(11, x), vae.model(size=11)):
        assert draws.shape == (11, 6) and set(draws.unique().tolist()) <= {0.0, 1.0}
    posterior = Predictive(vae.model, guide=vae.guide, num_samples=3)(x)
    assert posterior["z"].shape == (3, 5, 2) and geometry(vae.manifold).contains(posterior["z"]).all()
    assert vae.encode(x).batch_shape == (5,) and vae.decode(posterior["z"]).event_shape == (6,)


def test_stacked_data_need_only_a_plate_of_their_own() -> None:
    vae = make(ball())
    x = torch.randn(3, 5, 6, dtype=D)

    def model(x: torch.Tensor) -> torch.Tensor:
        with pyro.plate("stack", 3, dim=-2):
            return vae.model(x)

    trace = pyro.poutine.trace(model).get_trace(x)
    trace.compute_log_prob()
    assert trace.nodes["z"]["log_prob"].shape == (3, 5) and trace.nodes["x"]["log_prob"].shape == (3, 5)
    assert vae.iwae(x, 5, chunk=64).shape == (3, 5)


def test_copies_and_second_models_train_their_own_weights(tmp_path) -> None:
    """While Pyro's parameter store holds the first one's: a second model of the same name, a copy, a loaded
    one."""
    x = torch.randn(4, 6, dtype=D)

    def step(vae: PoincareVAE) -> None:
        SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO()).step(x)

    first = make(ball())
    step(first)
    torch.save(first, tmp_path / "vae.pt")
    loaded = torch.load(tmp_path / "vae.pt", weights_only=False)  # a whole model, of this test's own making
    models = [first, make(ball()), copy.deepcopy(first), copy.deepcopy(copy.deepcopy(first)), loaded]
    for _ in range(2):
        for vae in models:
            before = [[p.clone() for p in m.parameters()] for m in models]
            step(vae)
            for m, old in zip(models, before, strict=True):
                changed = any(not torch.equal(p, q) for p, q in zip(m.parameters(), old, strict=True))
                assert changed is (m is vae)
    prefixes = {name.split(".")[0] for name in pyro.get_param_store()}
    assert prefixes == {"poincare_vae", *(f"poincare_vae_{i}" for i in range(2, 6))}


def test_iwae_of_no_row_one_row_and_rows_of_rows() -> None:
    vae = make(ball())
    for shape in ((0,), (), (2, 0), (2, 3)):
        assert vae.iwae(torch.randn(*shape, 6, dtype=D), 3).shape == shape


@pytest.mark.parametrize(
    "call, match",
    [
        (lambda: make(geoopt.Sphere()), "manifold: got Sphere, which has no global chart"),
        (lambda: make(product(), 5, decoder="wrapped"), "dim: this product has dimension 3, got 5"),
        (lambda: make(ball(), 0), "dim: got 0"),
        (lambda: make(ball(), hidden=2.5), "hidden: got 2.5"),
        (lambda: make(ball(), prior="normal"), "prior: got 'normal'; expected 'wrapped' or 'riemannian'"),
        (lambda: make(ball(), posterior=None), "posterior: got None"),
        (lambda: make(ball(), likelihood="poisson"), "likelihood: got 'poisson'"),
        (lambda: make(ball(), prior_scale=-1.0), "prior_scale: got -1.0"),
        (lambda: make(ball(), likelihood_scale=math.nan), "likelihood_scale: got nan"),
        (lambda: make(ball(), decoder="deep"), "first: got 'deep'"),
        (lambda: make(ball()).encode(torch.zeros(3, 5, dtype=D)), r"x: got shape \(3, 5\).*size 6"),
        (lambda: make(ball()).model(torch.zeros(6, dtype=D)), r"x: got shape \(6,\).*unsqueeze"),
        (lambda: make(ball()).model(torch.zeros(3, 6)), "x: got dtype torch.float32.*float64"),
        (lambda: make(ball()).model(), "x: got neither data nor size"),
        (
            lambda: make(ball()).guide(torch.zeros(3, 6, dtype=D), size=2),
            "size: got 2, fewer than the 3 rows",
        ),
        (lambda: make(ball()).iwae(torch.zeros(3, 6, dtype=D), k=0), "k: got 0"),
        (lambda: make(ball()).sample(-1), "n: got -1"),
        (
            lambda: make(ball()).sample(2, torch.zeros(0, 6, dtype=D)),
            r"x: got shape \(0, 6\); expected \(rows, 6\)",
        ),
        (
            lambda: make(ball()).model(torch.zeros(0, 6, dtype=D)),
            r"x: got shape \(0, 6\); expected at least one row",
        ),
        (
            lambda: make(ball()).iwae(torch.zeros(3, 6, dtype=torch.long)),
            "x: got dtype torch.int64.*float64. Convert",
        ),
    ],
)
def test_bad_input(call, match) -> None:
    with pytest.raises(ValueError, match=match):
        call()
