"""Own operators on several batch axes: value, forward mode and reverse mode are those of the elements, one by one."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pyro_manifold.ops.axis import squared_chord
from pyro_manifold.ops.ball import ball_exp
from pyro_manifold.ops.bingham import matrix_normalizer
from pyro_manifold.ops.fisher_bingham import log_normalizer as fisher_bingham
from pyro_manifold.ops.fisher_bingham_general import general_moments
from pyro_manifold.ops.gaps import log_sinhc_gaps
from pyro_manifold.ops.incomplete_gamma import log_gammainc
from pyro_manifold.ops.linalg import sym_eigenvalues, sym_function
from pyro_manifold.ops.orthogonal import polar
from pyro_manifold.ops.parabolic_cylinder import log_radial_integral
from pyro_manifold.ops.radial import log_normalizer
from pyro_manifold.ops.rotation_exp_log import log_det_dexp, rotation_exp, rotation_log
from pyro_manifold.ops.special import log_bessel
from pyro_manifold.ops.spectral import SQRT

BATCH = (2, 3, 2)


def positive(*event: int) -> Tensor:
    return torch.rand(BATCH + event, dtype=torch.float64) + 0.5


def matrices(n: int) -> Tensor:
    return torch.randn(BATCH + (n, n), dtype=torch.float64)


def definite(n: int) -> Tensor:
    a = matrices(n)
    return a @ a.mT + torch.eye(n, dtype=torch.float64)


def unit(n: int) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(BATCH + (n,), dtype=torch.float64), dim=-1)


def directions(a: Tensor) -> Tensor:
    """The mean of the direction, of which torch has no closed form."""
    return general_moments(a, a[..., 0])[0]


CASES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[], Tensor]]] = {
    "squared_chord": (lambda x: squared_chord(x, x.roll(1, -1)), lambda: unit(4)),
    "ball_exp": (
        lambda v: ball_exp(torch.tensor(-1.0, dtype=v.dtype), torch.zeros_like(v), v, True),
        lambda: positive(3),
    ),
    "matrix_normalizer": (lambda a: matrix_normalizer(a)[0], lambda: definite(3)),
    "fisher_bingham": (fisher_bingham, lambda: positive(3)),
    "general_moments": (directions, lambda: definite(3)),
    "log_sinhc_gaps": (log_sinhc_gaps, lambda: definite(3)),
    "log_gammainc": (lambda x: log_gammainc(2.5, x), positive),
    "sym_function": (lambda a: sym_function(a, SQRT), lambda: definite(3)),
    "sym_eigenvalues": (sym_eigenvalues, lambda: definite(3)),
    "polar": (polar, lambda: definite(3)),
    "log_radial_integral": (lambda a: log_radial_integral(a, 3), positive),
    "log_normalizer": (lambda s: log_normalizer(s, torch.tensor(-1.0, dtype=s.dtype), 3), positive),
    "log_det_dexp": (log_det_dexp, lambda: positive(6)),
    "rotation_exp": (rotation_exp, lambda: positive(6)),
    "rotation_log": (lambda v: rotation_log(rotation_exp(v)), lambda: 0.3 * positive(6)),
    "log_bessel": (lambda k: log_bessel(k, 1.5), positive),
}


@pytest.mark.parametrize("name", CASES)
def test_elements_are_independent(name: str) -> None:
    torch.manual_seed(0)
    f, make = CASES[name]
    x = make()
    h, flat = torch.randn_like(x), x.flatten(0, len(BATCH) - 1)
    value, slope = torch.func.jvp(f, (x,), (h,))
    each = [torch.func.jvp(f, (a,), (b,)) for a, b in zip(flat, h.flatten(0, len(BATCH) - 1), strict=True)]
    for got, want in ((value, [v for v, _ in each]), (slope, [s for _, s in each])):
        torch.testing.assert_close(got.flatten(0, len(BATCH) - 1), torch.stack(want), rtol=1e-9, atol=1e-10)
    leaf = x.clone().requires_grad_()
    cotangent = torch.randn_like(value)
    (back,) = torch.autograd.grad(f(leaf), leaf, cotangent)
    torch.testing.assert_close((back * h).sum(), (cotangent * slope).sum(), rtol=1e-8, atol=1e-9)
