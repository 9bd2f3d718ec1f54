"""The primitives of all maps: of chains, inverses and fields of points, against torch's own and against
automatic differentiation."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import geoopt
import pytest
import torch
from cases.transforms import learned
from torch.distributions import AffineTransform, ComposeTransform, ExpTransform, IndependentTransform

from pyro_manifold import flows
from pyro_manifold.transforms import ExpMap, Pad
from pyro_manifold.transforms.chain import Chain, as_map

F64 = torch.float64


def coupling() -> flows.Coupling:
    return learned(flows.Coupling(3, [0, 2])).double()


TRANSFORMS: dict[str, Callable[[], Any]] = {
    "foreign": lambda: AffineTransform(1.0, torch.tensor([-2.0, 0.5, 1.0], dtype=F64), event_dim=1),
    "inverse": lambda: coupling().inv,
    "foreign inverse": lambda: IndependentTransform(AffineTransform(1.0, 2.0).inv, 1),
    "chain": lambda: ComposeTransform([coupling(), AffineTransform(0.1, 0.5), coupling().inv]),
    "inverse of a chain": lambda: ComposeTransform([coupling(), AffineTransform(0.1, 2.0)]).inv,
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_primitives_of_any_transform(name: str) -> None:
    t = TRANSFORMS[name]()
    f = as_map(t, event_dim=1)
    x = 0.5 * torch.randn(5, 3, dtype=F64)
    y, log_volume = f.forward_and_log_volume(x)
    torch.testing.assert_close(y, t(x))
    J = torch.func.vmap(torch.func.jacrev(f))(x)
    torch.testing.assert_close(log_volume, torch.linalg.slogdet(J)[1])
    torch.testing.assert_close(f.inverse_and_log_volume(y), (x, log_volume))
    tangents = torch.randn(5, 2, 3, dtype=F64)
    torch.testing.assert_close(f.jvp(x, tangents), (y, tangents @ J.mT))


def test_fields_of_points() -> None:
    """A field of 4 x 2 positive definite matrices: volumes are summed, tangents keep their places."""
    loc = torch.tensor([[1.5, 0.3], [0.3, 0.7]], dtype=F64)
    exp = ExpMap(geoopt.SymmetricPositiveDefinite(), loc)
    f = Chain([IndependentTransform(exp, 2)])
    v = torch.randn(5, 4, 2, 3, dtype=F64)
    y, log_volume = f.forward_and_log_volume(v)
    assert y.shape == (5, 4, 2, 2, 2) and f.codomain.event_dim == 4
    torch.testing.assert_close(log_volume, exp.log_volume(v).sum((-1, -2)))
    tangents = torch.randn(6, 4, 2, 3, dtype=F64)
    moved = f.jvp(v, tangents)[1]
    assert moved.shape == (5, 6, 4, 2, 2, 2)
    wanted = torch.stack([torch.func.jvp(exp, (v,), (t.expand_as(v),))[1] for t in tangents], 1)
    torch.testing.assert_close(moved, wanted)


def test_a_flow_that_holds_an_inverse_is_copied() -> None:
    g = flows.InjectiveFlow(Pad(2, 3), [coupling().inv, ComposeTransform([ExpTransform().inv.inv])]).double()
    u = torch.randn(4, 2, dtype=F64)
    for other in (copy.deepcopy(g), pickle.loads(pickle.dumps(g))):
        torch.testing.assert_close(other(u), g(u))
        torch.testing.assert_close(other.log_volume(u), g.log_volume(u))
        assert all(a is not b for a, b in zip(g.parameters(), other.parameters(), strict=True))
