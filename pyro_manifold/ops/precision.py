"""Full precision for maps and densities inside ``torch.autocast``.

Autocast computes matrix products in bfloat16 or float16, with about 3 decimal digits: a density would be
wrong in the second digit, and a rotation matrix would not be orthogonal. Functions decorated here run with
autocast off, on arguments converted from half precision to float32. Networks around them still run in half
precision."""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import wraps
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

__all__ = ["FullPrecision", "full_precision"]

_F = TypeVar("_F", bound=Callable[..., Any])
_KINDS = ("cpu", "cuda")


def _promoted(x: Any) -> Any:
    return x.float() if isinstance(x, Tensor) and x.dtype in (torch.float16, torch.bfloat16) else x


def full_precision(f: _F) -> _F:
    """``f`` such that, where autocast is on, it runs with autocast off and without half-precision arguments.

    >>> square = full_precision(lambda x: x @ x)
    >>> with torch.autocast("cpu", dtype=torch.bfloat16):
    ...     square(torch.eye(2)).dtype, square(torch.eye(2).bfloat16()).dtype
    (torch.float32, torch.float32)
    """

    @wraps(f)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if not (torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")):
            return f(*args, **kwargs)
        on = [kind for kind in _KINDS if torch.is_autocast_enabled(kind)]
        with ExitStack() as stack:
            for kind in on:
                stack.enter_context(torch.autocast(kind, enabled=False))
            return f(*map(_promoted, args), **{k: _promoted(x) for k, x in kwargs.items()})

    wrapped._full_precision = True  # type: ignore[attr-defined]
    return wrapped  # type: ignore[return-value]


class FullPrecision:
    """Mixin that decorates the methods and properties named in ``_exact``, also those of subclasses, with
    :func:`full_precision`."""

    _exact: ClassVar[Iterable[str]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in cls._exact:
            member = getattr(cls, name, None)
            if isinstance(member, property):
                if member.fget is not None and not hasattr(member.fget, "_full_precision"):
                    setattr(
                        cls,
                        name,
                        property(full_precision(member.fget), member.fset, member.fdel, member.__doc__),
                    )
            elif (
                callable(member)
                and member is not getattr(object, name, None)
                and not hasattr(member, "_full_precision")
            ):
                setattr(cls, name, full_precision(member))
