"""The options of a geodesic kernel: what each must be, and when it may be set."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["Isometry", "Option"]

Isometry = Callable[[Tensor], Tensor]
Check = Callable[[str, Any], Any]
ISOMETRIES: dict[str, Isometry] = {
    "antipode": torch.neg,
    "quaternion sign": torch.neg,
}  # x -> -x: axes, unit quaternions


class Option:
    """An attribute that is checked when it is set, in the constructor or later.

    :param check: from the option's name and a value to the value that is kept.
    :param bool live: does it act on a run that is under way? If not, setting it during one raises.
    """

    def __init__(self, check: Check, live: bool = False) -> None:
        self.check, self.live = check, live

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, kernel: Any, owner: type) -> Any:
        return self if kernel is None else kernel._options[self.name]

    def __set__(self, kernel: Any, value: Any) -> None:
        if kernel._running and not self.live:
            raise RuntimeError(
                f"{self.name}: a run is under way and would not heed it; set it before, or call cleanup() "
                f"first."
            )
        kernel._options[self.name] = self.check(self.name, value)


def positive(name: str, x: Any) -> float:
    if not (isinstance(x, int | float) and 0 < x < math.inf):
        raise ValueError(f"{name}: got {x}, expected a positive finite number.")
    return float(x)


def probability(name: str, x: Any) -> float:
    if not (isinstance(x, float) and 0 < x < 1):
        raise ValueError(f"{name}: got {x}, expected a number between 0 and 1, e.g. 0.8.")
    return x


def whole(name: str, x: Any) -> int:
    if isinstance(x, bool) or not isinstance(x, int) or x < 1:
        raise ValueError(f"{name}: got {x}, expected an integer of at least 1.")
    return x


def nesting(name: str, x: Any) -> int | None:
    if x is not None and (isinstance(x, bool) or not isinstance(x, int) or x < 0):
        raise ValueError(f"{name}: got {x}, expected a number of nested plates, or None to find it.")
    return x


def boolean(name: str, x: Any) -> bool:
    if not isinstance(x, bool):
        one = " (one block for all ordinary sites)" if name == "full_mass" else ""
        raise ValueError(f"{name}: got {x!r}, expected True or False{one}.")
    return x


def choice(*values: str) -> Check:
    def check(name: str, x: Any) -> str:
        if x not in values:
            raise ValueError(
                f"{name}: got {x!r}, expected {', '.join(map(repr, values[:-1]))} or {values[-1]!r}."
            )
        return x

    return check


def compilation(name: str, x: Any) -> bool | str:
    if not (isinstance(x, bool) or x == "trace"):
        raise ValueError(
            f'{name}: got {x!r}, expected True (torch.compile), "trace" (recorded operators, which needs no compiler '
            "and no time for it) or False."
        )
    return x


def function(name: str, x: Any) -> Callable[..., Any]:
    if not callable(x):
        raise ValueError(f"{name}: got {x!r}, expected a function.")
    return x


def isometries_of(name: str, given: Mapping[str, str | Isometry] | None) -> dict[str, Isometry]:
    """Functions by site; those that have a name may be given by it."""
    out: dict[str, Isometry] = {}
    for site, f in (given or {}).items():
        if isinstance(f, str) and f not in ISOMETRIES:
            raise ValueError(
                f"{name}: got {f!r} for {site!r}, expected one of {sorted(ISOMETRIES)} or a function."
            )
        out[site] = ISOMETRIES[f] if isinstance(f, str) else f
    return out


def mass_of(name: str, given: Any) -> dict[tuple[str, ...], Tensor] | None:
    """Blocks of an inverse mass matrix, positive: variances, or a covariance."""
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise ValueError(
            f"{name}: got {type(given).__name__}, expected a dict from tuples of site names to variances."
        )
    out = {}
    for sites, value in given.items():
        key, x = (sites,) if isinstance(sites, str) else tuple(sites), torch.as_tensor(value)
        good = x.is_floating_point() and bool(x.isfinite().all())
        if good and x.dim() == 2:
            good = x.shape[0] == x.shape[1] and int(torch.linalg.cholesky_ex(x).info) == 0
        if not good or x.dim() > 2 or (x.dim() < 2 and not bool((x > 0).all())):
            raise ValueError(
                f"{name}: got {value} for {key}, expected positive variances or a positive definite matrix."
            )
        out[key] = x.detach().clone()
    return out
