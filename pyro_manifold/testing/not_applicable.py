"""A check that has nothing to look at says so: it does not pass in silence."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

__all__ = ["NotApplicable", "run_checks"]


class NotApplicable(Exception):
    """Raised by a check that does not apply, with the reason; make it a visible skip in your own tests.

    >>> from pyro_manifold.testing import TRANSFORM_CHECKS
    >>> from torch.distributions.transforms import AbsTransform
    >>> try:
    ...     TRANSFORM_CHECKS["inverse"](AbsTransform(), torch.randn(3))
    ... except NotApplicable as reason:
    ...     print(reason)
    the map has no inverse
    """


def run_checks(
    checks: Mapping[str, Callable[..., None]], skip: Collection[str], *args: Any
) -> dict[str, str]:
    """Call every check that is not in ``skip``; return those that did not apply, with the reason of each.

    :raises ValueError: for a name in ``skip`` that is no check.
    """
    unknown = sorted(set(skip) - set(checks))
    if unknown:
        raise ValueError(f"skip: got {unknown}, expected names of checks: {', '.join(checks)}.")
    reasons = {}
    for name, check in checks.items():
        if name in skip:
            continue
        try:
            check(*args)
        except NotApplicable as reason:
            reasons[name] = str(reason)
    return reasons
