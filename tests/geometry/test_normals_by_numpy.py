"""The log density of a wrapped normal, computed by NumPy, against the same composed of torch's
operators."""

import math
import warnings

import geoopt
import pytest
import torch
from torch import Tensor

from pyro_manifold.distributions import WrappedNormal, wrapped_normal
from pyro_manifold.geometry import SpecialOrthogonal, Torus, geometry
from pyro_manifold.ops import numpy_operator
from pyro_manifold.ops.numpy_hyperbolic import ball_normal
from pyro_manifold.ops.numpy_joint import is_short_joint

F64 = torch.float64


def _log_euclidean() -> geoopt.Manifold:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # geoopt's own methods do not use this metric
        return geoopt.SymmetricPositiveDefinite(default_metric="LEM")


MANIFOLDS = {
    "ball": (geoopt.PoincareBall(c=0.7), 2),
    "stereographic": (geoopt.Stereographic(-1.3), 3),
    "hyperboloid": (geoopt.Lorentz(1.7), 3),
    "circle": (geoopt.Sphere(), 1),
    "sphere": (geoopt.Sphere(), 2),
    "sphere of four dimensions": (geoopt.Sphere(), 4),
    "scaled sphere": (geoopt.Scaled(geoopt.Sphere(), 1.7), 2),
    "SPD(1)": (geoopt.SymmetricPositiveDefinite(), 1),
    "SPD(3)": (geoopt.SymmetricPositiveDefinite(), 6),
    "log-Euclidean": (_log_euclidean(), 3),
    "SO(3)": (SpecialOrthogonal(3), 3),
    "torus": (Torus(), 2),
    "product": (geoopt.ProductManifold((geoopt.Sphere(), (3,)), (geoopt.PoincareBall(), (2,))), 4),
    "product of two that close": (geoopt.ProductManifold((geoopt.Sphere(), (3,)), (Torus(), (1,))), 3),
    "product of matrices": (
        geoopt.ProductManifold((SpecialOrthogonal(3), (3, 3)), (geoopt.SymmetricPositiveDefinite(), (2, 2))),
        6,
    ),
    "product of open ones": (
        geoopt.ProductManifold((geoopt.Lorentz(1.7), (3,)), (geoopt.Euclidean(1), (2,))),
        4,
    ),
}
BATCH = 5


def spreads(dim: int) -> dict[str, Tensor]:
    tril = torch.tril(0.2 * torch.randn(BATCH, dim, dim, dtype=F64), -1)
    return {
        "a number": torch.tensor(0.7, dtype=F64),
        "numbers of the batch": torch.linspace(0.3, 1.2, BATCH, dtype=F64).unsqueeze(-1),
        "vector": torch.linspace(0.4, 0.9, dim, dtype=F64),
        "factor": tril[0] + torch.diag(torch.linspace(0.5, 0.9, dim, dtype=F64)),
        "factors": tril + torch.diag(torch.linspace(0.5, 0.9, dim, dtype=F64)),
    }


def density(manifold: geoopt.Manifold, loc: Tensor, spread: Tensor, x: Tensor, full: bool) -> Tensor:
    if full:
        return WrappedNormal(manifold, loc, scale_tril=spread, validate_args=False).log_prob(x)
    return WrappedNormal(manifold, loc, spread, validate_args=False).log_prob(x)


@pytest.mark.filterwarnings("ignore:SPDMetric.LEM")
@pytest.mark.parametrize("block", [numpy_operator.BLOCK, 32])
@pytest.mark.parametrize("name", MANIFOLDS)
def test_values_and_gradients(name: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one block, and in blocks of few points. At moderate and at short distances, one of them 0, from one centre and from a batch of centres. Second derivatives, which
    are composed, are those of the composed function."""
    monkeypatch.setattr(numpy_operator, "BLOCK", block)
    manifold, dim = MANIFOLDS[name]
    geo = geometry(manifold)
    origin = geo.base_point(geo.point_shape(dim), dtype=F64)
    centres = geo.exp_frame(origin.expand(BATCH, *origin.shape), torch.randn(BATCH, dim, dtype=F64))
    for i, (form, spread) in enumerate(spreads(dim).items()):
        full = form.startswith("factor")
        loc = centres[0] if i % 2 else centres
        # composed, the poles of a product are where rounding puts them
        least = 1e-5 if full and name.startswith("product") else 0.0
        size = torch.tensor([least, 1e-5, 1e-2, 1.0, 1.0], dtype=F64).unsqueeze(-1)
        x = geo.exp_frame(loc.expand(BATCH, *origin.shape), size * torch.randn(BATCH, dim, dtype=F64))
        leaves = [t.clone().requires_grad_() for t in (loc, x, spread)]
        found = []
        for shortcut in (True, False):
            with monkeypatch.context() as patch:
                calls: list[int] = []
                patch.setattr(
                    wrapped_normal, "by_numpy", lambda *xs, on=shortcut, calls=calls: calls.append(1) or on
                )
                out = density(manifold, leaves[0], leaves[2], leaves[1], full)
                assert calls
                total = out @ torch.arange(1.0, BATCH + 1, dtype=F64)
                gs = list(torch.autograd.grad(total, leaves, retain_graph=True))
                for j in (0, 1):  # along the manifold: beyond it the two are continued differently
                    gs[j] = geo.project_tangent(leaves[j].detach(), gs[j])
                seconds = []
                if form == "vector":
                    (g,) = torch.autograd.grad(out[2:].sum(), leaves[1], create_graph=True)
                    seconds = torch.autograd.grad(g.square().sum(), leaves[1])
            found.append([out, *gs, *seconds])
        for a, b in zip(*found, strict=True):
            scale = 1 + float(b.detach().abs().max())
            torch.testing.assert_close(
                a / scale, b / scale, rtol=1e-9, atol=1e-9, msg=lambda m, form=form: f"{form}: {m}"
            )


def test_learned_curvature() -> None:
    for manifold, dim in (
        (geoopt.PoincareBall(c=torch.tensor(0.7, dtype=F64), learnable=True), 2),
        (geoopt.Lorentz(torch.tensor(1.3, dtype=F64), learnable=True), 2),
    ):
        geo = geometry(manifold)
        origin = geo.base_point(geo.point_shape(dim), dtype=F64).detach()
        x = geo.exp_frame(origin.expand(4, *origin.shape), torch.randn(4, dim, dtype=F64)).detach()
        c = next(manifold.parameters())
        out = density(manifold, origin, torch.tensor(0.6, dtype=F64), x, False).sum()
        (slope,) = torch.autograd.grad(out, c)
        step, start = 1e-6, float(c.detach())
        ends = []
        for value in (start + step, start - step):
            c.data.fill_(value)
            ends.append(
                float(density(manifold, origin, torch.tensor(0.6, dtype=F64), x, False).sum().detach())
            )
        c.data.fill_(start)
        assert float(slope) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-6)


def test_poles_of_the_sphere() -> None:
    """Finite at the antipode, at the antipode of the origin of frames, and next to them; the distance to the
    antipode keeps all its digits, where the angle itself has none left."""
    sphere = geoopt.Sphere()
    for first in (1.0, -1.0):
        p = torch.tensor([first, 0.0, 0.0], dtype=F64, requires_grad=True)
        x = torch.tensor(
            [[-first, 0, 0], [-first, 1e-12, 0], [-first, 1e-9, 0], [first, 0, 0]],
            dtype=F64,
            requires_grad=True,
        )
        out = density(sphere, p, torch.tensor([1.0, 0.5], dtype=F64), x, False)
        grads = torch.autograd.grad(out.sum(), (p, x))
        assert out.isfinite().all() and all(g.isfinite().all() for g in grads)
        assert float((out[1] - out[2]).detach()) == pytest.approx(math.log(1e3), abs=1e-8)


def test_wide_elements_are_composed_where_they_are_many() -> None:
    """Of many points the derivatives in all entries of a wide factor would not fit into memory."""
    factor = 0.1 * torch.eye(9, dtype=F64)
    x = (0.1 * torch.randn(1000, 9, dtype=F64)).requires_grad_()
    names = [
        ball_normal(
            torch.zeros(9, dtype=F64), part, factor, torch.tensor(-1.0, dtype=F64), True
        ).grad_fn.name()
        for part in (x, x[:50])
    ]
    assert names[1] == "NumpyOperatorBackward" != names[0]


def test_second_derivatives_where_one_argument_is_a_function_of_another() -> None:
    def f(loc: Tensor) -> Tensor:
        x, scale = torch.tensor([0.1, 0.5], dtype=F64), 0.5 + loc.square().sum(-1, keepdim=True)
        return density(geoopt.PoincareBall(), loc, scale, x, False)

    loc = torch.tensor([0.3, -0.2], dtype=F64, requires_grad=True)
    (g,) = torch.autograd.grad(f(loc), loc, create_graph=True)
    (found,) = torch.autograd.grad(g.square().sum(), loc)
    expected = torch.func.grad(lambda loc: torch.func.grad(f)(loc).square().sum())(loc.detach())
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("sd", [(0.05, 0.04), (0.7, 0.6), (1.9, 0.4), (2.5, 2.4)])
def test_joint_sums_on_tori_hold_all_that_counts(sd: tuple[float, float]) -> None:
    """Against a sum over a wide square, for strongly correlated angles too."""
    turn = torch.tensor([[0.8, -0.6], [0.6, 0.8]], dtype=F64)
    factor = torch.linalg.cholesky(turn @ torch.diag(torch.tensor(sd, dtype=F64).square()) @ turn.mT)
    assert is_short_joint(factor, 2, 0)
    x = math.pi * (2 * torch.rand(50, 2, dtype=F64) - 1)
    x[:2] = torch.tensor([[math.pi, -math.pi], [0.0, 0.0]], dtype=F64)
    normal = torch.distributions.MultivariateNormal(torch.zeros(2, dtype=F64), scale_tril=factor)
    k = 2 * math.pi * torch.cartesian_prod(*[torch.arange(-12.0, 13.0, dtype=F64)] * 2)
    expected = torch.logsumexp(normal.log_prob(x.unsqueeze(-2) + k), -1)
    found = density(Torus(), torch.zeros(2, dtype=F64), factor, x, True)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_what_numpy_takes() -> None:
    x = torch.randn(4, 3)
    assert numpy_operator.by_numpy(x, x[0])
    assert (
        not numpy_operator.by_numpy(x, x.double())
        and not numpy_operator.by_numpy(x.half())
        and not numpy_operator.by_numpy(x[:0])
    )
    assert not numpy_operator.by_numpy(x.to("meta"))
    seen = []
    torch.func.vmap(lambda row: seen.append(numpy_operator.by_numpy(row)) or row)(x)
    assert seen == [False]


def test_a_matrix_that_is_not_finite_is_nan_alone() -> None:
    p = torch.eye(2, dtype=F64).repeat(3, 1, 1)
    p[1, 0, 0] = torch.nan
    out = density(
        geoopt.SymmetricPositiveDefinite(),
        p,
        torch.tensor(1.0, dtype=F64),
        torch.eye(2, dtype=F64).expand(3, 2, 2) * 2,
        False,
    )
    assert out.isnan().tolist() == [False, True, False]
