"""Kent, Bingham and matrix Fisher distributions from concentration 0 to the end of the dtype: against the
normal limit, the second-order limit at 0, von Mises-Fisher, and float32 against float64."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

import pyro_manifold.distributions as mdist
from pyro_manifold.geometry import SpecialOrthogonal, geometry
from pyro_manifold.testing import check_precision

F64 = torch.float64
SIZES = (0.0, 1e-30, 1e-8, 1.0, 83767.77, 2e7, 1e13, 1e15, 1e30, 1e37)  # float32 holds them all


def tensor(*x: float) -> Tensor:
    return torch.tensor(x, dtype=F64)


def rotation(d: int) -> Tensor:
    q = torch.linalg.qr(torch.randn(d, d, dtype=F64)).Q
    return q * torch.linalg.det(q).sign()


def normal(precision: Tensor) -> MultivariateNormal:
    return MultivariateNormal(torch.zeros_like(precision), torch.diag_embed(1 / precision))


def axes_for(d: int, size: float) -> Tensor:
    """Any axes, or beyond 1e13, where the rounding of their entries would count, those of the coordinates."""
    return rotation(d) if size < 1e14 else torch.eye(d, dtype=F64)


KENT = {3: tensor(0.3, -0.3), 5: tensor(0.4, 0.1, -0.2, -0.3)}  # betas over kappa


@pytest.mark.parametrize("d", KENT)
@pytest.mark.parametrize("kappa", [1e9, 1e13, 1e15, 1e30, 1e150, 1e300])
def test_kent_is_normal_in_the_limit(d: int, kappa: float) -> None:
    """With precisions kappa - 2 beta_j; the correction is of order 1/kappa. Entropy was off by .0015 at 1e13,
    by .2 at 1e15."""
    frame, k = axes_for(d, kappa), torch.tensor(kappa, dtype=F64, requires_grad=True)
    distribution, other = (mdist.Kent(frame, f * k, axis_ovalness=f * k * KENT[d]) for f in (1.0, 3.0))
    limit, far = (normal(f * kappa * (1 - 2 * KENT[d])) for f in (1.0, 3.0))
    torch.testing.assert_close(distribution.entropy().detach(), limit.entropy(), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(
        kl_divergence(distribution, other).detach(), kl_divergence(limit, far), rtol=1e-7, atol=0
    )
    torch.testing.assert_close(
        kl_divergence(other, distribution).detach(), kl_divergence(far, limit), rtol=1e-7, atol=0
    )
    at_mode = limit.log_prob(torch.zeros(d - 1, dtype=F64))
    torch.testing.assert_close(distribution.log_prob(frame[:, 0]).detach(), at_mode, rtol=1e-8, atol=0)
    assert float(kl_divergence(distribution, distribution).detach().abs()) < 1e-13
    (slope,) = torch.autograd.grad(distribution.entropy(), k)
    torch.testing.assert_close(slope * kappa, tensor(-(d - 1) / 2)[0], rtol=1e-6, atol=0)
    x = distribution.sample((4000,))
    y = (x - frame[:, 0]) @ frame[:, 1:] * math.sqrt(kappa)
    expected = 1 / (1 - 2 * KENT[d])
    assert bool(
        ((y.square().mean(0) - expected).abs() < 5 * expected * math.sqrt(2 / 4000)).all()
    )  # 5 standard errors


@pytest.mark.parametrize("kappa", [1e-8, 1.0, 83767.77, 1e6, 1e13, 1e30, 1e300])
def test_kent_without_ovalness_is_von_mises_fisher(kappa: float) -> None:
    """All four divergences at the pair of the issue: (k || 3k) is 2 - log 3 at 1e6 (it was .978), and of
    equals 0."""
    frame, k = axes_for(3, kappa), torch.tensor(kappa, dtype=F64)
    kent, more = mdist.Kent(frame, k, 0.0), mdist.Kent(frame, 3 * k, 0.0)
    vmf, denser = mdist.VonMisesFisher(frame[:, 0], k), mdist.VonMisesFisher(frame[:, 0], 3 * k)
    exact = kl_divergence(vmf, denser)
    for p, q in ((kent, more), (kent, denser), (vmf, more)):
        torch.testing.assert_close(kl_divergence(p, q), exact, rtol=1e-9, atol=1e-14)
        if 1e6 < kappa < 1e14 or kappa > 1e37:  # rounded to float32 the axes are others, or kappa is infinite
            continue
        single = [type(d)(*(t.float() for t in parts)) for d, parts in ((p, _parts(p)), (q, _parts(q)))]
        torch.testing.assert_close(kl_divergence(*single), exact.float(), rtol=1e-5, atol=1e-7)
    for p, q in ((kent, kent), (kent, vmf), (vmf, kent)):
        assert float(kl_divergence(p, q).abs()) < 1e-12
    torch.testing.assert_close(kent.entropy(), vmf.entropy())
    torch.testing.assert_close(
        kent.covariance_matrix, vmf.covariance_matrix, rtol=1e-9, atol=1e-12 / (1 + kappa)
    )
    turned = mdist.VonMisesFisher(torch.nn.functional.normalize(frame[:, 0] + 1e-3 * frame[:, 1], dim=0), k)
    torch.testing.assert_close(kl_divergence(kent, turned), kl_divergence(vmf, turned), rtol=1e-9, atol=1e-12)


def _parts(d: mdist.Kent | mdist.VonMisesFisher) -> tuple[Tensor, ...]:
    if isinstance(d, mdist.Kent):
        return d.frame, d.concentration, torch.zeros((), dtype=F64)
    return d.loc, d.concentration


@pytest.mark.parametrize("size", [1e9, 1e13, 1e30, 1e150, 1e300])
def test_bingham_is_two_normals_in_the_limit(size: float) -> None:
    scale = torch.tensor(size, dtype=F64, requires_grad=True)
    gaps = tensor(1.0, 2.5)
    values = -torch.cat([tensor(0.0), gaps])
    for axes in (torch.eye(3, dtype=F64), axes_for(3, size)):
        distribution, other = (
            mdist.Bingham((axes * (f * scale * values).unsqueeze(-2)) @ axes.T) for f in (1.0, 3.0)
        )
        limit, far = (normal(2 * f * size * gaps) for f in (1.0, 3.0))
        loose = 1e-8 if size < 1e10 else 1e-10
        torch.testing.assert_close(
            distribution.entropy().detach(), limit.entropy() + math.log(2), rtol=loose, atol=0
        )
        torch.testing.assert_close(
            kl_divergence(distribution, other).detach(), kl_divergence(limit, far), rtol=1e-7, atol=0
        )
        (slope,) = torch.autograd.grad(distribution.entropy(), scale)
        torch.testing.assert_close(slope * size, tensor(-1.0)[0], rtol=1e-6, atol=0)
        lp = distribution.log_prob(axes[:, 0] + 0.3 * size**-0.5 * axes[:, 1]).detach()
        expected = limit.log_prob(tensor(0.3, 0.0) * size**-0.5) - math.log(2)
        torch.testing.assert_close(lp, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("size", [1e9, 1e13, 1e30, 1e150, 1e300])
def test_matrix_fisher_is_normal_in_the_limit(size: float) -> None:
    """F = s M: the rotation vector about M is normal with precision 2 s."""
    scale = torch.tensor(size, dtype=F64, requires_grad=True)
    mode = axes_for(3, size)
    distribution, other = mdist.MatrixFisher(scale * mode), mdist.MatrixFisher(3 * scale * mode)
    limit, far = normal(2 * size * torch.ones(3, dtype=F64)), normal(6 * size * torch.ones(3, dtype=F64))
    torch.testing.assert_close(distribution.entropy().detach(), limit.entropy(), rtol=1e-8, atol=0)
    torch.testing.assert_close(
        kl_divergence(distribution, other).detach(), kl_divergence(limit, far), rtol=1e-6, atol=0
    )
    v = tensor(0.3, -0.7, 0.2) * size**-0.5
    if size < 1e20:  # beyond, the matrix cannot tell this rotation from the mode
        r = geometry(SpecialOrthogonal(3)).exp_frame(mode, v)
        torch.testing.assert_close(
            distribution.log_prob(r).detach(), limit.log_prob(v), rtol=0, atol=1e-2 if size > 1e12 else 1e-6
        )
    (slope,) = torch.autograd.grad(distribution.entropy(), scale)
    torch.testing.assert_close(slope * size, tensor(-1.5)[0], rtol=1e-6, atol=0)


@pytest.mark.parametrize("size", [1e-12, 1e-8, 1e-4])
def test_nearly_uniform(size: float) -> None:
    """The divergence from the uniform distribution is half the variance of the exponent under it: never
    negative, all digits."""
    d = 4
    uniform = mdist.ManifoldUniform(mdist.VonMisesFisher.manifold, (d,), dtype=F64)
    a = torch.randn(d, d, dtype=F64)
    a = size * (a + a.T)
    trace = a.diagonal().sum()
    variance = 2 * (d * a.square().sum() - trace**2) / (d * d * (d + 2))
    torch.testing.assert_close(
        kl_divergence(mdist.Bingham(a), uniform), variance / 2, rtol=20 * size + 1e-10, atol=0
    )
    betas = size * tensor(0.4, 0.1, -0.5)
    kent = mdist.Kent(rotation(d), size, axis_ovalness=betas)
    variance = size**2 / d + 2 * betas.square().sum() / (d * (d + 2))
    torch.testing.assert_close(kl_divergence(kent, uniform), variance / 2, rtol=20 * size + 1e-10, atol=0)
    f = size * torch.randn(3, 3, dtype=F64)
    so3 = mdist.ManifoldUniform(SpecialOrthogonal(3), (3, 3), dtype=F64)
    torch.testing.assert_close(
        kl_divergence(mdist.MatrixFisher(f), so3), f.square().sum() / 6, rtol=20 * size + 1e-10, atol=0
    )


@pytest.mark.parametrize("size", SIZES)
def test_float32_is_float64_rounded(size: float) -> None:
    k, turn = torch.tensor(size), rotation(3).float()
    for frame, ratios in ((torch.eye(3), (0.0, 0.2, 0.4999, 0.5)), (turn, (0.2, 0.5))):
        for ratio in ratios:
            check_precision(mdist.Kent, dict(frame=frame, concentration=k, ovalness=k * ratio))
    for eigenvalues in ([1.0, 0.5, -1.0], [1.0, 1.0, -1.0], [1.0, 0.0, 0.0]):
        check_precision(mdist.Bingham, dict(matrix=k * torch.diag(torch.tensor(eigenvalues))))
    check_precision(mdist.Bingham, dict(matrix=k * (turn * torch.tensor([1.0, 0.5, -1.0])) @ turn.T))
    for matrix in (torch.eye(3), torch.diag(torch.tensor([1.0, 0.5, -0.2])), turn):
        check_precision(mdist.MatrixFisher, dict(matrix=k * matrix))


@pytest.mark.parametrize(
    "dtype, sizes", [(torch.float32, (1e6, 2e7, 1e13, 1e30)), (F64, (1e13, 1e150, 1e300))]
)
def test_concentrated_draws(dtype: torch.dtype, sizes: tuple[float, ...]) -> None:
    """Squares of tangent coordinates over their variances have mean 1, to 5 standard errors; none is at the
    other end."""
    eye = torch.eye(3, dtype=dtype)
    for size in sizes:
        s = torch.tensor(size, dtype=dtype)
        kent = mdist.Kent(eye, s, 0.3 * s).sample((4000,))
        flat = mdist.Kent(eye, s, 0.5 * s).sample((4000,))
        bingham = mdist.Bingham(s * torch.diag(torch.tensor([0.0, -1.0, -2.5], dtype=dtype))).sample((4000,))
        turn = mdist.MatrixFisher(s * eye).sample((4000,))
        assert bool((kent[:, 0] > 0.9).all()) and bool((flat[:, 0] > 0).all())
        assert (
            bool((bingham[:, 0].abs() > 0.9).all()) and 1800 < int((bingham[:, 0] > 0).sum()) < 2200
        )  # 6 standard errors
        root = math.sqrt(size)
        skew = torch.stack([turn[:, 2, 1], turn[:, 0, 2], turn[:, 1, 0]], -1).double() * root
        for squares in (
            (kent[:, 1:].double() * root).square() * tensor(0.4, 1.6),
            (flat[:, 2:].double() * root).square() * 2.0,
            (bingham[:, 1:].double() * root).square() * tensor(2.0, 5.0),
            skew.square() * 2.0,
        ):
            assert bool(((squares.mean(0) - 1).abs() < 5 * math.sqrt(2 / 4000)).all()), size


def test_infinite_ovalness_is_refused() -> None:
    with pytest.raises(ValueError, match="axis_ovalness"):
        mdist.Kent(torch.eye(3), 5.0, axis_ovalness=torch.tensor([-math.inf, -2.0]), validate_args=True)
