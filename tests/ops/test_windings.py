"""Sums over windings against sums of many digits, across both branches, and their derivatives."""

import math

import mpmath as mp
import pytest
import torch

from pyro_manifold.ops.circular import log_wrapped_normal
from pyro_manifold.ops.windings import _FEW, _turns, log_windings, normal_reach

F64 = torch.float64


def exact(t: float, s: float, m: int, h: int) -> float:
    with mp.workdps(40):
        t, s = mp.mpf(t), mp.mpf(s)
        n = int((s * math.sqrt(m + 1) + 14 * s) / 6.28) + 3
        x = [abs(t + 2 * mp.pi * k) for k in range(-n, n + 1)]
        return float(mp.log(sum((y / abs(h * mp.sin(y / h))) ** m * mp.exp(-y * y / (2 * s * s)) for y in x)))


@pytest.mark.parametrize("m, h", [(0, 1), (1, 1), (2, 2), (3, 1), (31, 1), (33, 1), (63, 1), (1023, 1)])
def test_against_many_digits(m, h):
    """Scales on both sides of the crossover, 12.5; the error in units of 1 + |w|."""
    t = torch.tensor([1e-3, 0.3, 1.7, 3.1, 3.14])
    s = torch.tensor([0.05, 0.5, 2.0, 5.0, 12.4, 12.6, 40.0])
    expected = torch.tensor([[exact(float(a), float(b), m, h) for b in s] for a in t], dtype=F64)
    for dtype, tol in ((F64, 2e-14), (torch.float32, 3e-5)):
        ours = log_windings(t.to(dtype).unsqueeze(-1), s.to(dtype), m, h)
        assert ((ours - expected).abs() / (1 + expected.abs())).max() < tol


@pytest.mark.parametrize("m, h", [(0, 1), (1, 1), (2, 2), (9, 1)])
def test_derivatives(m, h):
    for s in (0.3, 2.0, 11.0, 14.0):
        x = torch.tensor([0.1, 1.0, 3.0, -7.0], dtype=F64, requires_grad=True)
        scale = torch.full((4,), s, dtype=F64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda a, b: log_windings(a, b, m, h), (x, scale))  # noqa: B023
        assert torch.autograd.gradgradcheck(lambda a, b: log_windings(a, b, m, h), (x, scale))  # noqa: B023


def test_limit_of_a_wide_normal():
    """The angle becomes uniform: (s sqrt 2)^(m+1) gamma((m+1)/2) / 2 pi; and no scale costs more than
    another."""
    t, s = torch.tensor([0.3, 2.0], dtype=F64), 1e15
    for m in (1, 2, 512):
        limit = (m + 1) * math.log(s * 2**0.5) + math.lgamma((m + 1) / 2) - math.log(2 * math.pi)
        ours = log_windings(t, torch.tensor(s, dtype=F64), m) + m * t.sin().log()
        assert torch.allclose(ours, torch.full_like(t, limit), rtol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_finite_for_every_scale(dtype):
    t = torch.tensor([0.0, 1e-3, 3.0, math.pi], dtype=dtype)
    for s in (1e-10, 1e-6, 0.3, 2.0, 1e6, 1e30):
        for m, h in ((0, 1), (1, 1), (2, 2), (9, 1)):
            x = t.clone().requires_grad_()
            scale = torch.full((4,), s, dtype=dtype, requires_grad=True)
            out = log_windings(x, scale, m, h)
            assert out.isfinite().all()
            assert all(g.isfinite().all() for g in torch.autograd.grad(out.sum(), (x, scale)))


def test_whole_turns_do_not_matter():
    """As for draws whose tangent vector is remembered: it may wind around many times."""
    t, s = torch.tensor([0.3, -2.0], dtype=F64), torch.tensor([0.2, 1.6], dtype=F64)
    for k in (-5, 1, 40):
        for m in (0, 3):
            assert torch.allclose(log_windings(t + 2 * math.pi * k, s, m), log_windings(t, s, m), rtol=1e-12)
        assert torch.allclose(
            log_wrapped_normal(t + 2 * math.pi * k, s), log_wrapped_normal(t, s), rtol=1e-12
        )


@pytest.mark.parametrize("power", [0, 3, 200, 1023])
def test_the_terms_that_count_and_no_more(power):
    """All k whose |t_k| lies within s sqrt(m) -+ (2 pi + c s) of some element, at most some 4 + 2 c s / pi of them
    (8 here: both ends of both sides are rounded outwards by half a turn)."""
    c = normal_reach(F64)
    t = torch.linspace(0.0, math.pi, 9, dtype=F64)
    k = torch.arange(-200, 201, dtype=F64)
    for s in (2.0, 7.0, 12.5):
        mode = s * math.sqrt(power)
        distance = ((t.unsqueeze(-1) + 2 * math.pi * k).abs() - mode).abs()
        wanted = set(k[(distance <= 2 * math.pi + c * s).any(0)].tolist()) - {0.0}
        turns = _turns(torch.full_like(t, s), power, c, t)
        for column in turns.expand(-1, 9).T:
            assert wanted <= set(column.tolist())
        assert len(turns) <= max(8 + 2 * c * s / math.pi, 2 * _FEW)
    both = _turns(
        torch.tensor([0.5, 12.5], dtype=F64), power, c, t[:2]
    )  # the narrow one takes as many as the wide
    assert len(both) == len(_turns(torch.tensor([12.5, 12.5], dtype=F64), power, c, t[:2]))


def test_no_values_at_all():
    assert log_windings(torch.zeros(0, 3), torch.ones(3), 2).shape == (0, 3)
