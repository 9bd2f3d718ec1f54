"""Does a neural module keep torch's contract: batches, gradients, state, copies, dtype?"""

import copy
import pickle
from collections.abc import Callable, Collection
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from ._changes import moved, same, tensors_behind
from ._tools import close, finite
from .not_applicable import NotApplicable, run_checks

__all__ = ["MODULE_CHECKS", "check_module"]

Call = Callable[[nn.Module, Tensor], Any]


def _output(call: Call, module: nn.Module, x: Tensor) -> Tensor:
    """What the call returns, as one tensor with the rows of ``x`` in front."""
    out = call(module, x)
    parts = out if isinstance(out, tuple) else (out,)
    return torch.cat([p.flatten(1) for p in parts], 1)


def _batches(make: Callable[[], nn.Module], x: Tensor, call: Call) -> None:
    """Rows do not mix; the dtype is that of the input; the same input gives the same output."""
    module = make().to(x)
    y = _output(call, module, x)
    assert y.dtype == x.dtype and y.device == x.device
    finite(y, "output")
    close(_output(call, module, x[1:]), y[1:], "rows of the batch are mixed", 10)


def _gradients(make: Callable[[], nn.Module], x: Tensor, call: Call) -> None:
    """Every trainable parameter gets a gradient, a finite one, and not all zero."""
    module = make().to(x)
    used = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
    if not used:
        raise NotApplicable("the module has no trainable parameters")
    y = _output(call, module, x)
    (y * torch.randn_like(y)).sum().backward()
    for name, p in used:
        assert p.grad is not None, f"no gradient reaches {name}"
        finite(p.grad, f"gradient of {name}")
    assert any(bool(p.grad.any()) for _, p in used if p.grad is not None), "all gradients are zero"


def _state(make: Callable[[], nn.Module], x: Tensor, call: Call) -> None:
    """``state_dict``, deep copies and pickles carry everything the output depends on."""
    module = make().to(x)
    y = _output(call, module, x)
    other = make().to(x)
    other.load_state_dict(module.state_dict())
    for twin in (other, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        close(_output(call, twin, x), y, "the output of a copy")
    assert repr(module)


def _changed_values(make: Callable[[], nn.Module], x: Tensor, call: Call) -> None:
    """With its parameters fixed, the module gives of an input what it gives of a copy, whichever parameter,
    buffer or input has changed in place since it was last called. (At most eight of the parameters and
    buffers, evenly spaced.)"""
    module, x = make().to(x).requires_grad_(False), x.clone()
    behind = list(tensors_behind(module))
    for name, tensor in (("the input", x), *behind[:: 1 + len(behind) // 8]):
        _output(call, module, x)
        with moved(tensor), pyro.validation_enabled(False):  # weights that are moved no longer add up to 1
            same(
                _output(call, module, x),
                _output(call, module, x.clone()),
                f"the output after {name} changed in place",
            )


MODULE_CHECKS: dict[str, Callable[[Callable[[], nn.Module], Tensor, Call], None]] = {
    f.__name__.strip("_"): f for f in (_batches, _gradients, _state, _changed_values)
}


def check_module(
    make: Callable[[], nn.Module],
    x: Tensor,
    call: Call = lambda module, x: module(x),
    skip: Collection[str] = (),
) -> dict[str, str]:
    """Run every check of :data:`MODULE_CHECKS`.

    :param make: returns a freshly initialised module.
    :param Tensor x: a batch of inputs, ``(n,) + event`` with n >= 2; its dtype and device are those of the
        check.
    :param call: what to do with module and input; must be deterministic and return a tensor or a tuple of
        tensors.
    :param skip: names of checks to leave out.
    :returns: the checks that do not apply, each with its reason.
    :raises AssertionError: naming what does not hold.

    >>> check_module(lambda: torch.nn.Linear(3, 2), torch.randn(4, 3))
    {}
    """
    return run_checks(MODULE_CHECKS, skip, make, x, call)
