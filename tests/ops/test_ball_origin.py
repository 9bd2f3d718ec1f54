"""The maps at the origin of the ball against those between two points, mpmath and numerical gradients."""

import mpmath as mp
import pytest
import torch

from pyro_manifold.ops.arsinh import scaled_arsinh
from pyro_manifold.ops.ball import ball_exp
from pyro_manifold.ops.ball_origin import ball_exp_origin, ball_radius

D = torch.float64


def rows(dim: int, scale: float = 1.0) -> torch.Tensor:
    v = scale * torch.randn(6, dim, dtype=D, generator=torch.Generator().manual_seed(dim))
    v[0] = 0
    v[1] *= 1e-9
    return v


@pytest.mark.parametrize("dim", [1, 2, 20])
@pytest.mark.parametrize("c", [1e-3, 1.4, 30.0])
def test_values_and_gradients(dim: int, c: float) -> None:
    K, v = torch.tensor(-c, dtype=D), rows(dim, 3 / (c * dim) ** 0.5).requires_grad_()
    x = ball_exp_origin(K, v)
    torch.testing.assert_close(x, ball_exp(K, torch.zeros_like(v), v, True), rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(ball_radius(K, x), v.norm(dim=-1), rtol=1e-10, atol=1e-14)
    assert torch.autograd.gradcheck(lambda v: ball_exp_origin(K, v), v)
    assert torch.autograd.gradgradcheck(lambda v: ball_exp_origin(K, v), v, atol=1e-4)
    far = ball_exp_origin(K, v[2:]).detach().requires_grad_()  # the distance has no gradient at 0
    assert torch.autograd.gradcheck(lambda x: ball_radius(K, x), far, rtol=1e-4)
    assert torch.autograd.gradgradcheck(lambda x: ball_radius(K, x), far, rtol=1e-3, atol=1e-3)


def test_composed_and_direct_forms_agree() -> None:
    """The curvature learned, and ``torch.func``, take the composed form."""
    v = rows(3)
    K = torch.tensor(-0.7, dtype=D)
    g = torch.randn(6, 3, dtype=D)
    for f in (ball_exp_origin, lambda k, v: ball_radius(k, 0.3 * v.tanh())):
        outs = []
        for k in (K, K.clone().requires_grad_()):
            w = v.clone().requires_grad_()
            out = f(k, w)
            outs.append(
                (
                    out,
                    torch.autograd.grad(
                        (
                            out * g[: len(out), : out.shape[-1]].reshape(-1)[: out.numel()].reshape(out.shape)
                        ).sum(),
                        w,
                    )[0],
                )
            )
        torch.testing.assert_close(outs[0], outs[1], rtol=1e-12, atol=1e-14)
        jac = torch.func.vmap(torch.func.jacrev(lambda w, f=f: f(K, w)))(v[2:])
        w = v[2:].clone().requires_grad_()
        rev = torch.stack(
            [
                torch.autograd.grad(f(K, w).reshape(len(w), -1)[:, i].sum(), w)[0]
                for i in range(f(K, w)[0].numel())
            ],
            1,
        )
        torch.testing.assert_close(jac.reshape(rev.shape), rev, rtol=1e-10, atol=1e-12)
    assert torch.autograd.gradcheck(
        ball_exp_origin, (K.clone().requires_grad_(), v[2:].clone().requires_grad_())
    )


@pytest.mark.parametrize("dtype", [torch.float32, D])
def test_single_precision_and_zero(dtype: torch.dtype) -> None:
    K = torch.tensor(-1.0, dtype=dtype)
    v = torch.tensor([[0.0, 0.0], [1e-30, 0.0], [3e-20, 4e-20], [5.0, 5.0]], dtype=dtype).requires_grad_()
    x = ball_exp_origin(K, v)
    (g,) = torch.autograd.grad(x[..., 0].sum(), v)
    torch.testing.assert_close(g[:3], torch.tensor([[0.5, 0.0]] * 3, dtype=dtype), rtol=1e-6, atol=1e-6)
    assert g.isfinite().all() and bool((x.norm(dim=-1) < 1).all())
    r = ball_radius(K, x)
    (g,) = torch.autograd.grad(r.sum(), x)
    assert g.isfinite().all() and g[0].tolist() == [0.0, 0.0]


def test_arsinh_against_mpmath_and_numerical_gradients() -> None:
    x = torch.tensor([0.0, 1e-300, -1e-20, 1e-5, -0.3, 1.0, 77.0, -1e20, 1e300], dtype=D)
    y = scaled_arsinh(x, torch.tensor(3.0, dtype=D))
    exact = torch.tensor([float(3 * mp.asinh(mp.mpf(float(a)))) for a in x], dtype=D)
    torch.testing.assert_close(y, exact, rtol=4e-16, atol=0)
    single = scaled_arsinh(torch.tensor([1e-38, 0.3, 1e38]), torch.ones(()))
    torch.testing.assert_close(
        single, torch.tensor([1e-38, 0.3, 1e38]).double().asinh().float(), rtol=3e-7, atol=0
    )
    a = torch.randn(4, 3, dtype=D, generator=torch.Generator().manual_seed(0)).requires_grad_()
    g = torch.randn(3, dtype=D, generator=torch.Generator().manual_seed(1)).requires_grad_()
    assert torch.autograd.gradcheck(scaled_arsinh, (a, g), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(scaled_arsinh, (a, g))
    mapped = torch.func.vmap(lambda a: scaled_arsinh(a, g))(a)
    torch.testing.assert_close(mapped, scaled_arsinh(a, g))


@pytest.mark.parametrize("size", [1e-30, 1e-25, 1e-15])
def test_radius_of_tiny_points(size: float) -> None:
    """Squares that underflow in float32: the radius is 2 |x|, its gradient 2 x / |x|."""
    x = torch.tensor([3.0, -4.0]).mul(size).requires_grad_()
    for K in (
        torch.tensor(-1.0),
        torch.tensor(-1.0, requires_grad=True),
    ):  # the operator, and the composed function
        r = ball_radius(K, x)
        torch.testing.assert_close(r, torch.tensor(10 * size), rtol=1e-5, atol=0)
        (slope,) = torch.autograd.grad(r, x)
        torch.testing.assert_close(slope, torch.tensor([1.2, -1.6]), rtol=1e-5, atol=0)
