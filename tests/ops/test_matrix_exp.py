"""The exponential of one matrix against that of many and SciPy's, and that the package takes it from one place."""

from pathlib import Path

import pytest
import scipy.linalg
import torch

import pyro_manifold
from pyro_manifold.ops.matrix_exp import matrix_exp


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (2,)])
def test_one_matrix_is_as_exact_as_many(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    for norm in (1e-3, 0.01, 0.03, 0.045, 0.1, 0.29, 0.4, 0.6, 1.0):
        x = torch.randn(*shape, 3, 3, dtype=torch.float64, generator=generator)
        x = (x * norm / x.abs().sum(-2).amax()).to(dtype)
        exact = torch.from_numpy(scipy.linalg.expm(x.double().numpy()))
        found = matrix_exp(x)
        assert found.shape == x.shape and found.dtype == dtype
        assert float((found - exact).abs().max()) < 10 * torch.finfo(dtype).eps
        leaf = x.requires_grad_()
        (slope,) = torch.autograd.grad(matrix_exp(leaf).sum(), leaf)
        many = leaf.detach().expand(3, *leaf.shape).clone().requires_grad_()
        (wanted,) = torch.autograd.grad(torch.linalg.matrix_exp(many).sum(), many)
        torch.testing.assert_close(
            slope, wanted[0], rtol=20 * torch.finfo(dtype).eps, atol=20 * torch.finfo(dtype).eps
        )


def test_empty_batch() -> None:
    assert matrix_exp(torch.zeros(0, 3, 3)).shape == (0, 3, 3)


def test_no_other_exponentials() -> None:
    root = Path(pyro_manifold.__file__).parent
    users = {
        p.relative_to(root).as_posix() for p in root.rglob("*.py") if "linalg.matrix_exp(" in p.read_text()
    }
    assert users == {"ops/matrix_exp.py"}
