"""Gram-Schmidt against QR, and on what it has to choose an answer for."""

import pytest
import torch

from pyro_manifold.ops.gram_schmidt import orthonormal_columns, rotation_of_columns

D = torch.float64


@pytest.mark.parametrize("n, p", [(2, 1), (3, 2), (3, 3), (7, 4), (40, 40)])
def test_columns_are_those_of_qr(n: int, p: int) -> None:
    a = torch.randn(5, n, p, dtype=D, generator=torch.Generator().manual_seed(n))
    q, r = torch.linalg.qr(a)
    signs = r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)
    torch.testing.assert_close(orthonormal_columns(a), q * signs, atol=1e-12, rtol=0)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_rotation_has_the_columns_and_the_gradient_of_finite_differences(n: int) -> None:
    a = torch.randn(4, n, n - 1, dtype=D, generator=torch.Generator().manual_seed(n), requires_grad=True)
    r = rotation_of_columns(a)
    torch.testing.assert_close(r[..., :-1], orthonormal_columns(a))
    torch.testing.assert_close(r.mT @ r, torch.eye(n, dtype=D).expand(4, n, n))
    torch.testing.assert_close(torch.linalg.det(r), torch.ones(4, dtype=D))
    assert torch.autograd.gradcheck(rotation_of_columns, a)


@pytest.mark.parametrize("dtype", [torch.float32, D])
def test_dependent_and_extreme_columns(dtype: torch.dtype) -> None:
    tiny, huge = torch.finfo(dtype).tiny, torch.finfo(dtype).max
    e = torch.eye(3, dtype=dtype)
    ones = torch.ones(3, dtype=dtype)
    cases = [
        0 * e[:, :2],
        torch.stack([e[0], e[0]], -1),
        torch.stack([ones, 3 * ones], -1),
        torch.stack([0 * ones, e[2]], -1),
        tiny * torch.stack([ones, e[1]], -1),
        huge * torch.stack([ones, e[1]], -1),
        torch.stack([ones, ones + 1e3 * torch.finfo(dtype).eps * e[0]], -1),
    ]
    a = torch.stack(cases).requires_grad_()
    r = rotation_of_columns(a)
    bound = 20 * torch.finfo(dtype).eps
    assert bool(((r.mT @ r - e).abs() < bound).all()) and bool((torch.linalg.det(r) > 0.9).all())
    (slope,) = torch.autograd.grad((r * torch.arange(9.0, dtype=dtype).reshape(3, 3)).sum(), a)
    assert bool(slope[[0, 1, 2, 3, 5, 6]].isfinite().all())  # of the tiny ones it is 1/tiny, near overflow
