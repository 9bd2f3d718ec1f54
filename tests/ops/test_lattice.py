"""Lattice sums against boxes that hold every term, and against the normal itself in dimensions that have no
such box."""

import itertools
import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from pyro_manifold.ops.lattice import log_dual_sum, log_lattice_sum, log_torus_normal

F64 = torch.float64


def box(v: torch.Tensor, tril: torch.Tensor, n: int) -> torch.Tensor:
    d = v.shape[-1]
    k = torch.tensor(list(itertools.product(range(-n, n + 1), repeat=d)), dtype=F64)
    normal = MultivariateNormal(torch.zeros(d, dtype=F64), scale_tril=tril)
    return torch.logsumexp(normal.log_prob(v + 2 * math.pi * k.unsqueeze(1)), 0)


def test_against_a_box():
    torch.manual_seed(0)
    for d, n in ((1, 40), (2, 40), (3, 12)):
        for scale in (0.05, 0.4, 1.2, 2.0):
            tril = (
                0.7 * scale * torch.randn(d, d, dtype=F64).tril(-1)
                + torch.diag(torch.rand(d, dtype=F64) + 0.3) * scale
            )
            v = (torch.rand(7, d, dtype=F64) - 0.5) * 2 * math.pi
            torch.testing.assert_close(log_lattice_sum(v, tril), box(v, tril, n), rtol=1e-12, atol=1e-12)


def test_a_strip_that_winds_around():
    """Sd 0.7 along the strip, 0.001 across: the nearest winding is 26 sd away, far outside any box of 8
    sd."""
    tril = torch.tensor([[0.7, 0.0], [0.49, 0.001]], dtype=F64)
    v = torch.tensor([[3.0, -3.0], [1.0, 2.0], [0.0, 0.5]], dtype=F64)
    torch.testing.assert_close(log_lattice_sum(v, tril), box(v, tril, 60), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("d", [1, 2, 64, 1024])
def test_narrow_in_any_dimension(d):
    """Where only one winding counts the density is the normal's, at draws of it."""
    torch.manual_seed(0)
    a = torch.randn(d, d, dtype=F64) / math.sqrt(d)
    tril = 0.1 * torch.linalg.cholesky(a @ a.mT + torch.eye(d, dtype=F64))
    normal = MultivariateNormal(torch.zeros(d, dtype=F64), scale_tril=tril)
    v = normal.sample((5,))
    wrapped = v - 2 * math.pi * torch.floor((v + math.pi) / (2 * math.pi))
    torch.testing.assert_close(log_lattice_sum(wrapped, tril), normal.log_prob(v), rtol=1e-12, atol=1e-12)


def test_batches_and_derivatives():
    torch.manual_seed(0)
    tril = torch.stack([0.3 * torch.eye(2), 0.7 * torch.eye(2)]).double()
    v = torch.randn(3, 2, 2, dtype=F64)
    each = torch.stack([log_lattice_sum(v[:, i], tril[i]) for i in range(2)], 1)
    torch.testing.assert_close(log_lattice_sum(v, tril), each)
    leaves = v[:, 0].clone().requires_grad_(), tril[1].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: log_lattice_sum(a, b.tril()), leaves)
    assert torch.autograd.gradgradcheck(lambda a, b: log_lattice_sum(a, b.tril()), leaves)


def test_the_dual_is_the_same_sum():
    torch.manual_seed(0)
    for d in (1, 2, 3):
        tril = 0.5 * torch.randn(d, d, dtype=F64).tril(-1) + 2.5 * torch.eye(d, dtype=F64)
        v = (torch.rand(7, d, dtype=F64) - 0.5) * 2 * math.pi
        torch.testing.assert_close(log_dual_sum(v, tril), log_lattice_sum(v, tril), rtol=1e-11, atol=1e-11)
        several = torch.stack([tril, 1.1 * tril])
        each = torch.stack([log_dual_sum(v, several[i]) for i in range(2)])
        torch.testing.assert_close(
            log_dual_sum(v.expand(2, 7, d), several.unsqueeze(1)), each, rtol=1e-12, atol=1e-12
        )
    leaves = v[:2].clone().requires_grad_(), tril.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: log_dual_sum(a, b.tril()), leaves)


def test_each_point_by_the_sum_that_suits_it():
    """Narrow, wide, very wide (uniform), and wide one way only, in one batch; and in 9 dimensions."""
    torch.manual_seed(0)
    oblique, strip = torch.tensor([[2.0, 0.0], [1.0, 2.2]]), torch.diag(torch.tensor([0.1, 90.0]))
    tril = torch.stack([0.1 * torch.eye(2), oblique, 1e6 * torch.eye(2), strip]).double()
    v = (torch.rand(5, 1, 2, dtype=F64) - 0.5) * 6
    out = log_torus_normal(v, tril)
    expected = [box(v[:, 0], tril[i], n) for i, n in ((0, 3), (1, 12))]
    expected.append(torch.full((5,), -2 * math.log(2 * math.pi), dtype=F64))
    one = MultivariateNormal(
        torch.zeros(1, dtype=F64), scale_tril=tril[3, :1, :1]
    )  # x uniform: the second axis
    expected.append(one.log_prob(v[:, 0, :1]) - math.log(2 * math.pi))
    torch.testing.assert_close(out, torch.stack(expected, 1), rtol=1e-9, atol=1e-9)
    many = log_torus_normal(
        torch.zeros(9, dtype=F64), 10 * (torch.eye(9) + torch.ones(9, 9).tril(-1)).double()
    )
    assert abs(float(many) + 9 * math.log(2 * math.pi)) < 1e-5


def test_many_points_with_many_terms():
    """What a point needs does not depend on how many there are."""
    torch.manual_seed(0)
    v = math.pi * (2 * torch.rand(60_000, 2, dtype=torch.float64) - 1)
    tril = torch.tensor([[2.0, 0.0], [0.8, 2.0]], dtype=torch.float64)
    found = log_lattice_sum(v, tril)  # of more than a million terms
    torch.testing.assert_close(found[::600], log_lattice_sum(v[::600], tril), rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match=r"covariance: .* expected at most 1000000; give a diagonal scale"):
        log_lattice_sum(v[:2], 1e4 * tril)
