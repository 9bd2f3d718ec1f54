"""Autoregressive layers: which coordinate depends on which, draws one by one, what the affine layer computes."""

import pytest
import torch

from pyro_manifold.flows import (
    Autoregressive,
    CircularAutoregressive,
    Conditional,
    LatentFlow,
    autoregressive_chain,
)
from pyro_manifold.nn import MaskedMLP

F64 = torch.float64


def moved(module: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(0)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.5 * torch.randn_like(p))
    return module.double()


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("kind", ["affine", "spline"])
def test_jacobian_is_triangular(kind: str, reverse: bool) -> None:
    layer: Autoregressive = moved(Autoregressive(5, kind=kind, reverse=reverse, hidden=(11, 7)))  # type: ignore[assignment]
    y = torch.randn(5, dtype=F64)
    jacobian = torch.autograd.functional.jacobian(lambda v: layer.inverse_and_log_volume(v)[0], y)
    other = jacobian.tril(-1) if reverse else jacobian.triu(1)
    below = jacobian.triu(1) if reverse else jacobian.tril(-1)
    assert not other.any() and (below != 0).sum() >= 9  # of ten; units are few


@pytest.mark.parametrize("dim, hidden", [(1, (3,)), (6, (13, 4)), (4, (2, 3)), (5, (5,))])
def test_draws_one_by_one(dim: int, hidden: tuple[int, ...]) -> None:
    """With and without gradients, with a context of another batch shape, and the inverse of both."""
    conditional: Conditional = moved(Conditional(Autoregressive(dim, hidden=hidden), 2))  # type: ignore[assignment]
    layer = conditional.condition(torch.randn(4, 1, 2, dtype=F64))
    x = torch.randn(3, dim, dtype=F64)
    slow, volume = layer.forward_and_log_volume(x)
    with torch.no_grad():
        fast, same = layer.forward_and_log_volume(x)
    assert fast.shape == (4, 3, dim) and slow.requires_grad and not fast.requires_grad
    torch.testing.assert_close(fast, slow.detach(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(same, volume.detach(), rtol=1e-10, atol=1e-10)
    back, again = layer.inverse_and_log_volume(fast)
    torch.testing.assert_close(back, x.expand(4, 3, dim), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(again, volume, rtol=1e-8, atol=1e-8)
    with torch.no_grad():
        assert layer.forward_and_log_volume(x[:0])[0].shape == (4, 0, dim)


@pytest.mark.parametrize("reverse", [False, True])
def test_draws_of_angles_one_by_one(reverse: bool) -> None:
    """Angles, with and without gradients, with a context of another batch shape."""
    options = dict(reverse=reverse, bins=4, hidden=(7, 5), number=2)
    conditional: Conditional = moved(Conditional(CircularAutoregressive(4, **options), 2))  # type: ignore[assignment, arg-type]
    layer = conditional.condition(torch.randn(3, 1, 2, dtype=F64))
    x = 6 * torch.rand(5, 4, dtype=F64) - 3
    slow, volume = layer.forward_and_log_volume(x)
    with torch.no_grad():
        fast, same = layer.forward_and_log_volume(x)
    torch.testing.assert_close(fast, slow.detach(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(same, volume.detach(), rtol=1e-10, atol=1e-10)
    with torch.no_grad():
        assert layer.forward_and_log_volume(x[:0])[0].shape == (3, 0, 4)


def test_many_dimensions() -> None:
    """Draws of 200 coordinates are inverted in single precision."""
    layer = moved(Autoregressive(200, hidden=(200,))).float()
    x = torch.randn(10, 200)
    with torch.no_grad():
        y = layer(x)  # type: ignore[operator]
        torch.testing.assert_close(layer.inverse_and_log_volume(y)[0], x, rtol=1e-3, atol=1e-3)  # type: ignore[operator]


def test_sequential_is_one_evaluation() -> None:
    """What is found one by one agrees with the network, evaluated once on all."""
    net: MaskedMLP = moved(MaskedMLP(4, 2, 3, (9, 5), context_dim=2))  # type: ignore[assignment]
    seen, context = [], torch.randn(7, 2, dtype=F64)

    def variable(i: int, raw: torch.Tensor) -> torch.Tensor:
        seen.append(raw)
        return torch.stack([raw.sum(-1).sin(), raw[..., 0] + i], -1)

    features = net.sequential(variable, (7,), context)
    torch.testing.assert_close(torch.stack(seen, -2), net(features, context).detach())


def test_chain_is_a_density() -> None:
    """The mean of the ratio p / q over draws of a wider normal q is 1: the density integrates to 1; 4 standard errors
    (a false alarm in 16000)."""
    flow = moved(LatentFlow(2, autoregressive_chain(2, 3, hidden=(6,))))
    torch.manual_seed(1)
    q = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(2, dtype=F64), 6.0), 1)
    x = q.sample((20_000,))
    with torch.no_grad():
        ratio = (flow.condition().log_prob(x) - q.log_prob(x)).exp()  # type: ignore[operator]
    assert float(ratio.mean()) == pytest.approx(1, abs=4 * float(ratio.std()) / 20_000**0.5)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="kind: got 'cubic'"):
        Autoregressive(3, kind="cubic")
    with pytest.raises(ValueError, match="dim"):
        Autoregressive(0)
