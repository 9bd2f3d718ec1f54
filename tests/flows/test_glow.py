"""Flows of fields of points: densities have mass 1, inverses are exact in many dimensions, each scale gets its own
part of a context, and fields that do not fit are refused."""

import math
from typing import Any

import geoopt
import pyro.distributions as dist
import pytest
import torch
from cases.transforms import glow, learned
from torch import Tensor

from pyro_manifold import flows
from pyro_manifold.distributions import WrappedNormal
from pyro_manifold.flows.fields import squeezed
from pyro_manifold.flows.multi_scale_field import scale_shapes
from pyro_manifold.geometry import SpecialOrthogonal, geometry
from pyro_manifold.testing.quadrature import directions
from pyro_manifold.transforms import ExpChart, StereographicChart

F64 = torch.float64
SPD = geoopt.SymmetricPositiveDefinite
SPHERE = geoopt.Sphere()


def density(flow: Any) -> dist.TransformedDistribution:
    zero = torch.zeros(flow.latent_dim, dtype=flow.loc.dtype)
    return dist.TransformedDistribution(dist.Normal(zero, 1.0).to_event(1), [flow])


# --- charts
def test_the_chart_of_a_sphere_is_stereographic() -> None:
    """With half the coordinates, at the origin: value and volume."""
    s = 5 * torch.randn(50, 4, dtype=F64)
    chart, known = ExpChart(SPHERE), StereographicChart(4)
    torch.testing.assert_close(chart(s), known(s / 2))
    torch.testing.assert_close(chart.log_volume(s), known.log_volume(s / 2) - 4 * math.log(2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dim", [1, 2, 180])
def test_the_chart_far_out(dim: int, dtype: torch.dtype) -> None:
    """Vectors of length up to 1e3, a distance of .002 from the antipode, come back to 1e3 roundings; the antipode
    itself goes to a finite vector."""
    direction = torch.nn.functional.normalize(torch.randn(20, dim, dtype=dtype), dim=-1)
    s = torch.logspace(-6, 3, 20, dtype=dtype).unsqueeze(-1) * direction
    loc = geometry(SPHERE).project(torch.randn(dim + 1, dtype=dtype))
    chart = ExpChart(SPHERE, loc)
    back, eps = chart.inv(chart(s)), torch.finfo(dtype).eps
    assert bool(((back - s).norm(dim=-1) <= 30 * eps * (1 + s.norm(dim=-1).square())).all())
    far = chart.inv(-loc)
    assert bool(far.isfinite().all()) and float(far.norm()) > 0.01 / eps


def test_products_have_a_chart_and_tori_none() -> None:
    product = geoopt.ProductManifold((SPHERE, 3), (SPD(), (2, 2)), (SpecialOrthogonal(3), (3, 3)))
    s = torch.randn(5, 2 + 3 + 3, dtype=F64)
    x = ExpChart(product)(s)
    parts = [ExpChart(m)(t) for m, t in zip(product.manifolds, s.split([2, 3, 3], -1), strict=True)]
    torch.testing.assert_close(x, geometry(product).pack(parts))
    for manifold in (SpecialOrthogonal(4), geoopt.CanonicalStiefel()):
        with pytest.raises(ValueError, match="which no exponential map covers one to one"):
            ExpChart(manifold)


# --- densities
@pytest.mark.parametrize("kind", ["affine", "spline"])
def test_mass_on_a_sphere(kind: str) -> None:
    """Of a single pixel on S^2, by quadrature: the density is smooth but at the antipode of the base point, where it
    falls to 0 (splines have knots, at which its second derivative jumps)."""
    flow = glow(SPHERE, (1, 1, 1), [0.0, 0.6, 0.8], kind=kind, kernel=1).double()
    flow.loc.copy_(geometry(SPHERE).project(flow.loc))
    for layer in flow.modules():
        if isinstance(layer, flows.InChart):
            layer.loc.copy_(flow.loc)
    x, w = directions(3, 96)  # nodes on S^2
    p = density(flow).log_prob(x.reshape(-1, 1, 1, 1, 3)).detach().exp()
    assert abs(float((w * p).sum()) - 1) < (1e-6 if kind == "affine" else 2e-4)
    assert float(p.max()) / float(p.mean()) > 1.5  # it is no uniform density


def test_mass_on_positive_definite_matrices() -> None:
    """Of a field of two pixels, by importance sampling: the mean of p/q is 1 within 5 standard errors, each less than
    2 %."""
    flow = glow(SPD(), (1, 1, 2), [[1.0, 0.0], [0.0, 1.0]], depth=1).double()
    p = density(flow)
    with torch.no_grad():
        eye = torch.eye(2, dtype=F64)
        draws = p.sample((2000,))
        spread = 1.3 * geometry(SPD()).log_frame(eye.expand_as(draws), draws).std((0, 1, 2))
        q = WrappedNormal(SPD(), eye.expand(1, 1, 2, 2, 2), spread).to_event(3)
        x = q.sample((60_000,))
        ratio = (p.log_prob(x) - q.log_prob(x)).exp()
    error = float(ratio.std()) / len(x) ** 0.5
    assert error < 0.02
    assert abs(float(ratio.mean()) - 1) < 5 * error


def test_congruences_keep_volume_and_move_determinants() -> None:
    """Lebesgue measure of the entries of X changes by :math:`|det A|^{n+1}`, their Riemannian volume does not: what
    a coupling that adds to the matrix leaves out."""
    f = learned(flows.GroupAction(SPD(), 1, (2, 2))).double()
    x = geometry(SPD()).exp_frame(torch.eye(2, dtype=F64), torch.tensor([0.3, -0.2, 0.5], dtype=F64))
    i, j = torch.triu_indices(2, 2)

    def entries(v: Tensor) -> Tensor:
        m = torch.zeros(2, 2, dtype=F64)
        m[i, j] = v
        return f(torch.triu(m).add(torch.triu(m, 1).mT).reshape(1, 1, 1, 2, 2)).reshape(2, 2)[i, j]

    jacobian = torch.autograd.functional.jacobian(entries, x[i, j])
    y = f(x.reshape(1, 1, 1, 2, 2)).reshape(2, 2)
    lebesgue = torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(lebesgue, 3 * torch.linalg.slogdet(f.matrices()[0]).logabsdet)
    torch.testing.assert_close(lebesgue - 1.5 * (y.logdet() - x.logdet()), torch.zeros((), dtype=F64))
    assert float(f.log_volume(x.reshape(1, 1, 1, 2, 2))) == 0


# --- many dimensions, dtypes, batches
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-3), (torch.float64, 1e-10)])
def test_inverse_in_many_dimensions(dtype: torch.dtype, tolerance: float) -> None:
    """Fields of 4 x 4 pixels on S^180, two scales."""
    loc = [1.0] + 180 * [0.0]
    flow = glow(SPHERE, (1, 4, 4), loc, scales=2).to(dtype)
    z = 0.1 * torch.randn(2, flow.latent_dim, dtype=dtype)
    x, up = flow.forward_and_log_volume(z)
    back, down = flow.inverse_and_log_volume(x)
    assert float((back - z).detach().abs().max()) < tolerance
    torch.testing.assert_close(up, down, rtol=tolerance, atol=tolerance)


def test_an_empty_batch() -> None:
    flow = glow(SPHERE, (1, 2, 2), [0.0, 1.0, 0.0], scales=2)
    x = flow(torch.zeros(0, 8))
    assert x.shape == (0, 1, 2, 2, 3)
    z, log_volume = flow.inverse_and_log_volume(x)
    assert z.shape == (0, 8) and log_volume.shape == (0,)


def test_one_dimension() -> None:
    """A single coordinate has nothing to be coupled with: the first scale is actnorm and rotations."""
    scales = flows.glow_scales(SPHERE, (1, 2, 2), torch.tensor([1.0, 0.0]), scales=2)
    flow = flows.MultiScaleField(SPHERE, (1, 2, 2), scales, torch.tensor([1.0, 0.0]))
    assert not any(isinstance(m, flows.FieldCoupling) for m in scales[0].modules())
    assert any(isinstance(m, flows.FieldCoupling) for m in scales[1].modules())
    torch.testing.assert_close(flow.inv(flow(torch.ones(4))), torch.ones(4))


def test_initialised_to_data() -> None:
    """Latent coordinates of the batch have mean 0 and standard deviation 1 where no coupling follows the last
    actnorm, and are not correlated after a mixing of coordinates."""
    base = torch.tensor([0.3, -0.1, 0.2], dtype=F64)
    tril = torch.tensor([[0.3, 0.0, 0.0], [0.2, 0.1, 0.0], [-0.1, 0.1, 0.05]], dtype=F64)
    v = base + torch.randn(500, 1, 2, 2, 3, dtype=F64) @ tril.mT
    eye = torch.eye(2, dtype=F64)
    x = ExpChart(SPD(), eye)(v)
    flow = flows.MultiScaleField(SPD(), (1, 2, 2), flows.glow_scales(SPD(), (1, 2, 2), eye, depth=1), eye)
    flow.initialise(x)
    z = flow.inv(x).detach().reshape(-1, 3)
    torch.testing.assert_close(z.mean(0), torch.zeros(3, dtype=F64), atol=1e-8, rtol=0)
    torch.testing.assert_close(z.mT.cov(correction=0), torch.eye(3, dtype=F64), atol=1e-8, rtol=0)


def test_far_fields_of_matrices_in_single_precision() -> None:
    """Latent vectors of 8 standard deviations: the density is finite, and that of double precision to .1 %."""
    flow = glow(SPD(), (1, 2, 2), [[1.0, 0.0], [0.0, 1.0]])
    z = torch.zeros(20, flow.latent_dim)
    z[torch.arange(20), torch.randint(flow.latent_dim, (20,))] = 8.0
    with torch.no_grad():
        x = flow(z)
        single = density(flow).log_prob(x)
        double = density(flow.double()).log_prob(x.double())
    torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=1e-2)


# --- scales and contexts
def test_squeezed_pixels() -> None:
    """Channel 4 c + 2 a + b of pixel (i, j) is channel c of pixel (2 i + a, 2 j + b)."""
    x = torch.randn(3, 2, 4, 6, 5)
    y = squeezed(x, 1)
    for c, a, b, i, j in ((0, 0, 1, 1, 2), (1, 1, 0, 0, 1), (1, 1, 1, 1, 0)):
        assert torch.equal(y[:, 4 * c + 2 * a + b, i, j], x[:, c, 2 * i + a, 2 * j + b])
    assert flows.Squeeze().inv(y).equal(x)


def test_each_scale_reads_the_context_of_its_pixels() -> None:
    """With kernels of one pixel, the latent coordinates of a corner of the field depend on the context there alone."""
    flow = glow(SPHERE, (1, 4, 4), [0.0, 1.0, 0.0], scales=2, kernel=1)
    conditional = learned(flows.Conditional(flow, context_dim=2 * 16), 0.2)
    x = geometry(SPHERE).project(torch.randn(1, 4, 4, 3))
    c = torch.randn(2, 4, 4)
    changed = c.clone()
    changed[:, :2, :2] += 1.0
    z = [conditional.condition(v.flatten()).inv(x).reshape(4, 2, 2, 2) for v in (c, changed)]  # (C, H, W, d)
    differs = (z[0] - z[1]).abs().amax((0, 3)) > 1e-6
    assert differs.tolist() == [[True, False], [False, False]]


def test_a_batch_of_contexts() -> None:
    flow = glow(SPHERE, (1, 2, 2), [0.0, 1.0, 0.0], scales=2)
    conditional = learned(flows.Conditional(flow, context_dim=4), 0.2).double()
    c, z = torch.randn(3, 4, dtype=F64), torch.randn(8, dtype=F64)
    x = conditional.condition(c)(z)
    torch.testing.assert_close(x, torch.stack([conditional.condition(row)(z) for row in c]))
    torch.testing.assert_close(conditional.condition(c).inv(x), z.expand(3, 8))


def test_charts_of_steps_cancel() -> None:
    """Steps in one chart are the steps with a chart each, where the actions between these are the identity; one action
    is left, behind the last."""
    torch.manual_seed(0)
    loc = torch.tensor([0.0, 1.0, 0.0])
    (many,), (one,) = (
        flows.glow_scales(SPHERE, (2, 2, 2), loc, depth=3, one_chart=both) for both in (False, True)
    )
    charts, action = one.layers
    own = [layer for layer in many.layers if isinstance(layer, flows.InChart)]
    assert len(own) == 3 and isinstance(action, flows.GroupAction)
    learned(one, 0.2)
    for layer, step in zip(own, (charts.layers[0].layers[i : i + 3] for i in (0, 3, 6)), strict=True):
        for mine, other in zip(layer.layers[0].layers, step, strict=True):
            mine.load_state_dict(other.state_dict())
    many.layers[-1].load_state_dict(action.state_dict())
    x = geometry(SPHERE).project(torch.randn(4, 2, 2, 2, 3, dtype=F64))
    for a, b in zip(
        many.double().inverse_and_log_volume(x), one.double().inverse_and_log_volume(x), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


# --- errors
@pytest.mark.parametrize(
    "make, match",
    [
        (lambda: scale_shapes((1, 6, 4), 3), "multiples of 4, to be halved 2 times"),
        (lambda: flows.Squeeze()(torch.zeros(1, 3, 2, 1)), "height and width are even"),
        (lambda: flows.Squeeze().inv(torch.zeros(2, 3, 2, 1)), "channels are a multiple of 4"),
        (lambda: flows.ActNorm((1, 2, 2)), "four positive integers"),
        (lambda: flows.ActNorm((1, 2, 2, 3))(torch.zeros(1, 2, 2, 2)), "expected fields of shape"),
        (lambda: flows.ActNorm((1, 2, 2, 3)).initialise(torch.zeros(0, 1, 2, 2, 3)), "at least one field"),
        (lambda: flows.ChannelMixing((2, 1, 1, 1), matrix=torch.ones(2, 2)), "an orthogonal matrix"),
        (lambda: flows.GroupAction(geoopt.Lorentz(), 1, (3,)), "no group of matrices is known to act"),
        (lambda: flows.GroupAction(SPHERE, 2, (3,))(torch.zeros(1, 2, 2, 3)), "fields of 2 channels"),
        (lambda: flows.FieldCoupling((1, 1, 1, 2), [2]), "distinct indices"),
        (lambda: flows.FieldCoupling((1, 1, 1, 2), [0], kind="cubic"), "'affine' or 'spline'"),
        (
            lambda: flows.FieldCoupling((1, 1, 1, 2), [0, 1])(torch.zeros(1, 1, 1, 2)),
            "context: this FieldCoup",
        ),
        (lambda: flows.Conditional(flows.FieldCoupling((1, 2, 2, 2), [0]), 3), "a multiple of 4, the pixels"),
        (lambda: flows.FieldFlow([flows.LULinear(2)]), "number 0 is .*expected a bijection of fields"),
        (lambda: glow(SPHERE, (1, 2, 2), [0.0, 2.0]), "loc: got"),
        (
            lambda: glow(SPHERE, (1, 2, 2), [0.0, 1.0]).inv(torch.zeros(1, 2, 3, 2)),
            "expected fields of shape",
        ),
        (lambda: glow(SPHERE, (1, 2, 2), [0.0, 1.0])(torch.zeros(3)), "expected vectors of size 4"),
    ],
)
def test_errors(make: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()
