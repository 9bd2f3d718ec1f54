"""Every check of ``pyro_manifold.testing`` on every case of the registry."""

from collections.abc import Collection
from typing import Any

import pyro
import pytest
import torch
from cases import (
    DISTRIBUTIONS,
    GEOMETRIES,
    MODULES,
    TRANSFORMS,
    DistributionCase,
    GeometryCase,
    ModuleCase,
    TransformCase,
    tensors,
)
from torch import Tensor

from pyro_manifold.geometry import geometry
from pyro_manifold.testing import (
    DISTRIBUTION_CHECKS,
    GEOMETRY_CHECKS,
    MODULE_CHECKS,
    TRANSFORM_CHECKS,
    NotApplicable,
    check_precision,
    check_stress,
)

# These do not depend on accuracy beyond float32, so the default run repeats only the others in the second
# dtype.
FLOAT32_CHECKS = ("shapes", "gradients_of_log_prob")


def apply(check: Any, *args: Any) -> None:
    """Run a check; one that does not apply is a skip with its reason, never a pass."""
    try:
        check(*args)
    except NotApplicable as reason:
        pytest.skip(f"does not apply: {reason}")


@pytest.mark.parametrize(
    "cases, checks",
    [
        (GEOMETRIES, GEOMETRY_CHECKS),
        (TRANSFORMS, TRANSFORM_CHECKS),
        (DISTRIBUTIONS, DISTRIBUTION_CHECKS),
        (MODULES, MODULE_CHECKS),
    ],
    ids=["geometries", "transforms", "distributions", "modules"],
)
def test_skips_name_checks(cases: list[Any], checks: Any) -> None:
    """A misspelt key of ``skip`` would skip nothing, one for a check long gone would say what is no longer
    so."""
    wrong = [f"{case.name}: {key}" for case in cases for key in case.skip if key not in checks]
    assert not wrong, f"skip names no check: {wrong}; the checks are {', '.join(checks)}"
    names = [case.name for case in cases]
    assert len(set(names)) == len(names), "two cases have one name"


# Compiling is a third of the registry's cost: the default run does it once for each kind of normaliser and of
# manifold.
COMPILED_BY_ANOTHER = {
    "uniform-S1",
    "uniform-scaled-S2",
    "uniform-SO4",
    "wrapped-S1",
    "wrapped-S1xH2",
    "wrapped-SO4-truncated",
    "wrapped-scaled-S2",
    "wrapped-S2-tril",
    "wrapped-ball-tril",
    "wrapped-torus-tril",
    "vmf-S1",
    "vmf-S3",
    "power-spherical-S1",
    "projected-normal-S3",
    "bingham-S1",
    "kent-S3",
    "watson-S1",
    "watson-S3",
    "fisher-bingham-S1",
    "inverse-wishart-1",
    "matrix-fisher",
    "pushforward-flow",
    "uniform-on-curve",
}


def _marks(case: Any, check: str, slow: Collection[str]) -> list[Any]:
    if check in case.skip:
        return [pytest.mark.skip(reason=case.skip[check])]
    again = check in ("one_graph", "compilation") and case.name in COMPILED_BY_ANOTHER
    return [pytest.mark.slow] if again or check in slow else []


def product(cases: list[Any], checks: Any, slow: Collection[str] = ()) -> list[Any]:
    """One test for each case and check, those named slow ones; what a case cannot hold is marked with its reason, not
    left out."""
    assert {case.name for case in DISTRIBUTIONS} >= COMPILED_BY_ANOTHER
    return [
        pytest.param(
            case,
            check,
            id=f"{case.name}-{check}",
            marks=_marks(case, check, slow),
        )
        for case in cases
        for check in checks
        if check != "compilation" or "one_graph" in case.skip  # what compiles to one graph compiles
    ]


@pytest.mark.parametrize("case, check", product(GEOMETRIES, GEOMETRY_CHECKS))
def test_geometry(case: GeometryCase, check: str, dtype: torch.dtype, device: torch.device) -> None:
    apply(
        GEOMETRY_CHECKS[check],
        geometry(case.manifold()),
        case.dim,
        torch.empty((), dtype=dtype, device=device),
    )


# which axes belong to one element does not depend on the dtype
@pytest.mark.parametrize("case, check", product(GEOMETRIES, GEOMETRY_CHECKS, slow=["batch_axes"]))
def test_geometry_float32(case: GeometryCase, check: str, device: torch.device) -> None:
    apply(
        GEOMETRY_CHECKS[check],
        geometry(case.manifold()),
        case.dim,
        torch.empty((), dtype=torch.float32, device=device),
    )


@pytest.mark.parametrize("case, check", product(TRANSFORMS, TRANSFORM_CHECKS))
def test_transform(case: TransformCase, check: str, dtype: torch.dtype, device: torch.device) -> None:
    apply(TRANSFORM_CHECKS[check], *case.build(dtype=dtype, device=device))


# what is remembered is found by which tensors these are, and whether they have changed, and what is pickled is all
# attributes: neither depends on the dtype
@pytest.mark.parametrize(
    "case, check", product(TRANSFORMS, TRANSFORM_CHECKS, slow=["changed_values", "jvp", "pickling"])
)
def test_transform_float32(case: TransformCase, check: str, device: torch.device) -> None:
    apply(TRANSFORM_CHECKS[check], *case.build(dtype=torch.float32, device=device))


@pytest.mark.parametrize("case, check", product(DISTRIBUTIONS, DISTRIBUTION_CHECKS))
def test_distribution(case: DistributionCase, check: str, dtype: torch.dtype, device: torch.device) -> None:
    apply(DISTRIBUTION_CHECKS[check], case.make, tensors(case.params, dtype=dtype, device=device))


@pytest.mark.parametrize("case, check", product(DISTRIBUTIONS, FLOAT32_CHECKS))
def test_distribution_float32(case: DistributionCase, check: str, device: torch.device) -> None:
    apply(DISTRIBUTION_CHECKS[check], case.make, tensors(case.params, dtype=torch.float32, device=device))


@pytest.mark.parametrize("dtype_", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize(
    "case, changed",
    [pytest.param(c, s, id=f"{c.name}-{i}") for c in DISTRIBUTIONS for i, s in enumerate(c.stress)],
)
def test_stress(
    case: DistributionCase, changed: dict[str, Any], dtype_: torch.dtype, device: torch.device
) -> None:
    check_stress(case.make, tensors({**case.params, **changed}, dtype=dtype_, device=device))


@pytest.mark.parametrize(
    "case, changed",
    [pytest.param(c, s, id=f"{c.name}-{i}") for c in DISTRIBUTIONS for i, s in enumerate(c.extremes)],
)
def test_precision(case: DistributionCase, changed: dict[str, Any], device: torch.device) -> None:
    check_precision(case.make, tensors({**case.params, **changed}, device=device))


@pytest.mark.parametrize("case, check", product(MODULES, MODULE_CHECKS))
def test_module(case: ModuleCase, check: str, dtype: torch.dtype, device: torch.device) -> None:
    apply(MODULE_CHECKS[check], case.make, torch.tensor(case.inputs, dtype=dtype, device=device), case.call)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler has many to give
@pytest.mark.parametrize(  # the compiler cannot trace the making of a flow, which seeds its weights
    "case", [c for c in DISTRIBUTIONS if c.params and c.name != "pushforward-flow"], ids=lambda c: c.name
)
def test_gradients_of_what_the_compiler_made(case: DistributionCase, device: torch.device) -> None:
    """In the value and in every parameter: the default backend has made wrong ones without a word."""
    params = tensors(case.params, dtype=torch.float64, device=device)

    def log_prob(x: Tensor, *values: Tensor) -> Tensor:
        return case.make(**dict(zip(params, values, strict=True))).log_prob(x)

    with pyro.validation_enabled(False):
        leaves = [
            t.detach().clone().requires_grad_() for t in (case.make(**params).sample((20,)), *params.values())
        ]
        torch._dynamo.reset()
        value, compiled = log_prob(*leaves), torch.compile(log_prob)(*leaves)
        torch.testing.assert_close(compiled, value, rtol=1e-9, atol=1e-9)
        for a, b in zip(
            *(torch.autograd.grad(y.sum(), leaves, materialize_grads=True) for y in (compiled, value)),
            strict=True,
        ):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)
