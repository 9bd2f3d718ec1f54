"""Flows of several scales: the wavelet is orthogonal and local, pieces act where they should, an image
manifold is learned."""

from typing import Any

import pytest
import torch
from cases import learned
from torch.distributions import ExpTransform

from pyro_manifold.datasets import image_manifold
from pyro_manifold.flows import (
    Coupling,
    Haar,
    InjectiveFlow,
    LatentFlow,
    LULinear,
    Partial,
    coupling_chain,
    multiscale_layers,
)
from pyro_manifold.models import ManifoldFlow
from pyro_manifold.training import fit_md
from pyro_manifold.transforms import Pad
from pyro_manifold.transforms.jvp import forward_mode_jvp, half_log_det_gram


def test_haar_is_orthogonal_and_its_first_band_is_the_half_size_image() -> None:
    haar = Haar(4, 6)
    matrix = haar(torch.eye(24, dtype=torch.float64))
    torch.testing.assert_close(matrix @ matrix.mT, torch.eye(24, dtype=torch.float64))
    x = torch.rand(3, 24, dtype=torch.float64)
    z = haar.inv(x)
    torch.testing.assert_close(haar(z), x)
    mean = torch.nn.functional.avg_pool2d(x.reshape(3, 1, 4, 6), 2).flatten(1)
    torch.testing.assert_close(z[:, :6], 2 * mean)
    stripes = torch.tensor([1.0, -1.0]).repeat(
        12
    )  # columns in turn: all of it in the band of horizontal differences
    assert torch.equal(haar.inv(stripes).nonzero().squeeze(-1), torch.arange(6, 12))


def test_among_composes_and_sums_its_layers() -> None:
    layers: list[Any] = [learned(Coupling(3, [1])).double(), ExpTransform(), learned(LULinear(3)).double()]
    f = Partial(5, 3, layers).double()
    x = torch.randn(4, 5, dtype=torch.float64)
    J = torch.func.vmap(torch.func.jacfwd(f))(x)
    torch.testing.assert_close(f.log_abs_det_jacobian(x, f(x)), torch.linalg.slogdet(J)[1])
    torch.testing.assert_close(f.inv(f(x)), x)
    assert torch.equal(f(x)[:, 3:], x[:, 3:])
    assert {id(p) for p in f.parameters()} == {
        id(p) for layer in (layers[0], layers[2]) for p in layer.parameters()
    }


def test_volume_of_several_scales_is_exact() -> None:
    g = learned(
        InjectiveFlow(
            Pad(3, 64), multiscale_layers(torch.rand(80, 64), (8, 8), 3, levels=2, depth=2, hidden=(9,))
        )
    ).double()
    u = torch.randn(5, 3, dtype=torch.float64)
    auto = half_log_det_gram(forward_mode_jvp(g, u, torch.eye(3, dtype=torch.float64).expand(5, 3, 3))[1])
    torch.testing.assert_close(g.log_volume(u), auto, rtol=0, atol=1e-10)
    torch.testing.assert_close(g.inv(g(u)), u)


@pytest.mark.slow
def test_learns_images_of_two_factors() -> None:
    torch.manual_seed(0)
    x = image_manifold(2, size=16, num=600, seed=0).images.flatten(1)
    g = InjectiveFlow(Pad(2, 256), multiscale_layers(x, (16, 16), 2, levels=1, depth=2, hidden=(64, 64)))
    flow = ManifoldFlow(g, LatentFlow(2, coupling_chain(2, 2, hidden=(16,))))
    test = image_manifold(2, size=16, num=300, seed=1).images.flatten(1)
    before = flow.ood_score(test).mean()
    fit_md(flow, x, epochs=(8, 0), lr=1e-2, batch_size=50, disable_progbar=True)
    assert flow.ood_score(test).mean() < 0.5 * before


@pytest.mark.parametrize(
    "make, match",
    [
        (lambda: Haar(3, 4), "height, width: got 3 and 4; expected even"),
        (lambda: Partial(3, 4, []), "first: got 4 of 3"),
        (lambda: Partial(3, 2, [LULinear(3)]), "layers: number 0 is LULinear.*vectors of size 2"),
        (lambda: multiscale_layers(torch.rand(9, 64), (4, 8), 2), "x, dim: got rows of 64"),
        (lambda: multiscale_layers(torch.rand(9, 64), (8, 8), 5, levels=2), "x, dim: got rows of 4 and n=5"),
    ],
)
def test_bad_input(make: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()
