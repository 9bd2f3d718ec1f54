"""Flows and densities inside ``torch.autocast``: networks in half precision, volumes in full."""

import geoopt
import pyro
import pytest
import torch
from torch import nn
from torch.distributions import kl_divergence

from pyro_manifold import flows, models
from pyro_manifold.distributions import AngularCentralGaussian, ManifoldUniform, WrappedNormal
from pyro_manifold.nn import ManifoldEncoder

both = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)


@both
def test_a_flow_trains_as_without(dtype: torch.dtype) -> None:
    """Loss and gradients are those outside autocast, to rounding of float32."""
    torch.manual_seed(0)
    flow = flows.LatentFlow(2, flows.coupling_chain(2, 2, hidden=(5,)))
    with torch.no_grad():
        for p in flow.parameters():
            p.add_(0.3 * torch.randn_like(p))
    x = torch.randn(20, 2)
    losses, gradients = [], []
    for on in (False, True):
        with torch.autocast("cpu", dtype=dtype, enabled=on):
            loss = -flow.condition(None).log_prob(x).mean()
        losses.append(loss)
        gradients.append(torch.autograd.grad(loss, list(flow.parameters())))
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*gradients)


@both
def test_a_manifold_flow_scores_as_without(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.randn(30, 3) * torch.tensor([3.0, 2.0, 0.1])
    flow = models.ManifoldFlow.from_data(x, 2, hidden=(5,), latent_hidden=(5,))
    expected = flow.log_prob(x)
    with torch.autocast("cpu", dtype=dtype):
        torch.testing.assert_close(flow.log_prob(x), expected)


@both
def test_heads_of_half_precision_make_distributions_of_single(dtype: torch.dtype) -> None:
    """What a network gives under autocast is a parameter as it is, though the manifold's points are
    float32."""
    torch.manual_seed(0)
    ball, net = geoopt.PoincareBall(), nn.Linear(3, 2)
    encoder = ManifoldEncoder(ball, 3, 5, 2)
    x = torch.randn(7, 3)
    with torch.autocast("cpu", dtype=dtype):
        d = WrappedNormal(ball, torch.zeros(2), nn.functional.softplus(net(x)))
        q = WrappedNormal(ball, *encoder(x))
        assert d.rsample().dtype == q.rsample().dtype == torch.float32
        assert q.log_prob(q.rsample()).dtype == torch.float32
    assert net(x).dtype == torch.float32  # autocast changed nothing that lasts


@both
def test_divergences(dtype: torch.dtype) -> None:
    p, q = (
        AngularCentralGaussian(torch.tensor([[1.0, 0.0], [0.5, 0.7]])),
        ManifoldUniform(geoopt.Sphere(), (2,)),
    )
    expected = kl_divergence(p, q)
    with torch.autocast("cpu", dtype=dtype):
        torch.testing.assert_close(kl_divergence(p, q), expected)
        torch.testing.assert_close(p.entropy(), AngularCentralGaussian(p.scale_tril).entropy())


@both
def test_vae_takes_a_step(dtype: torch.dtype) -> None:
    pyro.set_rng_seed(0)
    vae = models.PoincareVAE(geoopt.PoincareBall(), dim=2, data_dim=3, hidden=5)
    x = torch.rand(8, 3).round()
    with torch.autocast("cpu", dtype=dtype):
        loss = pyro.infer.Trace_ELBO().differentiable_loss(vae.model, vae.guide, x)
    loss.backward()
    assert loss.isfinite() and all(p.grad is None or bool(p.grad.isfinite().all()) for p in vae.parameters())
