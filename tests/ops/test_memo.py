"""A remembered result is used only while everything behind it is as it was."""

import copy
import pickle

import pytest
import torch
from torch import Tensor

from pyro_manifold.ops.memo import Memo, Snapshot


def through_numpy(x: Tensor) -> None:
    x.detach().numpy()[...] += 1.0


CHANGES = {
    "in place": lambda x: x.detach().add_(1.0),
    "through data": lambda x: x.data.add_(1.0),
    "through numpy": through_numpy,
    "other memory": lambda x: setattr(x, "data", x.data + 1.0),
    "a leaf": lambda x: x.requires_grad_(not x.requires_grad),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("which", ["argument", "dependency", "result"])
def test_any_change_is_seen(change: str, which: str) -> None:
    x, w, y = torch.ones(3), torch.ones(2), torch.ones(4)
    memo = Memo()
    memo.put([x], [w, 2.0], [y, None])
    found = memo.get([x], [w, 2.0])
    assert found is not None and found[0] is y and found[1] is None
    CHANGES[change]({"argument": x, "dependency": w, "result": y}[which])
    assert memo.get([x], [w, 2.0]) is None


def test_other_objects_and_values_are_told_apart() -> None:
    x, w = torch.ones(3), torch.ones(2)
    memo = Memo()
    memo.put([x], [w, 2.0], [x])
    assert memo.get([x.clone()], [w, 2.0]) is None
    assert memo.get([x], [w.clone(), 2.0]) is None
    assert memo.get([x], [w, 3.0]) is None
    assert memo.get([x], [w]) is None
    assert memo.get([x], None) is None
    big = torch.zeros(1 << 21)
    before = Snapshot([big])
    assert before.same_as([big])
    big[7] = 1.0
    assert not before.same_as([big])


def test_a_result_without_a_graph_gives_no_gradient() -> None:
    x, w = torch.ones(3), torch.ones(3, requires_grad=True)
    memo = Memo()
    with torch.no_grad():
        memo.put([x], [w], [x * w])
        assert memo.get([x], [w]) is not None
    assert memo.get([x], [w]) is None


def test_copies_are_empty_and_inference_tensors_are_not_remembered() -> None:
    x = torch.ones(3, requires_grad=True)
    memo = Memo()
    memo.put([x], [], [x * 2])  # not a leaf: torch refuses to copy it
    for other in (copy.deepcopy(memo), pickle.loads(pickle.dumps(memo))):
        assert other.get([x], []) is None
    with torch.inference_mode():
        y = torch.ones(2)
        memo.put([y], [], [y])
    assert memo.get([y], []) is None


def test_nothing_traced_is_remembered() -> None:
    memo = Memo()

    def f(x: Tensor) -> Tensor:
        y = x * 2
        memo.put([x], [], [y])
        assert not memo.gives(y) and memo.get([x], []) is None
        return y

    torch.func.vmap(f)(torch.ones(3))
