import math

import numpy as np
import pytest
import torch
from torch import Tensor

from pyro_manifold.datasets import GaussianOnCircle, PolynomialSurface, image_manifold, lorenz
from pyro_manifold.evaluation import grid_mmd2, mmd2, ood_auc, roc_auc

F64 = torch.float64


# Circle


@pytest.mark.parametrize("noise", [0.0, 0.01, 0.1])
def test_circle_density_integrates_to_one_and_fits_the_sample(noise: float) -> None:
    distribution = GaussianOnCircle(noise)
    angle = (torch.arange(400, dtype=F64) + 0.5) / 400 * 2 * math.pi
    ring = torch.stack([angle.cos(), angle.sin()], -1)
    if noise == 0:
        total = distribution.log_prob(ring).exp().sum() * 2 * math.pi / 400
    else:
        r = torch.linspace(1 - 8 * noise, 1 + 8 * noise, 401, dtype=F64)
        r = r[:-1] + (r[1] - r[0]) / 2
        total = (
            (distribution.log_prob(r[:, None, None] * ring).exp() * r[:, None]).sum()
            * (r[1] - r[0])
            * 2
            * math.pi
            / 400
        )
    assert abs(float(total) - 1) < 1e-6
    x = distribution.sample(20_000, seed=1).double()
    z = torch.atan2(x[:, 1], x[:, 0])
    # circular mean resultant exp(-(pi/4)^2 / 2), at angle pi/2; sd of a mean below 0.005: 5 sd
    assert abs(float(z.sin().mean()) - math.exp(-((math.pi / 4) ** 2) / 2)) < 0.02
    assert abs(float(z.cos().mean())) < 0.025
    assert abs(float(x.norm(dim=-1).std()) - noise) < 0.01 * noise * 5 + 1e-6


# Polynomial surface


@pytest.fixture(scope="module")
def surface() -> PolynomialSurface:
    return PolynomialSurface()


def _published_height(z: np.ndarray) -> np.ndarray:
    """f written the other way: monomials by increasing degree, as in the reference's description."""
    from pyro_manifold.datasets.polynomial_surface import _COEFFICIENTS

    terms, k = np.zeros(len(z)), 0
    for degree in range(6):
        for j in range(degree + 1):
            terms += _COEFFICIENTS[k] * z[:, 0] ** (degree - j) * z[:, 1] ** j
            k += 1
    return np.exp(-0.1 * (z**2).sum(1)) * terms


def test_surface_constants_and_published_facts(surface: PolynomialSurface) -> None:
    from pyro_manifold.datasets.polynomial_surface import _ROTATION

    assert torch.allclose(surface.rotation, torch.tensor(_ROTATION, dtype=F64), atol=3e-9)
    assert torch.allclose(surface.rotation @ surface.rotation.T, torch.eye(3, dtype=F64), atol=1e-15)
    x = surface.sample(50_000, 0.0, seed=0)
    z, height = surface.chart(x)
    assert np.allclose(_published_height(z.numpy()), height.numpy(), atol=1e-12)
    area = (1 + surface._jet(z).gradient.square().sum(-1)).sqrt()
    print(f"height {float(height.min()):.2f} to {float(height.max()):.2f}; area factor mean "
          f"{float(area.mean()):.3f}, max {float(area.max()):.2f}, mean log {float(area.log().mean()):.3f}")  # fmt: skip
    # measured independently before: f in [-3.23, 3.12], mean 1.476, max 2.63, E log 0.364
    assert -3.3 < float(height.min()) < -3.0 and 2.9 < float(height.max()) < 3.2
    assert abs(float(area.mean()) - 1.476) < 0.02 and abs(float(area.log().mean()) - 0.364) < 0.01


def test_surface_derivatives(surface: PolynomialSurface) -> None:
    z = 2 * torch.randn(50, 2, dtype=F64)
    jet = surface._jet(z)

    def f(w: Tensor) -> Tensor:
        return surface._jet(w).value

    assert torch.allclose(torch.func.vmap(torch.func.jacrev(f))(z), jet.gradient, rtol=1e-10, atol=1e-12)
    assert torch.allclose(torch.func.vmap(torch.func.hessian(f))(z), jet.hessian, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("theta", [-1.0, 0.0, 1.0])
def test_surface_density_integrates_to_one(surface: PolynomialSurface, theta: float) -> None:
    axis = torch.linspace(-12, 12, 301, dtype=F64)
    z = torch.cartesian_prod(axis, axis)
    area = (1 + surface._jet(z).gradient.square().sum(-1)).sqrt()
    total = (surface.log_prob(surface.embed(z), theta).exp() * area).sum() * (axis[1] - axis[0]) ** 2
    assert abs(float(total) - 1) < 1e-5


def test_surface_area_factor_is_that_of_the_embedding(surface: PolynomialSurface) -> None:
    z = torch.randn(20, 2, dtype=F64)
    j = torch.func.vmap(torch.func.jacrev(surface.embed))(z)
    half_log_det = 0.5 * torch.logdet(j.mT @ j)
    planar = surface._log_planar(z, torch.tensor(0.6, dtype=F64))
    assert torch.allclose(surface.log_prob(surface.embed(z), 0.0), planar - half_log_det, rtol=1e-10)
    assert bool((surface.log_prob(surface.embed(z) + 0.01, 0.0) == -math.inf).all())


def test_orthogonal_distance(surface: PolynomialSurface) -> None:
    z = surface.chart(surface.sample(300, seed=2))[0]
    g = surface._jet(z).gradient
    normal = torch.cat([-g, torch.ones(300, 1, dtype=F64)], -1)
    normal = normal / normal.norm(dim=-1, keepdim=True) @ surface.rotation.T
    for d in (1e-6, 0.01, 0.1):  # below the radius of curvature the foot of the normal is the nearest point
        x = surface.embed(z) + d * normal
        assert torch.allclose(surface.distance(x), torch.full((300,), d, dtype=F64), rtol=1e-6, atol=1e-9)
        assert bool((surface.vertical_distance(x) >= surface.distance(x) - 1e-12).all())
    # brute force on a grid, for far points too
    x = surface.out_of_distribution(40, seed=3)
    axis = torch.linspace(-0.6, 0.6, 61, dtype=F64)
    patch = surface.embed(surface.chart(x)[0][:, None] + torch.cartesian_prod(axis, axis))
    brute = (patch - x[:, None]).norm(dim=-1).amin(-1)
    assert (
        bool((surface.distance(x) <= brute + 1e-12).all())
        and float((brute - surface.distance(x)).max()) < 0.02
    )


def test_surface_kl_and_posterior(surface: PolynomialSurface) -> None:
    def shifted(x: Tensor) -> Tensor:
        return surface.log_prob(x, 0.5)

    assert surface.kl(lambda x: surface.log_prob(x, 0.0))[0] == 0
    kl, error = surface.kl(shifted)
    assert kl > 5 * error
    theta, p = surface.posterior(
        lambda t: surface.log_likelihood(t, surface.sample(20_000, 0.3, seed=4)), size=201
    )
    mean = float(p @ theta)
    sd = float((p @ (theta - mean).square()).sqrt())
    assert abs(float(p.sum()) - 1) < 1e-12 and abs(mean - 0.3) < 5 * sd and sd < 0.05


def test_width_depends_on_theta(surface: PolynomialSurface) -> None:
    theta = torch.tensor([-1.0, 1.0], dtype=F64).repeat_interleave(5000)
    z = surface.chart(surface.sample(10_000, theta, seed=5))[0]
    near = ((z - z.new_tensor([-1.0, 1.0])).norm(dim=-1) < 0.5).double()
    assert float(near[:5000].mean()) > 1.5 * float(near[5000:].mean())


def test_published_metrics_on_the_truth(surface: PolynomialSurface) -> None:
    test, ood = surface.sample(1000, seed=6), surface.out_of_distribution(1000, seed=7)
    exact = ood_auc(surface.distance(test), surface.distance(ood))
    assert exact > 0.999  # test points lie on the surface: the best a score can do
    # truth against truth: two samples of one posterior of theta, 5000 draws as in the paper
    x = surface.sample(20, 0.0, seed=8)
    theta, p = surface.posterior(lambda t: surface.log_likelihood(t, x))
    a, b = (
        theta[torch.multinomial(p, 1000, True, generator=torch.Generator().manual_seed(s))] for s in (1, 2)
    )
    assert abs(mmd2(a, b)) < 0.005


# Metrics


def test_roc_auc_against_the_definition() -> None:
    a, b = torch.randint(0, 10, (40,)).double(), torch.randint(3, 13, (30,)).double()
    want = ((b[:, None] > a).double() + 0.5 * (b[:, None] == a).double()).mean()
    assert abs(roc_auc(a, b) - float(want)) < 1e-12
    assert abs(roc_auc(a, b) + roc_auc(b, a) - 1) < 1e-12
    assert ood_auc(b, a) == pytest.approx(max(float(want), 1 - float(want)))


def test_mmd2_against_the_definition_and_unbiased() -> None:
    x, y = torch.randn(7, 2, dtype=F64), torch.randn(5, 2, dtype=F64) + 1

    def k(a: Tensor, b: Tensor) -> Tensor:
        return (-0.5 * torch.cdist(a, b).square() / 0.7**2).exp()

    want = (k(x, x).sum() - 7) / 42 + (k(y, y).sum() - 5) / 20 - 2 * k(x, y).mean()
    assert mmd2(x, y, scale=0.7) == pytest.approx(float(want), abs=1e-12)
    null = torch.tensor([mmd2(torch.randn(50), torch.randn(50)) for _ in range(200)])
    assert abs(float(null.mean())) < 5 * float(null.std()) / 200**0.5
    big = torch.randn(3000, dtype=F64)
    assert mmd2(big, big[:1500] + 0.5) > 0.03  # in parts of 1024


def test_grid_mmd2_is_the_limit_of_mmd2() -> None:
    grid = torch.linspace(-1, 1, 101, dtype=F64)
    p, q = (
        torch.stack([-0.5 * ((grid - m) / 0.3).square(), -0.5 * ((grid + m) / 0.2).square()]).softmax(-1)
        for m in (0.1, 0.3)
    )
    exact = grid_mmd2(p, q, grid)
    assert exact.shape == (2,) and bool((grid_mmd2(p, p, grid) == 0).all())
    for i in (0, 1):
        x, y = (
            grid[torch.multinomial(r[i], 1500, True, generator=torch.Generator().manual_seed(1))]
            for r in (p, q)
        )
        assert mmd2(x, y) == pytest.approx(
            float(exact[i]), abs=0.03
        )  # a standard error is about 0.4 / 1500**0.5
        fixed = grid_mmd2(p[i], q[i], grid, scale=0.4)
        assert mmd2(x, y, scale=0.4) == pytest.approx(float(fixed), abs=0.03)


# Lorenz


def test_lorenz_step_against_scipy() -> None:
    scipy = pytest.importorskip("scipy.integrate")
    from pyro_manifold.datasets.lorenz import _field, _step

    x = torch.tensor([1.0, 1.1, 0.9], dtype=F64)
    want = scipy.solve_ivp(
        lambda t, s: _field(torch.as_tensor(s, dtype=F64)).numpy(),
        (0, 1),
        x.numpy(),
        method="DOP853",
        rtol=1e-11,
        atol=1e-11,
    ).y[:, -1]
    for _ in range(100):
        x = _step(x, 0.01)
    assert np.allclose(x.numpy(), want, atol=1e-4)


def test_lorenz_attractor_statistics() -> None:
    x = lorenz(20_000, trajectories=1000, warm_up=20.0, standardize=False, seed=0).double()
    # long-run values: symmetric in (x1, x2), sd 7.93, 8.96, 8.6; mean height 23.55; readings are correlated,
    # hence the slack
    assert float(x[:, :2].mean(0).abs().max()) < 0.5
    assert torch.allclose(x.std(0), torch.tensor([7.93, 9.02, 8.6], dtype=F64), rtol=0.03)
    assert abs(float(x[:, 2].mean()) - 23.55) < 0.4
    assert float(x[:, 2].min()) > 0 and float(x[:, 2].max()) < 50
    z = lorenz(500, trajectories=100, warm_up=20.0, seed=0)
    assert z.dtype == torch.get_default_dtype() and float(z.abs().max()) < 4


# Images


@pytest.mark.parametrize("n", [1, 2, 4, 7])
def test_image_manifold_has_dimension_n(n: int) -> None:
    images, u, render = image_manifold(n, size=32, num=30, seed=1)
    assert images.shape == (30, 1, 32, 32) and 0 <= float(images.min()) and float(images.max()) < 1.3
    j = torch.func.vmap(torch.func.jacfwd(lambda v: render(v).flatten()))(u.double())
    s = torch.linalg.svdvals(j)
    assert s.shape[-1] == n and float((s[:, -1] / s[:, 0]).min()) > 0.02  # an immersion, and well conditioned
    gap = torch.cdist(images.flatten(1).double(), images.flatten(1).double()) / (
        torch.cdist(u.double(), u.double()) + 1e-9
    )
    assert (
        float(gap[~torch.eye(30, dtype=torch.bool)].min()) > 0.05
    )  # injective: different factors, different images


def test_seeds_are_honoured_and_private() -> None:
    surface = PolynomialSurface()
    before = torch.get_rng_state()
    for draw in (
        lambda s: GaussianOnCircle().sample(5, seed=s), lambda s: surface.sample(5, 0.0, seed=s),
        lambda s: surface.prior(5, seed=s), lambda s: lorenz(5, trajectories=5, warm_up=0.1, seed=s),
        lambda s: image_manifold(2, 16, 3, s).images,
    ):  # fmt: skip
        assert torch.equal(draw(1), draw(1)) and not torch.equal(draw(1), draw(2))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "call, match",
    [
        (lambda: GaussianOnCircle(-0.1), "noise: got -0.1"),
        (lambda: PolynomialSurface().sample(5, 1.5), "theta: got a value outside"),
        (lambda: PolynomialSurface().posterior(lambda t: t * math.nan), "got NaN"),
        (lambda: lorenz(0), "n: got 0"),
        (lambda: lorenz(5, dt=0.1), "dt, spacing, warm_up: got 0.1"),
        (lambda: image_manifold(0), "n: got 0"),
        (lambda: image_manifold(20, size=32), "size: got 32 for 5 spots"),
        (lambda: roc_auc(torch.zeros(0), torch.zeros(3)), "negative: got shape"),
        (lambda: roc_auc(torch.zeros(2), torch.full((3,), math.nan)), "positive: got shape"),
        (lambda: mmd2(torch.zeros(5, 2), torch.zeros(5, 3)), "x, y: got shapes"),
        (lambda: mmd2(torch.randn(5), torch.zeros(5)), "scale: got 0"),
        (lambda: grid_mmd2(torch.ones(3), torch.ones(3), torch.zeros(4)), "p, truth, grid: got shapes"),
        (
            lambda: grid_mmd2(torch.eye(3)[0], torch.eye(3)[0], torch.arange(3.0)),
            "truth: its median distance is 0",
        ),
    ],
)
def test_bad_input(call, match) -> None:
    with pytest.raises(ValueError, match=match):
        call()
