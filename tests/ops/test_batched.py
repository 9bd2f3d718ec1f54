"""Shared factors are not copied to every vector: values against plain broadcasting, and the elements that are
allocated."""

import geoopt
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import pyro_manifold.distributions as mdist
from pyro_manifold.ops.batched import apply_matrix, solve_lower
from pyro_manifold.transforms import Rotation


class Largest(TorchDispatchMode):
    """The most elements of memory that one operator returned."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, tuple | list) else (out,):
            if isinstance(t, Tensor):
                self.elements = max(self.elements, t.untyped_storage().nbytes() // max(1, t.element_size()))
        return out


SHAPES = [
    ((), ()),
    ((), (5,)),
    ((3,), (5, 3)),
    ((3,), ()),
    ((3, 1), (4,)),
    ((1, 4), (3, 1)),
    ((2, 1, 4), (6, 2, 3, 4)),
]
SHAPES.append(((), (0,)))


@pytest.mark.parametrize("one, other", SHAPES)
def test_values(one: tuple[int, ...], other: tuple[int, ...]) -> None:
    a = torch.randn(one + (3, 3), dtype=torch.float64).tril() + 3 * torch.eye(3, dtype=torch.float64)
    x = torch.randn(other + (3,), dtype=torch.float64)
    torch.testing.assert_close(apply_matrix(a, x), (a @ x.unsqueeze(-1)).squeeze(-1))
    y = (a @ solve_lower(a, x).unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(y, x.expand(torch.broadcast_shapes(one, other) + (3,)))


def test_gradients_through_expand() -> None:
    a = (torch.randn(3, 3, dtype=torch.float64) + 3 * torch.eye(3, dtype=torch.float64)).requires_grad_()
    x = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, x: solve_lower(a.tril().expand(4, 3, 3), x), (a, x))
    assert torch.autograd.gradcheck(lambda a, x: apply_matrix(a.expand(4, 3, 3), x), (a, x))


N, D = 400, 40
EYE = torch.eye(D)
LOC = torch.zeros(N, D)
SPHERE = torch.nn.functional.normalize(torch.ones(D), dim=-1)
CONCENTRATIONS = torch.linspace(1.0, 2.0, N)
FAMILIES = {
    "acg": lambda: mdist.AngularCentralGaussian(EYE),
    "acg-expanded": lambda: mdist.AngularCentralGaussian(EYE).expand((N,)),
    "acg-expanded-factor": lambda: mdist.AngularCentralGaussian(EYE.expand(N, D, D)),
    "bingham": lambda: mdist.Bingham(EYE),
    "kent": lambda: mdist.Kent(EYE, 3.0, 1.0),
    "kent-concentrations": lambda: mdist.Kent(EYE, CONCENTRATIONS, 0.1),
    "projected-normal": lambda: mdist.ProjectedNormal(SPHERE),
    "wrapped-centres": lambda: mdist.WrappedNormal(geoopt.PoincareBall(), LOC, scale_tril=EYE),
    "wrapped-sphere": lambda: mdist.WrappedNormal(geoopt.Sphere(), SPHERE, scale_tril=0.01 * EYE[1:, 1:]),
    "rotated": lambda: torch.distributions.TransformedDistribution(
        mdist.VonMisesFisher(SPHERE, 3.0), [Rotation(EYE)]
    ),
}


@pytest.mark.parametrize("distribution", FAMILIES)
def test_memory_is_that_of_the_data(distribution: str) -> None:
    """Scores and draws of 400 points of R^40 with a shared factor hold no copy of it for each point."""
    d = FAMILIES[distribution]()
    shape = torch.Size([] if d.batch_shape == (N,) else [N])
    with Largest() as seen:
        x = d.sample(shape)
        d.log_prob(x.clone())
    assert x.shape == (N, D)
    assert seen.elements < N * D * D, f"{seen.elements} elements at once, for {N * D} of data"
