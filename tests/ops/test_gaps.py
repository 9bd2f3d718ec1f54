"""The volume change of positive definite matrices: value, gradient and Hessian, at repeated eigenvalues
too."""

import pytest
import torch
from torch.func import hessian, jacfwd, jacrev, vmap

from pyro_manifold.ops.gaps import log_sinhc_gaps
from pyro_manifold.ops.linalg import vec_to_sym

F64 = torch.float64
SPECTRA = {
    "distinct": [-1.0, 0.3, 2.0],
    "pair": [1.0, 1.0, -2.0],
    "all": [0.7, 0.7, 0.7],
    "close": [0.7, 0.7 + 1e-9, 0.7 + 0.4],
    "wide": [-20.0, 0.0, 30.0],
}


def matrix(spectrum: list[float]) -> torch.Tensor:
    u = torch.linalg.qr(torch.randn(3, 3, dtype=F64, generator=torch.Generator().manual_seed(0))).Q
    return (u * torch.tensor(spectrum, dtype=F64)) @ u.mT


@pytest.mark.parametrize("spectrum", SPECTRA.values(), ids=SPECTRA)
def test_value_and_derivatives(spectrum: list[float]) -> None:
    a = matrix(spectrum)
    x = torch.tensor(spectrum, dtype=F64)
    half = torch.stack([x[0] - x[1], x[0] - x[2], x[1] - x[2]]).abs() / 2
    expected = (
        (half + torch.log(-torch.expm1(-2 * half) / (2 * half).clamp_min(1e-300))).where(half > 0, 0.0).sum()
    )
    torch.testing.assert_close(log_sinhc_gaps(a), expected, rtol=1e-7, atol=1e-12)
    a.requires_grad_()
    assert torch.autograd.gradcheck(log_sinhc_gaps, (a,), check_batched_grad=True, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(log_sinhc_gaps, (a,))
    torch.testing.assert_close(jacfwd(log_sinhc_gaps)(a.detach()), jacrev(log_sinhc_gaps)(a.detach()))


def test_hessian_at_zero_and_of_two_by_two() -> None:
    """At 0 it is that of n |A|^2 / 24 less the trace; for n = 2, that of log sinhc of the root of a quadratic
    form."""
    for n in (1, 2, 3, 5):
        d = n * (n + 1) // 2
        h = hessian(lambda v: log_sinhc_gaps(vec_to_sym(v, n)))(torch.zeros(d, dtype=F64))  # noqa: B023
        trace = torch.zeros(d, dtype=F64)
        trace[:n] = 1
        torch.testing.assert_close(h, (n * torch.eye(d, dtype=F64) - torch.outer(trace, trace)) / 12)

    def closed(v: torch.Tensor) -> torch.Tensor:
        r = ((v[0] - v[1]) ** 2 / 4 + v[2] ** 2 / 2).sqrt()
        return (r.sinh() / r).log()

    v = torch.tensor([[0.3, -1.0, 0.5], [2.0, 2.1, 0.0], [5.0, -4.0, 1.0]], dtype=F64)
    ours = vmap(hessian(lambda w: log_sinhc_gaps(vec_to_sym(w, 2))))(v)
    torch.testing.assert_close(ours, torch.stack([hessian(closed)(w) for w in v]), rtol=1e-9, atol=1e-9)


def test_a_third_derivative_raises() -> None:
    a = matrix(SPECTRA["distinct"]).requires_grad_()
    (g,) = torch.autograd.grad(log_sinhc_gaps(a), a, create_graph=True)
    (g,) = torch.autograd.grad(g.square().sum(), a, create_graph=True)
    with pytest.raises(NotImplementedError, match="last order implemented"):
        torch.autograd.grad(g.square().sum(), a)
