"""The training loop: optimisers, schedules, starts and reviews of phases, and runs that go on after an
interruption."""

import contextlib
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pyro_manifold.training import CheckpointError, History, Phase, TrainingWarning, fit, verdict

X = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
Y = X @ torch.tensor([[1.0], [2.0]])
quick = partial(fit, disable_progbar=True, batch_size=10)


def line() -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(2, 1)


def phase(net: nn.Linear, **options: Any) -> Phase:
    loss = lambda x, y: (net(x) - y).square().mean()  # noqa: E731
    return Phase("net", loss, list(net.parameters()), **{"lr": 0.1, "epochs": 3, **options})


def test_optimisers_and_schedules_are_those_of_torch() -> None:
    """Plain gradient descent whose rate halves every four batches, against a loop written here."""
    net, other = line(), line()
    options = {"optimizer": partial(torch.optim.SGD, lr=0.2), "clip": math.inf}
    options["schedule"] = partial(torch.optim.lr_scheduler.StepLR, step_size=4, gamma=0.5)
    history = quick([phase(net, **options)], (X, Y), model=net, validation=None, seed=5)
    means = []
    for turn in range(3):
        losses = []
        generator = torch.Generator().manual_seed(5 + 1 + turn)
        for b, index in enumerate(torch.randperm(60, generator=generator).split(10)):
            loss = (other(X[index]) - Y[index]).square().mean()
            grads = torch.autograd.grad(loss, list(other.parameters()))
            with torch.no_grad():
                for p, grad in zip(other.parameters(), grads, strict=True):
                    p -= 0.2 * 0.5 ** ((6 * turn + b) // 4) * grad
            losses.append(float(loss.detach()))
        means.append(sum(losses) / 6)
    torch.testing.assert_close(list(net.parameters()), list(other.parameters()))
    assert history.losses["net"] == pytest.approx(means)  # without validation: those of the batches


@pytest.mark.filterwarnings("ignore::pyro_manifold.training.TrainingWarning")
def test_rows_for_validation_of_their_own() -> None:
    """They are those of the losses, and are not trained on: their targets are wrong."""
    net = line()
    history = quick([phase(net, epochs=40)], (X, Y), model=net, validation=(X[:7], Y[:7] + 3))
    assert history.losses["net"][-1] == pytest.approx(9.0, abs=0.1)  # the wrong ones are 3 off in the end
    best = min(history.start["net"], *history.losses["net"])
    assert float((net(X[:7]) - Y[:7] - 3).square().mean().detach()) == pytest.approx(best, rel=1e-5)
    alone = torch.nn.Linear(1, 1)
    loss = Phase("net", lambda x: alone(x).square().mean(), list(alone.parameters()), epochs=2)
    quick([loss], X[:, :1], model=alone, validation=X[:3, :1])
    loss = Phase("net", lambda x, y: alone(x).square().mean(), list(alone.parameters()), epochs=2)
    quick([loss], (X[:, :1], None), model=alone, validation=X[:3, :1])  # a context that is not there


def test_gradients_are_shortened() -> None:
    net, before = line(), line()
    options = {"optimizer": partial(torch.optim.SGD, lr=1.0), "clip": 1e-3, "epochs": 1}
    constant = partial(torch.optim.lr_scheduler.ConstantLR, factor=1.0)
    quick([phase(net, schedule=constant, **options)], (X, Y), model=net, batch_size=60, validation=None)
    moved = torch.cat([(p - q).flatten() for p, q in zip(net.parameters(), before.parameters(), strict=True)])
    assert float(moved.detach().norm()) == pytest.approx(1e-3, rel=1e-3)


def test_phases_follow_each_other_or_take_turns() -> None:
    for together in (False, True):
        net, seen = line(), []

        def noted(name: str) -> Phase:
            def loss(x: Tensor, y: Tensor) -> Tensor:
                if torch.is_grad_enabled():
                    seen.append(name)  # noqa: B023
                return (net(x) - y).square().mean()  # noqa: B023

            return Phase(name, loss, list(net.parameters()), epochs=2, lr=1e-3)  # noqa: B023

        pair = [noted("a"), noted("b")]
        history = quick([pair] if together else pair, (X, Y), model=net, batch_size=30, validation=None)
        assert "".join(seen) == ("aabbaabb" if together else "aaaabbbb")
        assert {name: len(v) for name, v in history.losses.items()} == {"a": 2, "b": 2}


@pytest.mark.filterwarnings("ignore::pyro_manifold.training.TrainingWarning")
@pytest.mark.parametrize("go_on", [True, False])
def test_a_start_is_gone_on_from_if_it_is_better_or_says_so(go_on: bool) -> None:
    net = line()
    before = [p.clone() for p in net.parameters()]

    @torch.no_grad()
    def spoil(loop: Any) -> bool:
        assert len(loop.train_index) == 54 and loop.batches == 6
        net.weight.mul_(100.0)
        return go_on

    history = quick([phase(net, start=spoil, lr=1e-9, epochs=1)], (X, Y), model=net)
    assert history.losses["net"][0] == pytest.approx(history.start["net"], rel=1e-3) or go_on
    torch.testing.assert_close([p.detach() for p in net.parameters()], before)  # the best, in either case
    assert (history.losses["net"][0] > 100 * history.start["net"]) == go_on

    @torch.no_grad()
    def solve(loop: Any) -> bool:
        net.weight.copy_(torch.tensor([[1.0, 2.0]]))
        net.bias.zero_()
        return False

    other = replace(phase(net, start=solve, epochs=0), name="first")
    history = quick([other, phase(net, start=solve, lr=1e-9)], (X, Y), model=net)
    assert history.start["net"] == pytest.approx(0, abs=1e-10)


def test_noise_of_a_resumed_run_is_that_of_one_in_one_piece(tmp_path: Path) -> None:
    """Also where a scheduler and an optimiser with momentum have a memory; the caller's generator is left."""
    options: dict[str, Any] = {"optimizer": partial(torch.optim.SGD, lr=0.05, momentum=0.9)}
    options["schedule"] = partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.9)
    ends = []
    for stop_at in (math.inf, 9):
        net, calls, stop = line(), 0, stop_at

        def loss(x: Tensor, y: Tensor) -> Tensor:
            nonlocal calls
            calls += torch.is_grad_enabled()
            if calls > stop:  # noqa: B023
                raise KeyboardInterrupt
            return (net(x) - y + torch.randn_like(y)).square().mean()  # noqa: B023

        noisy = Phase("net", loss, list(net.parameters()), epochs=3, **options)
        path = None if stop_at == math.inf else tmp_path / "run.pt"
        state = torch.get_rng_state()
        try:
            quick([noisy], (X, Y), model=net, checkpoint=path)
        except KeyboardInterrupt:
            net, stop = line(), math.inf
            noisy = Phase("net", loss, list(net.parameters()), epochs=3, **options)
            state = torch.get_rng_state()
            quick([noisy], (X, Y), model=net, checkpoint=path)
        assert torch.equal(state, torch.get_rng_state())
        assert calls == (18 if stop_at == math.inf else 10 + 12)
        ends.append([p.detach() for p in net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    net, path = line(), tmp_path / "run.pt"
    history = quick([phase(net)], (X, Y), model=net, checkpoint=path, settings={"c": 1})
    again = line()
    assert quick([phase(again)], (X, Y), model=again, checkpoint=path, settings={"c": 1}) == history
    for match, x, options in (
        ("data differs", X + 1, {}),
        ("c was 1, is 2", X, {"settings": {"c": 2}}),
        ("batch_size was 10, is 20", X, {"batch_size": 20}),
    ):
        again = line()
        with pytest.raises(CheckpointError, match=match):
            quick([phase(again)], (x, Y), model=again, checkpoint=path, **{"settings": {"c": 1}, **options})


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"lr": 0.2}, "lr of net was 0.1, is 0.2"),
        ({"warmup": 0.5}, "warmup of net was 0.05, is 0.5"),
        ({"clip": 1.0}, "clip of net was 5.0, is 1.0"),
        ({"seconds": 9.0}, "seconds of net was inf, is 9.0"),
        ({"average": 0.9}, "average of net was None, is 0.9"),
        ({"optimizer": partial(torch.optim.SGD, lr=0.1)}, "optimizer of net differs"),
        (
            {"schedule": partial(torch.optim.lr_scheduler.ConstantLR, factor=1.0)},
            "schedule of net was None, is",
        ),
    ],
)
def test_a_checkpoint_of_another_phase_is_refused(
    tmp_path: Path, options: dict[str, Any], match: str
) -> None:
    """Else the rest of the run would be trained in another way than its beginning."""
    for own, refused in (({}, False), ({}, False), (options, True)):
        net = line()
        with pytest.raises(CheckpointError, match=match) if refused else contextlib.nullcontext():
            quick([phase(net, **own)], (X, Y), model=net, checkpoint=tmp_path / "run.pt")


def test_validation_is_in_evaluation_mode() -> None:
    """Without dropout, and without a look of a batch norm at the rows for validation; a part that is frozen in
    evaluation mode stays there in training."""
    net = nn.Sequential(
        nn.Linear(2, 4), nn.BatchNorm1d(4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1)
    )
    net[2].eval()
    seen: list[tuple[bool, ...]] = []

    def loss(x: Tensor, y: Tensor) -> Tensor:
        seen.append((torch.is_grad_enabled(), *(part.training for part in net)))
        return (net(x) - y).square().mean()

    def review(*_: Any) -> list[str]:
        seen.append((False, *(part.training for part in net)))
        return []

    def prepare(*data: Tensor) -> tuple[Tensor, ...]:
        return review() or data

    net[4].bias.requires_grad_(False)  # a frozen parameter among those of a phase stays what it is
    only = Phase("net", loss, net.parameters(), epochs=2, prepare=prepare, review=review)
    quick([only], (X, Y), model=net)
    assert seen.count((True, True, True, False, True, True)) == 2 * 6
    assert seen.count((False,) * 6) == len(seen) - 2 * 6 == 2 + 3
    assert int(net[1].num_batches_tracked) in (
        0,
        6,
        12,
    )  # of batches of training only, up to the best weights


def test_a_phase_without_time_left_tells_no_loss() -> None:
    net = nn.ModuleList([nn.Linear(2, 1), nn.Linear(2, 1)])
    ticks = iter(range(10**6))

    def some(i: int) -> Phase:
        loss = lambda x: (net[i](x) - 1).square().mean()  # noqa: E731
        return Phase("ab"[i], loss, list(net[i].parameters()), epochs=5, seconds=6.0)

    clock = lambda: float(next(ticks))  # noqa: E731
    history = quick([[some(0), some(1)]], X, model=net, validation=None, clock=clock)
    assert len(history.losses["a"]) == 1 and history.losses["b"] == []


def test_writes_are_apart_by_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyro_manifold.training.run import RunFile

    saves, save = [], RunFile.save
    monkeypatch.setattr(RunFile, "save", lambda self, run: (saves.append(run.done), save(self, run)))
    ticks = iter(range(10**6))
    for every, expected in ((0.0, [0, 1, 2, 3, 3]), (math.inf, [0, 3])):
        saves.clear()
        net = line()
        quick(
            [phase(net)], (X, Y), model=net, checkpoint=tmp_path / f"{every}", save_every=every,
            clock=lambda: float(next(ticks)),
        )  # fmt: skip
        assert saves == expected


def test_what_is_said_of_losses() -> None:
    assert verdict("D", 1.0, []) == [] == verdict("D", 1.0, [0.5, 0.6, 0.55])
    for losses, said in (
        ([1.0, 2.0], "no pass improved on the start"),
        ([0.5, 2.0], "diverging: the validation loss ends above its start"),
        ([math.nan, 0.5, 2.0], "diverging"),
        ([0.5, *[0.7] * 5], "has not fallen for 5 of 6 passes"),
    ):
        (text,) = verdict("D", 1.0, losses)
        assert said in text and text.startswith("phase D: ")
    assert verdict("D", 1.0, [0.5, *[0.54] * 5]) == []  # a tenth of what was gained
    assert verdict("D", 1.0, [0.5, *[0.9] * 4, 0.52]) == []  # it has come back
    assert verdict("D", 1.0, [1.05], margin=0.1) == []
    assert History(losses={"D": [2.0, 1.0, 3.0, 4.0]}).passes_since_best("D") == 2
    net = line()
    with pytest.warns(TrainingWarning, match="phase net: no pass improved") as caught:
        history = quick([phase(net, lr=1e4, warmup=0.0)], (X, Y), model=net)
    assert caught[0].filename == __file__ and history.warnings == [str(caught[0].message)]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"validation": 1.0}, "validation: got 1.0; expected a share"),
        ({"validation": X}, r"validation: got tensors of shapes \[\(60, 2\)\] for data of shapes"),
        ({"validation": (X, Y[:, :0])}, r"shapes \[\(60, 2\), \(60, 0\)\] for data of shapes .*\(60, 1\)"),
        ({"validation": (X, Y[:3])}, "as many rows in each"),
        ({"batch_size": 0}, "batch_size: got 0"),
        ({"data": (X, Y[:3])}, r"data: got tensors of \[3, 60\] rows"),
        ({"data": (X[:0], Y[:0])}, "data: got tensors of .0. rows"),
        ({"data": (X * math.nan, Y)}, "data: the loss of phase net is nan in batch 0"),
        ({"validation": (X.double(), Y.double())}, "dtypes .*float64.* for .*float32"),
        ({"phases": []}, r"phases: got \[\]; expected at least one"),
        ({"phases": [[]]}, r"phases: got \[\]; expected at least one"),
        ({"phases": [phase(line())] * 2}, "phases: got .'net', 'net'.; expected .* names that differ"),
        ({"phases": [phase(line())]}, "parameters: phase net has 2, .* and 2 are not the model's"),
        ({"phase": {"parameters": []}}, "parameters: phase net has 0"),
        (
            {"phase": {"parameters": line().requires_grad_(False).parameters()}},
            "2, of which 0 ask for a gradient",
        ),
        ({"phase": {"parameters": [1.0]}}, "parameters: got .1.0. for phase net; expected parameters"),
        (
            {"phase": {"loss": lambda x, y: (x - y).square()}},
            r"loss is a tensor of shape \(10, 2\) without a grad",
        ),
        ({"phase": {"loss": lambda x, y: 1.0}}, "phase net stops in batch 0: the loss is float"),
        ({"phase": {"loss": None}}, "loss: got None for phase net"),
        ({"phase": {"name": 3}}, "name: got 3 for phase 3"),
        ({"phase": {"epochs": -1}}, "epochs: got -1 for phase net; expected passes"),
        ({"phase": {"epochs": 2.5}}, "epochs: got 2.5"),
        ({"phase": {"epochs": True}}, "epochs: got True"),
        ({"phase": {"lr": -1.0}}, "lr: got -1.0"),
        ({"phase": {"lr": math.nan}}, "lr: got nan"),
        ({"phase": {"warmup": 2.0}}, "warmup: got 2.0"),
        ({"phase": {"clip": 0.0}}, "clip: got 0.0"),
        ({"phase": {"clip": -1.0}}, "clip: got -1.0"),
        ({"phase": {"seconds": math.nan}}, "seconds: got nan"),
        ({"phase": {"average": 2.0}}, "average: got 2.0"),
    ],
)
def test_bad_input(options: dict[str, Any], match: str) -> None:
    net, options = line(), dict(options)
    data, phases, own = options.pop("data", (X, Y)), options.pop("phases", None), options.pop("phase", {})
    with pytest.raises(ValueError, match=match):
        quick([replace(phase(net), **own)] if phases is None else phases, data, model=net, **options)
    with torch.no_grad(), pytest.raises(ValueError, match="fit: gradients are switched off"):
        quick([phase(net)], (X, Y), model=net)
