"""Codebooks: averages against a loop, dead codes, usage, training, retirement, bad input."""

import math
from typing import Any

import pytest
import torch

from pyro_manifold.nn import VectorQuantizer, VQAutoencoder
from pyro_manifold.nn.quantizer import CodeUsage
from pyro_manifold.training import Phase, fit

CLOUDS = torch.cat(
    [torch.randn(60, 3, generator=torch.Generator().manual_seed(i)) + 15 * i for i in range(3)]
)


def test_averages_against_a_loop() -> None:
    q = VectorQuantizer(torch.tensor([[0.0, 0.0], [4.0, 4.0]]), decay=0.9, restart=0.0)
    share, total = [0.5, 0.5], [torch.zeros(2), torch.tensor([2.0, 2.0])]
    torch.manual_seed(0)
    for _ in range(3):
        z = 2 * torch.randn(7, 2) + 2
        near = [int((z[i] - q.codes).norm(dim=-1).argmin()) for i in range(7)]
        assert q.update(z) == 0
        for k in range(2):
            own = [z[i] for i in range(7) if near[i] == k]
            share[k] = 0.9 * share[k] + 0.1 * len(own) / 7
            total[k] = 0.9 * total[k] + 0.1 * sum(own, torch.zeros(2)) / 7
            torch.testing.assert_close(q.codes[k], total[k] / share[k])


def test_straight_through() -> None:
    q = VectorQuantizer(torch.tensor([[0.0, 0.0], [4.0, 4.0]]))
    z = torch.tensor([[1.0, 0.5]], requires_grad=True)
    (g,) = torch.autograd.grad((q(z) * torch.tensor([2.0, -3.0])).sum(), z)
    assert g.tolist() == [[2.0, -3.0]] and q(z).tolist() == [[0.0, 0.0]]


def test_dead_codes_are_restarted() -> None:
    """Two codes far from all data: both come back, at features of the batch."""
    q = VectorQuantizer(torch.tensor([[0.0], [1e3], [-1e3]]), decay=0.8)
    torch.manual_seed(0)
    restarted = sum(q.update(torch.randn(50, 1)) for _ in range(40))
    z = torch.randn(2000, 1)
    assert restarted >= 2 and int(q.usage(z).counts.min()) > 100
    assert q.usage(z).perplexity > 2.5
    lazy = VectorQuantizer(torch.tensor([[0.0], [1e3], [-1e3]]), decay=0.8, restart=0.0)
    assert sum(lazy.update(torch.randn(50, 1)) for _ in range(40)) == 0
    assert lazy.usage(z).perplexity == 1.0


def test_usage() -> None:
    use = CodeUsage.of(torch.tensor([30, 10, 0]))
    assert use.perplexity == pytest.approx(math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)))


def test_retired_codes_take_no_rows() -> None:
    q = VectorQuantizer(torch.tensor([[0.0], [0.1], [5.0]]))
    z = torch.tensor([[-1.0], [-2.0], [0.2], [5.0], [6.0]])
    assert q.retire(z, 2) == 1 and q.assign(z).tolist() == [0, 0, 0, 2, 2]
    assert q.distances(z)[:, 1].isinf().all()
    with pytest.raises(ValueError, match="z: got 5 rows; expected at least 9"):
        q.retire(z, 9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_trains_and_resumes(dtype: torch.dtype, tmp_path: Any) -> None:
    """Nine codes that start in one of three clouds: the error falls, gradients reach encoder and decoder, all codes are used; a run
    that was stopped ends with the same codes."""
    x = CLOUDS.to(dtype)

    class Stop(Exception):
        pass

    def train(path: Any, stop: int | None) -> VQAutoencoder:
        torch.manual_seed(0)
        vq = VQAutoencoder.from_data(x, 9, hidden=(16,), decay=0.8)
        with torch.no_grad():
            vq.quantizer.codes.copy_(vq.encoder(x[:9]))
        calls = 0

        def loss(rows: torch.Tensor) -> torch.Tensor:
            nonlocal calls
            calls += torch.is_grad_enabled()
            if stop is not None and calls == stop:
                raise Stop
            return vq.loss(rows)

        phase = Phase("AE", loss, list(vq.parameters()), epochs=20, lr=2e-3)
        if stop is None:
            history = fit([phase], x, model=vq, batch_size=30, checkpoint=path, disable_progbar=True)
            assert min(history.losses["AE"]) < 0.1 * history.start["AE"]
        else:
            with pytest.raises(Stop):
                fit([phase], x, model=vq, batch_size=30, checkpoint=path, disable_progbar=True)
        return vq

    whole = train(None, None)
    train(tmp_path / "run.pt", 20)
    resumed = train(tmp_path / "run.pt", None)
    torch.testing.assert_close(resumed.quantizer.codes, whole.quantizer.codes, rtol=0, atol=0)
    assert whole.quantizer.codes.dtype == dtype
    assert int(whole.usage(x).counts.min()) > 0 and whole.usage(x).perplexity > 5


def test_validation_moves_no_code() -> None:
    vq = VQAutoencoder.from_data(CLOUDS, 3, hidden=(4,))
    before = vq.quantizer.codes.clone()
    with torch.no_grad():
        vq.loss(CLOUDS[:20])
    assert torch.equal(vq.quantizer.codes, before)
    vq.loss(CLOUDS[:20])
    assert not torch.equal(vq.quantizer.codes, before)


@pytest.mark.parametrize(
    "make, match",
    [
        (
            lambda: VectorQuantizer.from_data(torch.randn(5, 2), 6),
            "codes: got 6 for rows of shape .5, 2., of which 5",
        ),
        (lambda: VectorQuantizer.from_data(torch.ones(9, 2), 2), "of which 1 are distinct"),
        (lambda: VQAutoencoder.from_data(torch.randn(5, 2), 6), "codes: got 6"),
        (lambda: VQAutoencoder.from_data(torch.ones(5, 2), 1), "x, code_dim: got rows of shape"),
        (
            lambda: VQAutoencoder.from_data(torch.randn(5, 2), 1, 3),
            "x, code_dim: got rows of shape .5, 2. and 3",
        ),
        (lambda: VQAutoencoder.from_data(torch.randn(5, 2) * math.nan, 1), "x: got nan"),
        (lambda: VectorQuantizer(torch.zeros(3)), r"codes: got shape \(3,\)"),
        (lambda: VectorQuantizer(torch.zeros(3, 1), decay=1.0), "decay: got 1"),
        (lambda: VectorQuantizer(torch.zeros(3, 1)).assign(torch.zeros(4, 2)), r"z: got shape \(4, 2\)"),
        (
            lambda: VectorQuantizer(torch.zeros(3, 1)).update(torch.full((4, 1), math.nan)),
            "z: got features that are",
        ),
    ],
)
def test_bad_input(make: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()


def test_empty_batch() -> None:
    q = VectorQuantizer(torch.zeros(3, 2))
    assert q(torch.zeros(0, 2)).shape == (0, 2) and q.update(torch.zeros(0, 2)) == 0
