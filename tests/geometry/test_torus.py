"""Torus: wrapping, optimisers, wrapped normals of any covariance against quadrature, theta duality, cost,
errors."""

import math

import geoopt
import pyro
import pytest
import torch
from torch.distributions import biject_to, transform_to

from pyro_manifold.constraints import on
from pyro_manifold.distributions import ManifoldUniform, WrappedNormal
from pyro_manifold.geometry import Torus, geometry
from pyro_manifold.ops.circular import log_wrapped_normal, wrap

F64, PI = torch.float64, math.pi
T = Torus()
FULL2 = torch.tensor([[1.0, 0.6], [0.6, 0.8]], dtype=F64)
LOC2 = torch.tensor([3.0, -2.0], dtype=F64)


def grid(dim, n):
    axis = (torch.arange(n, dtype=F64) + 0.5) * 2 * PI / n - PI
    return torch.cartesian_prod(*[axis] * dim).reshape(-1, dim), (2 * PI / n) ** dim


def test_wrap():
    x = torch.tensor([0.0, 1e-300, 3.0, PI, -PI, 4.0, -7.0, 100.0], dtype=F64)
    y = wrap(x)
    assert (y >= -PI).all() and (y < PI).all() and torch.equal(y[:3], x[:3])
    assert (torch.remainder(y - x + 0.5, 2 * PI) - 0.5).abs().max() < 1e-13
    assert torch.autograd.functional.jacobian(wrap, x).eq(torch.eye(8, dtype=F64)).all()


def test_angles_outside_the_fundamental_domain_are_points():
    geo, d = geometry(T), WrappedNormal(T, LOC2 + 2 * PI, covariance_matrix=FULL2)
    x = torch.tensor([5.0, -9.0], dtype=F64)
    assert geo.contains(x) and not geo.contains(x * math.nan) and not geo.contains(x * math.inf)
    assert torch.allclose(
        d.log_prob(x), WrappedNormal(T, LOC2, covariance_matrix=FULL2).log_prob(wrap(x)), atol=1e-13
    )
    assert geo.dist(x, x + 2 * PI) < 1e-14
    assert ((d.sample((100,)) >= -PI) & (d.sample((100,)) < PI)).all()


@pytest.mark.parametrize("sd", [0.3, 1.0, 2.0, 6.0])
@pytest.mark.parametrize("dim", [1, 2])
def test_mass_is_one(dim, sd):
    """Diagonal and full covariance; at sd 6 the full one goes by the dual sum."""
    x, cell = grid(dim, 256)
    loc = torch.linspace(3.0, -2.0, dim, dtype=F64)
    a = torch.tensor([[1.0, 0.0], [0.7, 0.6]], dtype=F64)[:dim, :dim]
    for spread in (
        {"scale": sd * torch.linspace(0.5, 1.0, dim, dtype=F64)},
        {"covariance_matrix": sd**2 * a @ a.T},
    ):
        mass = float(WrappedNormal(T, loc, **spread).log_prob(x).exp().sum() * cell)
        assert abs(mass - 1) < 1e-8, (spread, mass)


def test_mass_in_three_dimensions_with_full_covariance():
    x, cell = grid(3, 24)
    a = torch.tensor([[1.0, 0.0, 0.0], [0.7, 0.9, 0.0], [-0.4, 0.3, 0.8]], dtype=F64)
    for s in (0.7, 2.0):
        mass = float(
            WrappedNormal(T, torch.zeros(3, dtype=F64), scale_tril=s * a).log_prob(x).exp().sum() * cell
        )
        assert abs(mass - 1) < 1e-8


def test_both_sums_agree():
    """Around the crossover the direct sum and its dual are one function, in value and slope."""
    x = torch.linspace(-PI, PI, 101, dtype=F64)
    k = torch.arange(-40, 41, dtype=F64)[:, None]
    for sd in (0.05, 1.0, 1.7, 1.7000001, 3.0, 10.0):
        s = torch.tensor(sd, dtype=F64, requires_grad=True)
        exact = torch.logsumexp(-0.5 * ((x + 2 * PI * k) / s) ** 2, 0) - s.log() - 0.5 * math.log(2 * PI)
        ours = log_wrapped_normal(x, s)
        assert (ours - exact).abs().max() < 1e-13 * exact.abs().max().clamp_min(1)
        g, h = (torch.autograd.grad(f.sum(), s)[0] for f in (ours, exact))
        assert abs(float(g - h)) < 1e-11 * max(1, abs(float(h)))


def test_dual_and_lattice_agree_for_a_full_covariance():
    geo, x = geometry(T), grid(2, 9)[0]
    a = torch.tensor([[3.0, 0.0], [1.0, 2.5]], dtype=F64)
    base = WrappedNormal(T, LOC2, scale_tril=a).base_dist
    direct = super(type(geo), geo).log_wrapped(LOC2, x, base)
    dual = geo.log_wrapped(LOC2, x, base)
    assert (direct - dual).abs().max() < 1e-12


def test_independent_axes_cost_is_linear():
    """Sixty-four axes: a lattice of 3^64 terms, summed axis by axis."""
    loc = torch.zeros(64, dtype=F64)
    scale = torch.linspace(0.1, 3.0, 64, dtype=F64)
    d = WrappedNormal(T, loc, scale)
    x = d.sample((5,))
    one = sum(WrappedNormal(T, loc[:1], scale[i : i + 1]).log_prob(x[:, i : i + 1]) for i in range(64))
    assert torch.allclose(d.log_prob(x), one, rtol=1e-13)
    m = geoopt.ProductManifold((T, 1), (geoopt.Sphere(), 2), (T, 2))
    loc = torch.tensor([3.0, 0.6, 0.8, 0.0, 2.0], dtype=F64)
    p = WrappedNormal(m, loc, torch.full((4,), 1.5, dtype=F64))
    y = p.sample((4,))
    joint = WrappedNormal(m, loc, scale_tril=torch.diag(torch.full((4,), 1.5, dtype=F64)))
    assert torch.allclose(p.log_prob(y), joint.log_prob(y), atol=1e-12)


def test_too_wide_a_full_covariance_says_so():
    d = WrappedNormal(T, torch.zeros(64), scale_tril=1.5 * torch.eye(64))
    with pytest.raises(ValueError, match="covariance: .* windings.*diagonal scale"):
        d.log_prob(torch.full((64,), 2.0))


def test_mode_and_uniform_limit():
    d = WrappedNormal(T, LOC2, covariance_matrix=FULL2)
    assert torch.equal(d.mode, LOC2) and (d.log_prob(grid(2, 64)[0]) <= d.log_prob(d.mode)).all()
    wide, uniform = WrappedNormal(T, LOC2, 50.0), ManifoldUniform(T, (2,))
    assert torch.allclose(wide.log_prob(LOC2), uniform.log_prob(LOC2.float()).double(), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_gradients_are_finite_at_the_cut_and_the_centre(dtype):
    for x in (0.0, PI, -PI):
        eye = torch.eye(2)
        for spread in ({"scale": torch.full((2,), 0.3)}, {"scale_tril": 0.3 * eye}, {"scale_tril": 3 * eye}):
            value = torch.full((2,), x, dtype=dtype, requires_grad=True)
            d = WrappedNormal(T, torch.zeros(2, dtype=dtype), **{k: v.to(dtype) for k, v in spread.items()})
            d.log_prob(value).backward()
            assert value.grad.isfinite().all() and value.grad.abs().max() < 10 / 0.3


def test_manifold_parameter_and_riemannian_adam():
    """The minimum of the squared distance lies across the seam: the optimiser goes through it."""
    target = torch.tensor([-3.0, 3.0], dtype=F64)
    x = geoopt.ManifoldParameter(torch.tensor([3.0, -3.0], dtype=F64), manifold=T)
    opt = geoopt.optim.RiemannianAdam([x], lr=0.05)
    for _ in range(200):
        opt.zero_grad()
        T.dist(x, target).square().backward()
        opt.step()
    assert T.dist(x, target) < 1e-3 and (x.abs() <= PI).all()
    assert T.random(4, 3).shape == (4, 3) and T.origin(3).abs().max() == 0


def test_constraint():
    c = on(T)
    assert transform_to(c)(torch.tensor([4.0, 0.0]))[0] == pytest.approx(4 - 2 * PI)
    with pytest.raises(NotImplementedError, match="no global chart.*CircularReparam"):
        biject_to(c)
    p = pyro.param("angles", torch.tensor([4.0, 1.0]), constraint=c)
    p.sum().backward()
    assert p.detach().tolist() == pytest.approx([4 - 2 * PI, 1.0])
    assert pyro.param("angles").unconstrained().grad.tolist() == [1, 1]


@pytest.mark.parametrize(
    "manifold",
    [
        pytest.param(Torus(), marks=pytest.mark.slow),
        geoopt.ProductManifold((Torus(), 1), (geoopt.Euclidean(1), 1)),
    ],
)
def test_compiled_densities_are_right_or_nan_at_every_width(manifold: geoopt.Manifold) -> None:
    """Full covariances: a compiled program has a fixed number of terms; mapping over covariances does not
    limit them."""
    x = torch.tensor([[0.3, -2.0], [1.0, 2.0]], dtype=torch.float64)

    def log_prob(tril: torch.Tensor) -> torch.Tensor:
        loc = torch.tensor([0.1, 0.2], dtype=torch.float64)
        return WrappedNormal(manifold, loc, scale_tril=tril, validate_args=False).log_prob(x)

    tril = torch.tensor([[1.0, 0.0], [0.4, 0.8]], dtype=torch.float64)
    trils = torch.stack([s * tril for s in (0.1, 1.0, 2.0, 3.0, 9.0)] + [tril * torch.tensor([8.0, 0.1])])
    right = torch.stack([log_prob(t) for t in trils])
    torch.testing.assert_close(torch.func.vmap(log_prob)(trils), right, rtol=1e-12, atol=1e-12)
    with pyro.validation_enabled(False):  # the compiler switches torch's off
        compiled = torch.compile(log_prob, backend="aot_eager", fullgraph=True)
        out = torch.stack([compiled(t) for t in trils])
    known = out.isfinite()
    torch.testing.assert_close(out[known], right[known], rtol=1e-12, atol=1e-12)
    assert known[: 5 if isinstance(manifold, Torus) else 3].all() and out[~known].isnan().all()


def test_random_angles_are_uniform():
    """All in [-pi, pi), their resultant of the length that uniform ones have: E[n R^2] = 1, P(n R^2 > 14) = 1e-6."""
    torch.manual_seed(0)
    x = torch.as_tensor(Torus().random(4000, 1, dtype=torch.float64))
    assert x.abs().max() <= math.pi and x.abs().max() > 3
    assert 4000 * float(x.cos().mean() ** 2 + x.sin().mean() ** 2) < 14
