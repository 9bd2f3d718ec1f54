"""Functions of symmetric matrices against mpmath and finite differences; repeated and nearly repeated
eigenvalues."""

import mpmath
import pytest
import torch

from pyro_manifold.ops.linalg import (
    _jacobi,
    sym,
    sym_derivative,
    sym_eigenvalues,
    sym_function,
    sym_to_vec,
    vec_to_sym,
)
from pyro_manifold.ops.spectral import EXP, INV_SQRT, LOG, LOG1P, SQRT, Spectral

CUBE = Spectral(lambda x: x**3, lambda x: 3 * x**2, lambda x: 6 * x, lambda x: x.abs() + 1)
SPECS = {"exp": EXP, "log": LOG, "log1p": LOG1P, "sqrt": SQRT, "inv_sqrt": INV_SQRT, "cube": CUBE}
SPECTRA = {
    "distinct": [0.3, 1.0, 2.5],
    "repeated": [1.3, 1.3, 1.3],
    "pair": [0.7, 0.7, 2.0],
    "nearly": [1.0, 1.0 + 1e-9, 1.0 + 1e-4],
    "spread": [1e-6, 1.0, 1e3],
}
MP = {
    "exp": mpmath.exp,
    "log": mpmath.log,
    "log1p": lambda x: mpmath.log(1 + x),
    "sqrt": mpmath.sqrt,
    "inv_sqrt": lambda x: 1 / mpmath.sqrt(x),
    "cube": lambda x: x**3,
}


def matrix(spectrum):
    q = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
    return (q * torch.tensor(spectrum, dtype=torch.float64)) @ q.mT


def mp_divided(f, a, b):
    a, b = mpmath.mpf(float(a)), mpmath.mpf(float(b))
    return mpmath.diff(f, a) if a == b else (f(a) - f(b)) / (a - b)


@pytest.mark.parametrize("spectrum", SPECTRA.values(), ids=SPECTRA)
@pytest.mark.parametrize("name", SPECS)
def test_derivative_against_mpmath(name, spectrum):
    """At a diagonal matrix the derivative is the table of divided differences times the direction; no
    rotation error."""
    if name == "exp" and max(spectrum) > 100:
        pytest.skip("exp(1000) overflows")
    x = torch.tensor(spectrum, dtype=torch.float64)
    h = torch.ones(3, 3, dtype=torch.float64)
    with mpmath.workdps(60):
        expected = [[float(mp_divided(MP[name], a, b)) for b in x] for a in x]
    got = sym_derivative(torch.diag(x), h, SPECS[name])
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64), rtol=1e-13, atol=0)


@pytest.mark.parametrize(
    "spectrum", [s for k, s in SPECTRA.items() if k != "spread"], ids=[k for k in SPECTRA if k != "spread"]
)
@pytest.mark.parametrize("name", SPECS)
def test_value_gradient_and_second_derivative(name, spectrum):
    spec, a = SPECS[name], matrix(spectrum)
    values, u = torch.linalg.eigh(a)
    torch.testing.assert_close(
        sym_function(a, spec), u @ torch.diag(spec.f(values)) @ u.mT, rtol=1e-12, atol=1e-12
    )
    a.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: sym_function(x, spec), a)
    assert torch.autograd.gradgradcheck(lambda x: sym_function(x, spec), a, atol=1e-4)
    h = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, y: sym_derivative(x, y, spec), (a, h))


def test_torch_is_nan_where_we_are_not():
    """The reason for this module; if it fails, torch has been mended."""
    a = torch.eye(3, dtype=torch.float64, requires_grad=True)
    x, u = torch.linalg.eigh(a)
    (g,) = torch.autograd.grad(((u * x.log()) @ u.mT)[0, 1], a)
    assert not bool(g.isfinite().all())
    (g,) = torch.autograd.grad(sym_function(a, LOG)[0, 1], a)
    torch.testing.assert_close(g, torch.tensor([[0, 0.5, 0], [0.5, 0, 0], [0, 0, 0]], dtype=torch.float64))


def test_a_third_derivative_raises():
    a = matrix(SPECTRA["distinct"]).requires_grad_()
    (g,) = torch.autograd.grad(sym_function(a, EXP).square().sum(), a, create_graph=True)
    (g,) = torch.autograd.grad(g.square().sum(), a, create_graph=True)
    with pytest.raises(NotImplementedError, match="last order implemented"):
        torch.autograd.grad(g.square().sum(), a)


@pytest.mark.parametrize("spectrum", SPECTRA.values(), ids=SPECTRA)
def test_eigenvalues(spectrum):
    """A symmetric function of the eigenvalues has the gradient U g'(x) U^T, repeated or not; a second
    derivative raises."""
    a = matrix(spectrum).requires_grad_()
    x = sym_eigenvalues(a)
    torch.testing.assert_close(x.detach(), sym_eigenvalues(a.detach()), atol=1e-12, rtol=1e-12)
    (g,) = torch.autograd.grad(x.pow(3).sum(), a, create_graph=True)
    torch.testing.assert_close(g, 3 * a @ a, rtol=1e-10, atol=1e-10)
    with pytest.raises(NotImplementedError, match="last order implemented"):
        torch.autograd.grad(g.sum() + a.sum(), a)


def test_several_functions_share_one_decomposition():
    a = matrix(SPECTRA["pair"]).requires_grad_()
    root, inverse = sym_function(a, SQRT, INV_SQRT)
    torch.testing.assert_close(root @ inverse, torch.eye(3, dtype=torch.float64))
    (together,) = torch.autograd.grad((root.sum() + inverse.square().sum()), a)
    (one,) = torch.autograd.grad(sym_function(a, SQRT).sum(), a)
    (two,) = torch.autograd.grad(sym_function(a, INV_SQRT).square().sum(), a)
    torch.testing.assert_close(together, one + two)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_one_bad_matrix_does_not_spoil_the_batch(bad):
    a = torch.eye(2).repeat(3, 1, 1)
    a[1, 0, 0] = bad
    out = sym_function(a, LOG)
    assert out.isfinite().all(-1).all(-1).tolist() == [True, False, True]


@pytest.mark.parametrize("n", [1, 2, 5])
def test_coordinates_are_an_isometry(n):
    v = torch.randn(7, n * (n + 1) // 2, dtype=torch.float64)
    a = vec_to_sym(v, n)
    assert torch.equal(a, a.mT)
    torch.testing.assert_close(sym_to_vec(a), v)
    torch.testing.assert_close(torch.linalg.matrix_norm(a), v.norm(dim=-1))


def test_functorch():
    a = torch.stack([matrix(s) for s in SPECTRA.values()])
    torch.testing.assert_close(torch.func.vmap(lambda x: sym_function(x, SQRT))(a), sym_function(a, SQRT))
    jacobian = torch.func.jacrev(lambda x: sym_function(x, SQRT))(a[0])
    expected = torch.autograd.functional.jacobian(lambda x: sym_function(x, SQRT), a[0])
    torch.testing.assert_close(jacobian, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("spectrum", ["distinct", "repeated", "nearly", "graded", "huge", "zero"])
def test_rotations_of_a_large_batch_agree_with_lapack(n, spectrum, dtype):
    """To 20 eps of the largest eigenvalue: values, reconstruction and orthogonality."""
    count, eps = 1000, torch.finfo(dtype).eps
    x = {
        "distinct": torch.randn(count, 3, dtype=torch.float64),
        "repeated": torch.tensor([1.0, 1.0, 5.0], dtype=torch.float64),
        "nearly": 1 + 1e-9 * torch.randn(count, 3, dtype=torch.float64),
        "graded": torch.tensor([1e-12, 1e-6, 1.0], dtype=torch.float64),
        "huge": 1e30 * torch.randn(count, 3, dtype=torch.float64),
        "zero": torch.zeros(3, dtype=torch.float64),
    }[spectrum].expand(count, 3)[:, 3 - n :]
    q = torch.linalg.qr(torch.randn(count, n, n, dtype=torch.float64)).Q
    a = sym((q * x.unsqueeze(-2)) @ q.mT).to(dtype)
    values, u = _jacobi(a)
    expected = torch.linalg.eigvalsh(a.double())
    tol = 20 * eps * expected.abs().amax(-1, keepdim=True)
    assert bool(((values.double().sort(-1).values - expected).abs() <= tol).all())
    assert bool((((u * values.unsqueeze(-2)) @ u.mT - a).double().abs() <= tol.unsqueeze(-1)).all())
    torch.testing.assert_close(u.mT @ u, torch.eye(n, dtype=dtype).expand(count, n, n), rtol=0, atol=20 * eps)


def test_large_batches_take_the_same_derivatives():
    """The path by rotations, at distinct and repeated eigenvalues and with a bad matrix, against single
    matrices."""
    a = torch.stack(
        [matrix(s) for s in ([0.3, 1.0, 2.5], [1.3, 1.3, 1.3], [0.7, 0.7, 2.0])] * 700
    ).requires_grad_()
    weight = torch.randn(3, 3, dtype=torch.float64)
    (many,) = torch.autograd.grad((sym_function(a, LOG) * weight).sum(), a)
    for x, expected in zip(a[:3].detach(), many, strict=False):
        (one,) = torch.autograd.grad((sym_function(x.requires_grad_(), LOG) * weight).sum(), x)
        torch.testing.assert_close(one, expected, rtol=1e-12, atol=1e-12)
    bad = a.detach().clone()
    bad[7] = torch.inf
    assert sym_function(bad, LOG).isfinite().all(-1).all(-1).logical_not().nonzero().tolist() == [[7]]
