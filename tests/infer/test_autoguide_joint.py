"""AutoManifoldMultivariateNormal (densities, windings, correlations) and what the other guides must do with
every model."""

import pickle

import geoopt
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, JitTrace_ELBO, Predictive, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal, init_to_value

import pyro_manifold.distributions as mdist
from pyro_manifold.geometry import SpecialOrthogonal, Torus
from pyro_manifold.infer import AutoManifoldDelta, AutoManifoldMultivariateNormal, AutoManifoldNormal

F64 = torch.float64
SPHERE, BALL, SO3, R = geoopt.Sphere(), geoopt.PoincareBall(), SpecialOrthogonal(3), geoopt.Euclidean(ndim=1)


def t(*x):
    return torch.tensor(x, dtype=F64)


FAMILIES = {
    "sphere": mdist.ManifoldUniform(SPHERE, 3, dtype=F64),
    "rotation": mdist.ManifoldUniform(SO3, (3, 3), dtype=F64),
    "torus": mdist.ManifoldUniform(Torus(), 2, dtype=F64),
    "ball": mdist.WrappedNormal(BALL, t(0.0, 0.0), 1.0),
}


def model_of(**distributions):
    def model():
        return {name: pyro.sample(name, distribution) for name, distribution in distributions.items()}

    return model


def set_covariance(guide, tril):
    guide.scale = tril.diagonal().clone()
    guide.scale_tril = tril / tril.diagonal().unsqueeze(-1)


def log_q(guide):
    """A draw of the guide and its log density, sites and latent together."""
    trace = poutine.trace(guide).get_trace()
    return {k: n["value"] for k, n in trace.nodes.items() if n["type"] == "sample"}, trace.log_prob_sum()


def random_tril(n, scale):
    a = torch.randn(n, n, dtype=F64) * 0.4
    return scale * (a.tril(-1) + torch.diag(torch.rand(n, dtype=F64) + 0.5))


@pytest.mark.parametrize("name", FAMILIES)
def test_one_site_is_a_wrapped_normal(name):
    """Windings included: the density is that of WrappedNormal at any width."""
    distribution = FAMILIES[name]
    guide = AutoManifoldMultivariateNormal(
        model_of(z=distribution), init_loc_fn=init_to_value(values={"z": distribution.sample()})
    )
    guide()
    for scale in (0.1, 1.5):
        tril = random_tril(guide.scale.numel(), scale)
        set_covariance(guide, tril)
        expected = mdist.WrappedNormal(distribution.manifold, guide.locs.z.detach(), scale_tril=tril)
        for _ in range(3):
            draw, log_density = log_q(guide)
            assert torch.allclose(log_density, expected.log_prob(draw["z"]), atol=1e-6)


def test_independent_sites_are_a_product_and_ordinary_sites_are_pyros():
    guide = AutoManifoldMultivariateNormal(model_of(s=dist.LogNormal(t(0.0).squeeze(), 1.0), **FAMILIES))
    guide()
    tril = torch.block_diag(*(random_tril(n, 0.9) for n in (1, 2, 3, 2, 2)))
    set_covariance(guide, tril)
    draw, log_density = log_q(guide)
    blocks = {"sphere": slice(1, 3), "rotation": slice(3, 6), "torus": slice(6, 8), "ball": slice(8, 10)}
    expected = dist.LogNormal(t(0.0).squeeze(), tril[0, 0]).log_prob(
        draw["s"]
    )  # centred at init_to_feasible's exp(0)
    for name, distribution in FAMILIES.items():
        where = blocks[name]
        q = mdist.WrappedNormal(
            distribution.manifold, getattr(guide.locs, name).detach(), scale_tril=tril[where, where]
        )
        expected = expected + q.log_prob(draw[name])
    assert torch.allclose(log_density, expected, atol=1e-6)


def test_wide_correlated_windings_leave_a_lower_bound():
    """Two uniform angles, evidence 1: the ELBO may not exceed 0, as it would by 1.2 if the windings were left
    out.

    False-alarm rate 3e-5: four standard errors.
    """
    circle = mdist.ManifoldUniform(Torus(), 1, dtype=F64)
    guide = AutoManifoldMultivariateNormal(model_of(a=circle, b=circle))
    guide()
    set_covariance(guide, t([3.0, 0.0], [1.5, 2.6]))
    n = 2000
    with torch.no_grad():
        trace = poutine.trace(pyro.plate("particles", n, dim=-1)(guide)).get_trace()
        trace.compute_log_prob()
    q = sum(
        node["log_prob"]
        for node in trace.nodes.values()
        if node["type"] == "sample" and node["name"] != "particles"
    )
    terms = -2 * torch.log(t(2 * torch.pi)) - q
    assert q.shape == (n,)
    assert -0.3 < terms.mean() < 4 * terms.std() / n**0.5


def test_correlated_gaussian_posterior():
    """Flat space, where the posterior is known: covariance to 15% of its scale after 250 steps, as for Pyro's
    guide."""
    zero = t(0.0).squeeze()

    def model():
        z = pyro.sample("z", mdist.WrappedNormal(R, t(0.0, 0.0), 1.0))
        y = pyro.sample("y", dist.Normal(zero, 1.0))
        pyro.sample("x", dist.Normal(z[..., 0] + y, 0.5), obs=zero + 1)

    a = t([1.0, 0.0, 1.0])
    exact = torch.linalg.inv(torch.eye(3, dtype=F64) + a.mT @ a / 0.25)
    guide = AutoManifoldMultivariateNormal(model, init_scale=0.5)
    svi = SVI(
        model, guide, pyro.optim.Adam({"lr": 0.03}), Trace_ELBO(num_particles=16, vectorize_particles=True)
    )
    for _ in range(250):
        svi.step()
    assert (guide.get_posterior().covariance_matrix - exact).abs().max() < 0.15
    assert guide.get_posterior().covariance_matrix[0, 2] < -0.3
    assert torch.allclose(guide.median()["z"], (exact @ a[0] * 4)[:2], atol=0.15)


def hierarchy(data):
    """Matrix-valued, vector-valued and ordinary sites, with and without plates, and a site that is an event
    of two points."""
    s = pyro.sample("s", dist.LogNormal(t(-1.0).squeeze(), 0.3))
    pyro.sample("r", mdist.ManifoldUniform(SO3, (3, 3), dtype=F64))
    pyro.sample("pair", mdist.ManifoldUniform(SPHERE, 3, (2,), dtype=F64).to_event(1))
    pyro.sample("w", dist.Dirichlet(torch.ones(3, dtype=F64)))
    with pyro.plate("n", len(data)):
        z = pyro.sample("z", mdist.ManifoldUniform(SPHERE, 3, dtype=F64))
        pyro.sample("x", dist.Normal(z, s[..., None]).to_event(1), obs=data)


DATA = torch.nn.functional.normalize(
    t([0.1, -0.9, 0.2], [0.0, -1.0, 0.4], [-0.5, -0.8, 0.3], [1, 0, 0]), dim=-1
)
SHAPES = {"s": (), "r": (3, 3), "pair": (2, 3), "w": (3,), "z": (4, 3)}


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize(
    "elbo", [Trace_ELBO, TraceMeanField_ELBO, pytest.param(JitTrace_ELBO, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("kind", [AutoManifoldNormal, AutoManifoldMultivariateNormal, AutoManifoldDelta])
def test_every_guide_takes_every_site(kind, elbo, tmp_path):
    if elbo is TraceMeanField_ELBO and kind is AutoManifoldMultivariateNormal:
        elbo = Trace_ELBO  # Pyro's own joint guides are not mean field either
    guide = kind(hierarchy)
    loss = elbo(num_particles=2, vectorize_particles=kind is not AutoManifoldDelta)
    svi = SVI(hierarchy, guide, pyro.optim.Adam({"lr": 0.02}), loss)
    losses = [svi.step(DATA) for _ in range(3)]
    assert torch.tensor(losses).isfinite().all()
    draw = guide(DATA)
    assert {k: tuple(v.shape) for k, v in draw.items()} == SHAPES
    assert {k: tuple(v.shape) for k, v in guide.median(DATA).items()} == SHAPES
    other = kind(hierarchy)
    other(DATA)
    other.load_state_dict(guide.state_dict())
    copied = pickle.loads(pickle.dumps(guide))
    for g in (other, copied):
        assert all(torch.equal(v, guide.median(DATA)[k]) for k, v in g.median(DATA).items())
    x = Predictive(hierarchy, guide=guide, num_samples=3)(DATA)["z"]
    assert x.shape == (3, 4, 3) and torch.allclose(x.norm(dim=-1), torch.ones(3, 4, dtype=F64))


def test_median_and_quantiles_agree_with_pyros_joint_guide():
    model = model_of(
        a=dist.LogNormal(t(0.0).squeeze(), 1.0), b=dist.Normal(torch.zeros(2, dtype=F64), 1.0).to_event(1)
    )
    ours, pyros = AutoManifoldMultivariateNormal(model), AutoMultivariateNormal(model)
    ours(), pyros()
    tril = random_tril(3, 0.5)
    for guide in (ours, pyros):
        set_covariance(guide, tril)
    with torch.no_grad():
        pyros.loc.copy_(t(0.1, 0.2, 0.3))
    ours.locs.a, ours.locs.b = t(0.1).squeeze(), t(0.2, 0.3)
    for name in ("a", "b"):
        assert torch.allclose(ours.median()[name], pyros.median()[name])
        assert torch.allclose(ours.quantiles([0.1, 0.9])[name], pyros.quantiles([0.1, 0.9])[name])


def test_family_per_site():
    guide = AutoManifoldNormal(
        model_of(**FAMILIES), family={"sphere": "von_mises_fisher", "ball": "riemannian"}
    )
    guide()
    kinds = {name: type(guide.distribution(name)) for name in FAMILIES}
    assert kinds == {
        "sphere": mdist.VonMisesFisher, "rotation": mdist.WrappedNormal,
        "torus": mdist.WrappedNormal, "ball": mdist.RiemannianNormal,
    }  # fmt: skip
    assert {n: getattr(guide.scales, n).shape[-1] for n in FAMILIES} == {
        "sphere": 1,
        "ball": 1,
        "rotation": 3,
        "torus": 2,
    }


def test_errors():
    angle = model_of(a=dist.VonMises(0.0, 1.0))
    for kind in (AutoManifoldNormal, AutoManifoldMultivariateNormal):
        with pytest.raises(ValueError, match="a: got a distribution of angles .*CircularReparam"):
            kind(angle)()

    def subsampled():
        with pyro.plate("n", 10, subsample_size=2):
            pyro.sample("z", FAMILIES["sphere"])

    with pytest.raises(ValueError, match="z: is in the subsampled plate 'n'.*AutoManifoldNormal"):
        AutoManifoldMultivariateNormal(subsampled)()
    with pytest.raises(ValueError, match="init_scale: got 0"):
        AutoManifoldMultivariateNormal(angle, init_scale=0)
    with pytest.raises(ValueError, match="model: has no latent sites"):
        AutoManifoldMultivariateNormal(lambda: None)()
