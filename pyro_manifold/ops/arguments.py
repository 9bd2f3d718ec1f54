""":func:`checked` compares the arguments of a call with the annotations and raises an error that names the
argument.

The signature alone says what kind of number, tensor, manifold or function an argument must be; the function
itself checks only which values it may have."""

import collections.abc
import functools
import inspect
import numbers
import types
import typing
from collections.abc import Callable
from typing import Any, TypeVar, overload

import geoopt
import numpy as np
from torch import Tensor

from .checks import check_dtype
from .tracing import is_traced

__all__ = ["checked"]

_F = TypeVar("_F", bound=Callable[..., Any])
_WORDS: dict[Any, str] = {
    Tensor: "a floating tensor",
    int: "an integer",
    float: "a number",
    bool: "True or False",
    str: "a string",
    geoopt.Manifold: "a manifold such as geoopt.Sphere()",
    type(None): "None",
}


def _words(hint: Any) -> str:
    """An annotation in words."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_words(a) for a in args)
    if origin is collections.abc.Callable:
        return "a function"
    if origin is tuple and args and args[-1] is not ...:
        return f"{len(args)} values"
    if origin is not None and issubclass(origin, collections.abc.Mapping):
        return f"a dictionary with {_words(args[1])} for each name"
    if origin is not None:
        return f"a sequence, each element {_words(args[0])}"
    return _WORDS.get(hint) or f"a {getattr(hint, '__name__', hint)}"


def _fits(value: Any, hint: Any) -> bool:
    """Whether the value matches the annotation; true for annotations that are not supported."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or isinstance(hint, TypeVar):
        return True
    if origin in (typing.Union, types.UnionType):
        if Tensor in args and isinstance(value, numbers.Real) and not isinstance(value, bool):
            return True  # a number in place of a tensor: its value is checked by the function
        return any(_fits(value, a) for a in args)
    if hint is None or hint is type(None):
        return value is None
    if origin is collections.abc.Callable or hint is collections.abc.Callable:
        return callable(value)
    if hint is bool:
        return isinstance(value, (bool, np.bool_))
    if hint is int:
        return isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if hint is float:
        return isinstance(value, numbers.Real) and not isinstance(value, bool) and value == value
    if hint is Tensor:
        return isinstance(value, Tensor) and value.dtype.is_floating_point and not value.is_meta
    kind = origin or hint
    if not isinstance(kind, type):
        return True
    if (
        not isinstance(value, kind)
        or isinstance(value, (str, Tensor))
        and kind is not str
        and origin is not None
    ):
        return False
    if origin is None or not args:
        return True
    if isinstance(value, collections.abc.Mapping):
        return all(_fits(k, args[0]) and _fits(v, args[1]) for k, v in value.items())
    if isinstance(value, tuple) and kind is tuple and args[-1] is not ...:
        return len(value) == len(args) and all(_fits(v, a) for v, a in zip(value, args, strict=True))
    return not isinstance(value, collections.abc.Iterable) or all(_fits(v, args[0]) for v in value)


def _takes_tensors(hint: Any) -> bool:
    return hint is Tensor or Tensor in typing.get_args(hint)


def _describe(value: Any) -> str:
    """A short description of the value for an error message."""
    if isinstance(value, Tensor):
        return f"a tensor of {value.dtype} on {value.device}"
    if isinstance(value, np.ndarray):
        return f"a numpy array of shape {value.shape}"
    if isinstance(value, type):
        return f"the class {value.__name__} itself"
    text = repr(value)
    return text if len(text) < 60 else f"a {type(value).__name__}"


def _remedy(name: str, value: Any, hint: Any) -> str:
    if isinstance(value, str) and str in typing.get_args(hint):
        return f" Put it into a list: [{value!r}]."
    if isinstance(value, np.ndarray):
        return f" Convert it with torch.as_tensor({name})."
    if isinstance(value, Tensor) and value.is_meta:
        return " It has a shape but no values; make it on the CPU or a GPU."
    if isinstance(value, type):
        return f" Make an instance, {value.__name__}(...)."
    return ""


def _hints(f: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(f)
    except NameError:  # a name that only type checkers import
        return {}


@overload
def checked(function: _F, /) -> _F: ...
@overload
def checked(**least: float) -> Callable[[_F], _F]: ...
def checked(function: Any = None, /, **least: float) -> Any:
    """Decorator: a call whose arguments do not match the annotations raises a ``ValueError`` that names the
    argument, what was given, what is expected, and how to convert it.

    Tensors must be floating and not on the meta device, booleans do not count as integers, numbers must not
    be NaN. Elements of sequences and dictionaries are checked too.

    :param least: the smallest value that a named numeric argument may have.

    >>> @checked(n=1)
    ... def power(x: Tensor, n: int = 2) -> Tensor:
    ...     return x**n
    >>> power(torch.ones(2), n=0)
    Traceback (most recent call last):
    ValueError: n: got 0, expected an integer of at least 1.
    >>> power(np.ones(2))
    Traceback (most recent call last):
    ValueError: x: got a numpy array of shape (2,), expected a floating tensor. Convert it with torch.as_tensor(x).
    """
    if function is None:
        return functools.partial(_decorated, least=least)
    return _decorated(function, {})


def _test(hint: Any, low: float | None) -> Callable[[Any], bool]:
    """:func:`_fits` for one annotation, faster for common values: the annotation is analysed once."""
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    tensors, none = Tensor in options, type(None) in options or hint is None
    number = low is None and (float in options or (tensors and len(options) > 1))
    special = (int, float, bool, Tensor, type(None), Any)
    kinds = tuple(
        o for o in options if isinstance(o, type) and typing.get_origin(o) is None and o not in special
    )

    def fits(value: Any) -> bool:
        if value is None and none:
            return True
        if tensors and isinstance(value, Tensor):
            return value.is_floating_point() and not value.is_meta
        kind = type(value)
        if kind is bool:
            return bool in options or _fits(value, hint)
        if number and (kind is int or kind is float and value == value) or kinds and isinstance(value, kinds):
            return True
        return _fits(value, hint) and not (
            low is not None and isinstance(value, numbers.Real) and value < low
        )

    return fits


def _checker(
    f: Callable[..., Any], least: dict[str, float]
) -> Callable[[tuple[Any, ...], dict[str, Any]], None]:
    """A function that raises for bad arguments of ``f``. It reads the annotations when it is first called."""
    signature = inspect.signature(f)
    kinds = {n: p.kind for n, p in signature.parameters.items()}
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    named = [n for n, kind in kinds.items() if kind in by_position]
    skipped = {
        n
        for n, kind in kinds.items()
        if kind in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    }
    hints: dict[str, Any] = {}
    tests: dict[str, Callable[[Any], bool]] = {}
    in_order: list[Callable[[Any], bool] | None] = []

    def refuse(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError:  # a missing or unknown argument, for which Python raises
            return
        for name, value in given.items():
            if name in tests and not tests[name](value):
                hint, low = hints[name], least.get(name)
                expected = _words(hint) + ("" if low is None else f" of at least {low}")
                if _fits(value, hint):
                    raise ValueError(f"{name}: got {value!r}, expected {expected}.")
                if _takes_tensors(hint):
                    check_dtype(name, value)
                raise ValueError(
                    f"{name}: got {_describe(value)}, expected {expected}.{_remedy(name, value, hint)}"
                )

    def check(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not hints:
            hints.update(_hints(f), **{"return": None})
            for n in kinds.keys() & hints.keys() - skipped - {"self", "cls"}:
                tests[n] = _test(hints[n], least.get(n))
            in_order.extend(map(tests.get, named))
        for test, value in zip(in_order, args):  # noqa: B905 (the rest are *args)
            if test is not None and not test(value):
                refuse(args, kwargs)
        for name, value in kwargs.items():
            if name in tests and not tests[name](value):
                refuse(args, kwargs)

    return check


def _decorated(f: _F, least: dict[str, float]) -> _F:
    check = _checker(f, least)

    @functools.wraps(f)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if not is_traced():
            check(args, kwargs)
        return f(*args, **kwargs)

    return typing.cast(_F, wrapper)
