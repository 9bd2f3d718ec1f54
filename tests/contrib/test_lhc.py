"""The simulator against closed forms, automatic differentiation, and its own exact posterior (mflow_lhc.md,
section 2)."""

import math
import pickle

import numpy as np
import pytest
import torch
from torch import Tensor

from pyro_manifold.contrib.lhc import (
    LHC,
    LHCEvents,
    closure,
    grid_posterior,
    importance_posterior,
    load_original,
)
from pyro_manifold.contrib.lhc import observables as ob
from pyro_manifold.contrib.lhc import phase_space as ps
from pyro_manifold.contrib.lhc.matrix_element import _determinant, amplitudes, current, dot, massless
from pyro_manifold.contrib.lhc.vegas import Boxes, Grid

POINTS = [(0.0, 0.0, 0.0), (0.5, 0.0, 0.0), (-1.0, -1.0, 0.5)]


@pytest.fixture(scope="module")
def lhc() -> LHC:
    return LHC(3, seed=0)


@pytest.fixture(scope="module")
def two() -> LHC:
    return LHC(2, seed=3)


@pytest.fixture(scope="module")
def events(lhc: LHC) -> LHCEvents:
    return lhc.pool(2000)


# Kinematics and the matrix element


def test_momentum_is_conserved_and_partons_are_massless(events: LHCEvents) -> None:
    total = sum(ps.four_vectors(events.y))
    p1, p2, x1, x2 = ps.partons(total)
    assert float(((p1 + p2 - total).abs().amax(0) / total[0]).max()) < 1e-14
    assert float((dot(p1, p1).abs() / total[0] ** 2).max()) < 1e-14
    assert bool(((x1 > 0) & (x1 < 1) & (x2 > 0) & (x2 < 1)).all())
    assert torch.allclose(x1 * x2 * ps.ROOT_S**2, dot(total, total), rtol=1e-10)


def test_masses_and_nuisances(events: LHCEvents) -> None:
    a1, a2, j1, j2 = ps.four_vectors(events.y)
    m = dot(a1 + a2, a1 + a2).sqrt()
    # 2000 events: sd of the mean 0.045, of the sd 0.032 GeV; 5 sd, false alarm 6e-7 each
    assert abs(float(m.mean()) - 125) < 0.23 and abs(float(m.std()) - 2) < 0.16
    mj = torch.stack([dot(j1, j1), dot(j2, j2)]).sqrt()
    assert abs(float(mj.mean()) - 12) < 5 * 6 / 4000**0.5  # Gamma(4, 3 GeV): mean 12, sd 6
    kt = (a1 + a2 + j1 + j2)[1:3]
    assert abs(float(kt.std()) / 25 - 1) < 5 / 8000**0.5


def test_current_against_closed_form(events: LHCEvents) -> None:
    a1, a2, j1, j2 = ps.four_vectors(events.y)
    p1, p2, _, _ = ps.partons(a1 + a2 + j1 + j2)
    k1, k2 = massless(j1), massless(j2)
    c1, c2 = current(k1, p1), current(k2, p2)
    ratio = dot(c1, c2).abs().square() / (16 * dot(k1, k2) * dot(p1, p2))
    assert float((ratio - 1).abs().max()) < 1e-12
    for c, q in ((c1, p1 - k1), (c2, p2 - k2)):  # conservation q.J = 0
        size = c.abs().square().sum(0).sqrt() * q.square().sum(0).sqrt()
        assert float((dot(c, q).abs() / size).max()) < 1e-12


def test_determinant_by_minors() -> None:
    a, b, c, d = torch.randn(4, 4, 50, dtype=torch.float64)
    want = torch.linalg.det(torch.stack([a, b, c, d]).permute(2, 0, 1))
    assert torch.allclose(_determinant(a, b, c, d), want, rtol=1e-10)


def test_amplitudes_are_lorentz_invariant_and_the_odd_one_is_odd(events: LHCEvents) -> None:
    a1, a2, j1, j2 = (p[:, :300] for p in ps.four_vectors(events.y))
    p1, p2, _, _ = ps.partons(a1 + a2 + j1 + j2)
    vectors = (p1, p2, massless(j1), massless(j2))

    def matrix(vs: tuple[Tensor, ...]) -> Tensor:
        m = amplitudes(*vs)
        return torch.einsum("ran,rbn->nab", m, m)

    a = matrix(vectors)
    scale = a.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None]
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
    rotation = rotation * torch.linalg.det(rotation)  # a proper rotation
    boost = torch.eye(4, dtype=torch.float64)
    boost[0, 0] = boost[3, 3] = math.cosh(0.7)
    boost[0, 3] = boost[3, 0] = math.sinh(0.7)
    turn = torch.block_diag(torch.ones(1, 1, dtype=torch.float64), rotation)
    moved = matrix(tuple(torch.einsum("ij,jn->in", boost @ turn, v) for v in vectors))
    assert float(((moved - a) / scale).abs().max()) < 1e-9
    mirrored = matrix(
        tuple(v * torch.tensor([1.0, 1.0, -1.0, 1.0], dtype=torch.float64)[:, None] for v in vectors)
    )
    sign = torch.tensor([1.0, 1.0, -1.0, 1.0], dtype=torch.float64)
    assert float(((mirrored - sign * sign[:, None] * a) / scale).abs().max()) < 1e-9
    assert (
        float((torch.linalg.eigvalsh(a / scale)[:, :2]).abs().max()) < 1e-12
    )  # positive semidefinite, rank 2
    swapped = matrix((vectors[1], vectors[0], vectors[3], vectors[2]))
    assert float(((swapped - a) / scale).abs().max()) < 1e-12


def test_density_is_that_of_the_generator() -> None:
    """b(y) times the 14 x 14 Jacobian determinant of the map that draws y is the integrand: no factor is
    free."""
    torch.manual_seed(0)
    n = 70
    hard = torch.stack(
        [
            torch.rand(n) * 3 + 3.2,
            torch.rand(n) * 3 + 3.2,
            torch.rand(n) * 4,
            -torch.rand(n) * 4,
            torch.rand(n) * 6,
            torch.rand(n) * 6,
            torch.rand(n) - 0.5,
            torch.rand(n) - 0.5,
            torch.rand(n) * 6,
        ]
    ).double()
    masses = torch.stack([torch.rand(n) * 10 + 5, torch.rand(n) * 10 + 5, torch.randn(n) * 2 + 125]).double()
    r = torch.cat([hard, masses, torch.randn(2, n).double() * 25]).T

    def y_of(r: Tensor) -> Tensor:
        a1, a2, j1, j2 = ps.final_state(r[:9], r[9:12], r[12:])
        return torch.cat([a1[1:], a2[1:], j1, j2])

    jacobian = torch.func.vmap(torch.func.jacfwd(y_of))(r)
    state = ps.final_state(r[:, :9].T, r[:, 9:12].T, r[:, 12:].T)
    inside = ps.inside_cuts(*state)
    assert int(inside.sum()) > 50
    log_nuisance = (
        torch.distributions.Gamma(r.new_tensor(4.0), r.new_tensor(1.0) / 3).log_prob(r[:, 9:11]).sum(-1)
        + torch.distributions.Normal(r.new_tensor(125.0), 2.0).log_prob(r[:, 11])
        + torch.distributions.Normal(r.new_tensor(0.0), 25.0).log_prob(r[:, 12:]).sum(-1)
    )
    want = ps.log_weight(r[:, :9].T, *state) + log_nuisance
    got = ps.log_base(*state) + torch.linalg.slogdet(jacobian).logabsdet
    assert float((got - want)[inside].abs().max()) < 1e-9


# Observables


def test_observables_and_their_inverse(lhc: LHC, events: LHCEvents) -> None:
    x = lhc.observables(events.y)
    assert (
        x.shape == (2000, 40)
        and len(ob.NAMES) == 40
        and ob.NAMES[29] == "m_aa"
        and ob.NAMES[39] == "deltaeta_jj"
    )
    assert torch.allclose(lhc.inverse(x), events.y, rtol=0, atol=1e-10)
    assert torch.allclose(lhc.observables(lhc.inverse(x)), x, rtol=0, atol=1e-9)
    assert float(closure(x).max()) < 1e-10 and closure(x).shape == (2000, 26)
    raw = ob.raw_observables(events.y)
    assert bool((raw[:, 4] >= raw[:, 10]).all()) and bool((raw[:, 16] >= raw[:, 22]).all())  # sorted by pT
    assert torch.equal(closure(raw, standardised=False), closure(ob.standardise(raw))) or torch.allclose(
        closure(raw, standardised=False), closure(x), atol=1e-10
    )


def test_closure_sees_each_of_its_26_constraints(lhc: LHC, events: LHCEvents) -> None:
    raw = ob.raw_observables(events.y[:200])
    hit = torch.zeros(26, dtype=torch.bool)
    for i in range(40):
        moved = raw.clone()
        moved[:, i] += 0.1
        violated = (closure(moved, standardised=False).mean(0) > 1e-7) & (
            closure(raw, standardised=False).mean(0) < 1e-7
        )
        assert bool(violated.any()), ob.NAMES[i]  # no observable is free of the constraints
        hit |= violated
    assert bool(hit.all())
    shuffled = torch.stack([raw[torch.randperm(200), i] for i in range(40)], -1)
    assert (
        0.3 < float(closure(shuffled, standardised=False).mean()) < 3
    )  # the published weights make this of order one


def test_the_image_has_dimension_14_and_its_volume_is_the_gram_determinant(events: LHCEvents) -> None:
    jacobian = ob.jacobian(events.y)
    s = torch.linalg.svdvals(jacobian)
    assert bool((s[:, -1] / s[:, 0] > 1e-5).all())
    assert torch.allclose(ob.log_volume(events.y), s.log().sum(-1), rtol=0, atol=1e-9)
    reverse = torch.func.vmap(torch.func.jacrev(ob.observables))(events.y[:20])
    assert torch.allclose(reverse, jacobian[:20], rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_standardisation_fits_the_prior_predictive(two: LHC) -> None:
    x = two.observables(two.simulate(two.prior(10_000)).y)
    assert float(x.mean(0).abs().max()) < 0.07 and float((x.std(0) - 1).abs().max()) < 0.12


# Densities, scores, ratios


@pytest.mark.parametrize("theta", POINTS)
def test_scores_have_mean_zero(lhc: LHC, theta: tuple[float, ...]) -> None:
    t = torch.tensor(theta)
    events = lhc.simulate(t, 4000)
    for s in (lhc.score(events.y, t), lhc.joint_score(events, t)):
        z = s.mean(0) / (s.std(0) / len(s) ** 0.5)
        assert float(z.abs().max()) < 4.5  # 18 of them in all: false alarm 1e-4


def test_scores_are_derivatives_and_agree(lhc: LHC, events: LHCEvents) -> None:
    theta = torch.tensor([0.3, -0.4, 0.2], dtype=torch.float64, requires_grad=True)
    x = lhc.observables(events.y[:100])
    (grad,) = torch.autograd.grad(lhc.log_prob(x, theta).sum(), theta)
    assert torch.allclose(grad, lhc.score(events.y[:100], theta.detach()).sum(0), rtol=1e-9)
    (grad,) = torch.autograd.grad(lhc.log_likelihood(theta, events.y[:100]), theta)
    assert torch.allclose(grad, lhc.score(events.y[:100], theta.detach()).sum(0), rtol=1e-9)
    # the joint score, averaged over the assignments of an event, is the score
    t, total = theta.detach(), 0.0
    for swapped in (False, True):
        same = LHCEvents(events.y, torch.full((len(events.y),), swapped))
        a = lhc.matrix(*same)
        share = torch.einsum("a,nab,b->n", lhc._powers(t), a, lhc._powers(t))
        total = total + share[:, None] * lhc.joint_score(same, t)
    full = torch.einsum("a,nab,b->n", lhc._powers(t), lhc.matrix(events.y), lhc._powers(t))
    assert torch.allclose(total / full[:, None], lhc.score(events.y, t), rtol=1e-8, atol=1e-9)


def test_log_prob_and_likelihood_agree(lhc: LHC, events: LHCEvents) -> None:
    x = lhc.observables(events.y[:50])
    theta = torch.randn(7, 3, dtype=torch.float64)
    want = torch.stack([(lhc.log_prob(x, t) - lhc.log_prob(x, torch.zeros(3))).sum() for t in theta])
    assert torch.allclose(lhc.log_likelihood(theta, events.y[:50]), want, rtol=1e-9)
    assert lhc.log_likelihood(theta.reshape(7, 1, 3), events.y[:50]).shape == (7, 1)
    assert torch.allclose(
        lhc.log_prob(x[:7], theta), torch.stack([lhc.log_prob(a, t) for a, t in zip(x, theta, strict=False)])
    )


def test_the_density_is_zero_off_the_surface_and_outside_the_cuts(lhc: LHC, events: LHCEvents) -> None:
    theta, y = torch.zeros(3), events.y[:20]
    x = lhc.observables(y)
    assert bool(lhc.log_prob(x, theta).isfinite().all())
    off = x.clone()
    off[:, 29] += 0.01
    assert bool((lhc.log_prob(off, theta) == -math.inf).all())
    exchanged = torch.cat([y[:, :6], y[:, 10:14], y[:, 6:10]], -1)  # the softer jet first
    assert bool((lhc.log_prob(lhc.observables(exchanged), theta) == -math.inf).all())
    soft = y.clone()
    soft[:, :3] *= 0.1
    soft[:, 3:6] *= 0.1
    assert bool((lhc.log_prob(lhc.observables(soft), theta, tolerance=1.0) == -math.inf).all())


def test_joint_ratio_has_mean_one(lhc: LHC) -> None:
    theta0, theta1 = torch.tensor([0.1, -0.1, 0.05]), torch.tensor([-0.1, 0.1, 0.0])
    events = lhc.simulate(theta1, 4000)
    r = lhc.joint_ratio(events, theta0, theta1)
    assert abs(float((r.mean() - 1) / (r.std() / len(r) ** 0.5))) < 4.5  # false alarm 7e-6
    assert torch.allclose(r, 1 / lhc.joint_ratio(events, theta1, theta0), rtol=1e-10)


def test_unweighting_bound_is_never_exceeded(lhc: LHC, events: LHCEvents) -> None:
    a = lhc.matrix(*events)
    tt = lhc._powers(3 * torch.randn(500, 3))
    ratio = torch.einsum("ta,nab,tb->tn", tt, a, tt) / a.diagonal(dim1=-2, dim2=-1).sum(-1)
    assert bool((ratio <= tt.square().sum(-1, keepdim=True) * (1 + 1e-12)).all())


def test_one_theta_and_many_give_the_same_distribution(lhc: LHC) -> None:
    theta = torch.tensor([-1.0, -1.0, 0.5])
    one, many = lhc.simulate(theta, 3000), lhc.simulate(theta.expand(3000, 3))
    a, b = (lhc.score(e.y, torch.zeros(3)).atan() for e in (one, many))
    z = (a.mean(0) - b.mean(0)) / ((a.var(0) + b.var(0)) / 3000) ** 0.5
    assert float(z.abs().max()) < 4.5  # 3 of them: false alarm 2e-5
    assert abs(float(one.swapped.double().mean()) - 0.5) < 5 * 0.5 / 3000**0.5


def test_cross_section_is_the_integral(lhc: LHC) -> None:
    s, error = lhc.source.integral(12)
    assert (
        float(((s - lhc.S) / error).abs().max()) < 5.5
    )  # 10 entries, t distribution with 11 degrees of freedom: false alarm 1e-3


# Posteriors


def test_grid_and_importance_agree_and_contract(two: LHC) -> None:
    truth = torch.tensor([0.5, 0.3])
    events = two.simulate(truth, 2000)
    like = two.likelihood(events.y)
    grid, draws = grid_posterior(like, 2, size=151, bound=1.5), importance_posterior(like, 2, num=50_000)
    assert float((grid.mean - draws.mean).abs().max()) < 0.01
    z = (grid.mean - truth) / grid.covariance.diagonal().sqrt()
    assert float(z.abs().max()) < 5 and float(grid.covariance.diagonal().max()) < 0.05**2
    assert abs(float(grid.kl(grid))) < 1e-12 and float(grid.optimal_c2st(grid)) == 0.5
    assert tuple(draws.sample(10).shape) == (10, 2)
    with pytest.raises(ValueError, match="other points"):
        grid.kl(draws)


def test_posterior_of_a_gaussian_is_exact() -> None:
    data = torch.tensor([0.8, -0.4], dtype=torch.float64)

    def like(theta: Tensor) -> Tensor:
        return -0.5 * ((theta - data) / 0.5).square().sum(-1)  # prior N(0, 1): mean 0.8 data, variance 0.2

    for p in (grid_posterior(like, 2, size=161), importance_posterior(like, 2)):
        assert torch.allclose(p.mean, 0.8 * data, atol=0.01)
        assert torch.allclose(p.covariance, 0.2 * torch.eye(2, dtype=torch.float64), atol=0.01)
        want = torch.distributions.Normal(0.8 * data, (0.2 + 0.15**2) ** 0.5).log_prob(torch.zeros(2)).sum()
        assert abs(float(p.log_kde(torch.zeros(2)) - want)) < 0.02
        assert torch.allclose(p.rank(0.8 * data), torch.full((2,), 0.5, dtype=torch.float64), atol=0.02)
        at = like(data) - 0.5 * data.square().sum() - math.log(2 * math.pi)
        inside = 1 - math.exp(-0.5 * float((0.2 * data).square().sum()) / 0.2)
        assert abs(float(p.credibility(at)) - inside) < 0.02
    assert float(grid_posterior(like, 2).kl(grid_posterior(lambda t: like(t - 0.01), 2))) < 0.01


# Plumbing


def test_seeds_are_honoured_and_private() -> None:
    before = torch.get_rng_state()
    a, c = (LHC(2, seed=s).simulate(torch.zeros(2), 5).y for s in (1, 2))
    again = pickle.loads(pickle.dumps(LHC(2, seed=1)))
    assert torch.equal(again.simulate(torch.zeros(2), 5).y, a) and not torch.equal(a, c)
    assert torch.equal(torch.get_rng_state(), before)


def test_grid_integrates() -> None:
    gen = torch.Generator().manual_seed(0)
    grid = Grid(3)

    def f(v: Tensor) -> Tensor:
        return (-50 * (v - 0.3).square()).exp().prod(0)

    grid.adapt(f, gen, 6, 5000)
    v, jacobian = grid(torch.rand(3, 20_000, generator=gen, dtype=torch.float64))
    w = f(v) * jacobian
    one = math.sqrt(math.pi / 50) * 0.5 * (math.erf(0.7 * 50**0.5) + math.erf(0.3 * 50**0.5))
    assert abs(float(w.mean()) / one**3 - 1) < 5 * float(w.std() / w.mean()) / 20_000**0.5
    assert float(w.std() / w.mean()) < 0.3  # nearly constant weights: the integrand is a product


def test_boxes_integrate_what_no_product_fits() -> None:
    """A ridge along a diagonal: unbiased for it and for another integrand, with weights of less variance."""
    gen = torch.Generator().manual_seed(0)
    boxes = Boxes([0, 2], 8)

    def ridge(u: Tensor) -> Tensor:
        return (-100 * (u[0] - u[2]).square()).exp()

    plain = torch.rand(3, 40_000, generator=gen, dtype=torch.float64)
    boxes.adapt(plain, ridge(plain))
    u, jacobian = boxes(torch.rand(4, 40_000, generator=gen, dtype=torch.float64))
    assert bool(((u >= 0) & (u < 1)).all()) and torch.equal((u * 8).long().unique(), torch.arange(8))
    exact = 0.1 * math.sqrt(math.pi) * math.erf(10) - 0.01 * (1 - math.exp(-100))
    for w, integral in ((ridge(u) * jacobian, exact), (u.sum(0) * jacobian, 1.5)):
        assert abs(float(w.mean()) - integral) < 5 * float(w.std()) / 200  # fails by chance 6e-7 of the time
    assert float((ridge(u) * jacobian).var()) < 0.25 * float(ridge(plain).var())


def test_progress_bar(lhc: LHC, capfd: pytest.CaptureFixture[str]) -> None:
    lhc.pool(10, progress=True)
    assert "10/10" in capfd.readouterr().err


def _write(folder, **arrays: np.ndarray) -> None:
    for name, a in arrays.items():
        np.save(folder / f"{name}.npy", a)


def test_loader_of_the_original_arrays(tmp_path, events: LHCEvents) -> None:
    raw = ob.raw_observables(events.y).numpy()
    theta, t = np.zeros((2000, 2)), np.ones((2000, 2))
    _write(tmp_path, x_train=raw, theta_train=theta, t_xz_train=t, x_test1=raw[:10], theta_test1=theta[:10])
    got = load_original(tmp_path)
    assert got.x.shape == (2000, 40) and got.t_xz is not None and got.t_xz.shape == (2000, 2)
    assert load_original(tmp_path, "test1").t_xz is None
    with pytest.raises(ValueError, match="x_test.npy is not there"):
        load_original(tmp_path, "test")
    (tmp_path / "x_test2.npy").write_text(
        "<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title>"
    )
    with pytest.raises(ValueError, match="is an HTML page"):
        load_original(tmp_path, "test2")
    _write(tmp_path, x_train=raw[:5])
    with pytest.raises(ValueError, match="rows of x, theta"):
        load_original(tmp_path)
    raw[3, 4] = math.nan
    _write(tmp_path, x_train=raw)
    with pytest.raises(ValueError, match="row 3"):
        load_original(tmp_path)
    _write(tmp_path, x_train=raw[:, :39])
    with pytest.raises(ValueError, match=r"expected \(n, 40\)"):
        load_original(tmp_path)
    with pytest.raises(ValueError, match="split: got 'valid'"):
        load_original(tmp_path, "valid")


@pytest.mark.parametrize(
    "call, match",
    [
        (lambda: LHC(4), "n_theta: got 4"),
        (lambda: LHC(2).simulate(torch.zeros(3), 5), r"theta: got shape \(3,\)"),
        (lambda: LHC(2).simulate(torch.zeros(4, 2), 5), "with n=5"),
        (lambda: LHC(2).simulate(torch.full((2,), math.nan), 5), "not finite"),
        (lambda: LHC(2).simulate(torch.zeros(2), 0), "n: got 0"),
        (lambda: LHC(2).observables(torch.zeros(5, 13)), "14 momenta"),
        (lambda: LHC(2).log_prob(torch.zeros(5, 39), torch.zeros(2)), "40 observables"),
        (lambda: LHC(2).log_prob(torch.full((5, 40), math.nan), torch.zeros(2)), "x: got nan"),
        (lambda: grid_posterior(lambda t: t[:, 0] * math.nan), "got NaN"),
    ],
)
def test_bad_input(call, match) -> None:
    with pytest.raises(ValueError, match=match):
        call()


@pytest.mark.parametrize("theta", [[1e200, 0.0], [[0.0, 0.0], [0.0, -1e160]]])
def test_drawing_is_bounded(two: LHC, theta: list, monkeypatch: pytest.MonkeyPatch) -> None:
    """Squares that overflow accept nothing: an error instead of a loop without end."""
    monkeypatch.setattr("pyro_manifold.contrib.lhc.simulator._PATIENCE", 2)
    with pytest.raises(ValueError, match="theta: got .*2 draws of the pool gave no event"):
        two.simulate(torch.tensor(theta, dtype=torch.float64))
    assert two.simulate(torch.tensor([1e60, 0.0], dtype=torch.float64), 3).y.shape == (3, 14)


def test_a_pool_that_gives_nothing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    lhc = LHC(2, seed=0)
    original = lhc.source.draw
    monkeypatch.setattr("pyro_manifold.contrib.lhc.simulator._PATIENCE", 2)
    monkeypatch.setattr(lhc.source, "draw", lambda: original().take(torch.arange(0)))
    with pytest.raises(ValueError, match="gave no event"):
        lhc.pool(5)
