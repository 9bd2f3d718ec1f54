import math

import pytest
import torch

from pyro_manifold.datasets import branching_diffusion, digits, train_test_split


def test_branching_diffusion_sizes_and_standardisation() -> None:
    x, node = branching_diffusion(seed=3)
    assert x.shape == (635, 50) and torch.equal(node.bincount(), torch.full((127,), 5))
    x = x.double()
    assert torch.allclose(x.mean(0), torch.zeros(50).double(), atol=1e-5)
    assert torch.allclose(x.square().mean(0), torch.ones(50).double(), atol=1e-5)
    # so the trivial model N(0, I) costs exactly 25 log 2 pi + 25 = 70.95 nats per row
    # (reference/protocols.md, 2a)
    trivial = 25 * math.log(2 * math.pi) + 0.5 * x.square().sum(-1).mean()
    assert abs(float(trivial) - 70.9469) < 1e-3


def test_branching_diffusion_variances() -> None:
    # wide rows make the sample variances sharp: relative sd of each mean square is sqrt(2 / n), n >= 126 *
    # 4000: 0.2%
    x, node = branching_diffusion(
        dim=4000, variance=2.0, copies=2, noise_factor=4.0, standardize=False, seed=0
    )
    x = x.double()
    first, second = x[0::2], x[1::2]
    noise = (first - second).square().mean() / 2
    assert abs(float(noise) / (2.0 / 4.0) - 1) < 0.01
    child = torch.arange(1, 127)
    parent = (child - 1) // 2
    step = (first[child] - first[parent]).square().mean()
    assert abs(float(step) / (2.0 + 2 * 0.5) - 1) < 0.01  # a variance, not a standard deviation
    assert abs(float(first[0].square().mean()) / 0.5 - 1) < 0.15  # the root is 0; sd of this ratio 2.2%
    assert torch.equal(node, torch.arange(127).repeat_interleave(2))


def test_seeds_are_honoured_and_private() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    a, b, c = branching_diffusion(seed=1)[0], branching_diffusion(seed=1)[0], branching_diffusion(seed=2)[0]
    assert torch.equal(a, b) and not torch.allclose(a, c)
    assert torch.equal(digits()[0], digits()[0]) and not torch.equal(digits()[0], digits(seed=1)[0])
    assert torch.equal(torch.get_rng_state(), before)


def test_digits() -> None:
    x, label = digits()
    grey, _ = digits(binarize=False)
    assert x.shape == (1797, 64) and label.shape == (1797,) and label.unique().tolist() == list(range(10))
    assert set(x.unique().tolist()) == {0.0, 1.0} and grey.max() == 1 and grey.min() == 0
    assert bool((x[grey == 0] == 0).all()) and bool((x[grey == 1] == 1).all())
    # 115008 Bernoulli draws: the mean pixel has sd at most sqrt(0.25 / 115008) = 0.0015; 5 sd, false alarm
    # 6e-7
    assert abs(float(x.mean() - grey.mean())) < 0.0075


def test_split_is_a_partition_shared_by_all_tensors() -> None:
    i = torch.arange(635)
    (a, b), (c, d) = train_test_split(i, -i, seed=4)
    assert len(a) == 444 and len(b) == 191
    assert torch.equal(torch.cat([a, b]).sort().values, i)
    assert torch.equal(a, -c) and torch.equal(b, -d)
    assert not torch.equal(a, train_test_split(i, seed=5)[0][0])


@pytest.mark.parametrize(
    "call, match",
    [
        (lambda: branching_diffusion(dim=0), "dim: got 0"),
        (lambda: branching_diffusion(depth=-1), "depth: got -1"),
        (lambda: branching_diffusion(copies=1.5), "copies: got 1.5"),  # type: ignore[arg-type]
        (lambda: branching_diffusion(variance=-1.0), "variance: got -1.0"),
        (lambda: branching_diffusion(noise_factor=float("nan")), "noise_factor: got nan"),
        (lambda: branching_diffusion(depth=0, copies=1), "standardize"),
        (lambda: train_test_split(), "tensors: none"),
        (lambda: train_test_split(torch.zeros(3), torch.zeros(4)), r"differ, \[3, 4\]"),
        (lambda: train_test_split(torch.zeros(3), train=1.5), "train: the fraction 1.5"),
        (lambda: train_test_split(torch.zeros(3), train=0.1), "train: the fraction 0.1"),
    ],
)
def test_bad_input(call, match) -> None:
    with pytest.raises(ValueError, match=match):
        call()
