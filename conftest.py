"""Options, seeds and guards for every test, doctests included; ``tests/cases.py`` is what the generic tests
run over.

``--device`` and ``--dtype`` choose what the ``device`` and ``dtype`` fixtures return. Torch's *default* dtype
stays float32 throughout, so that a constant made without a dtype shows up as a mismatch in the float64 run.
"""

import gc
import random
import zlib
from collections.abc import Iterator
from typing import Any

import geoopt
import numpy as np
import pyro
import pytest
import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="device of the tested tensors (cpu, cuda, cuda:1, ...)")
    parser.addoption(
        "--dtype", default="float64", choices=["float32", "float64"], help="dtype of the tested tensors"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        skip = pytest.mark.skip(reason="needs a CUDA device")
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(skip)


def pytest_collection_finish(session: pytest.Session) -> None:
    """What has been imported and collected stays: the collector of garbage need not look through it again and again,
    which took a twentieth of the suite's time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.config.getoption("--device"))


@pytest.fixture(scope="session")
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return getattr(torch, request.config.getoption("--dtype"))


@pytest.fixture(autouse=True)
def _names(doctest_namespace: dict[str, Any]) -> None:
    """What every doctest may take for granted; the README's example imports its own."""
    doctest_namespace.update(torch=torch, pyro=pyro, geoopt=geoopt)


def _global_state() -> dict[str, Any]:
    return {
        **pyro.settings.get(),
        "torch default dtype": torch.get_default_dtype(),
        "torch default device": torch.get_default_device(),
        "torch grad mode": torch.is_grad_enabled(),
        "torch anomaly mode": torch.is_anomaly_enabled(),
    }


def _seed(seed: int) -> None:
    """As ``pyro.set_rng_seed``. Without a GPU, the generator of the CPU alone: torch notes seeds for devices that are
    not there with the stack of the call, which takes longer than the rest of a small test."""
    if torch.cuda.is_available():
        pyro.set_rng_seed(seed)
        return
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


@pytest.fixture(autouse=True)
def _isolation(request: pytest.FixtureRequest) -> Iterator[None]:
    """A seed that depends on the test's name alone, a parameter store of its own, and no global setting left
    changed."""
    _seed(zlib.crc32(request.node.nodeid.encode()))
    before = _global_state()
    with pyro.get_param_store().scope():
        yield
    after = _global_state()
    changed = {k: (before[k], after[k]) for k in before if before[k] != after[k]}
    if changed:
        pyro.settings.set(**{k: v for k, v in before.items() if k in pyro.settings.get()})
        torch.set_default_dtype(before["torch default dtype"])
        torch.set_default_device(before["torch default device"])
        torch.set_grad_enabled(before["torch grad mode"])
        torch.autograd.set_detect_anomaly(before["torch anomaly mode"])
        pytest.fail(f"the test left global state changed (before, after): {changed}")
