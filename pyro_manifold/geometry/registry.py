"""What is known about each class of a family, inherited by subclasses; and the registry of geometries.

Layers that have something of their own to say about a manifold (momenta, base distributions, quadrature
rules) keep it in a :class:`ClassRegistry` by class of geometry.
"""

from typing import TYPE_CHECKING, Any, Generic, TypeVar

import geoopt

if TYPE_CHECKING:
    from collections.abc import Callable

    from .base import Geometry

__all__ = ["ClassRegistry", "geometry", "register_geometry"]

_T = TypeVar("_T")
_G = TypeVar("_G", bound="Callable[[Any], Geometry]")


class ClassRegistry(Generic[_T]):
    """Values by class; a subclass without a value of its own has that of its nearest base class.

    >>> sizes: ClassRegistry[str] = ClassRegistry()
    >>> sizes.register(int)("whole")
    'whole'
    >>> sizes.find(bool), sizes.find(str)
    ('whole', None)
    """

    def __init__(self) -> None:
        self._known: dict[type, _T] = {}

    def register(self, kind: type) -> "Callable[[Any], Any]":
        """Decorator that stores what it decorates for ``kind`` and its subclasses."""

        def decorate(value: Any) -> Any:
            self._known[kind] = value
            return value

        return decorate

    def find(self, kind: type) -> _T | None:
        """The value for ``kind``; ``None`` if neither it nor a base class has one."""
        for cls in kind.__mro__:
            if cls in self._known:
                return self._known[cls]
        return None

    def names(self) -> list[str]:
        """Names of the classes that have a value of their own, sorted."""
        return sorted(cls.__name__ for cls in self._known)


_GEOMETRIES: "ClassRegistry[Callable[[Any], Geometry]]" = ClassRegistry()


def register_geometry(manifold_type: type) -> "Callable[[_G], _G]":
    """Class decorator: make :func:`geometry` answer instances of ``manifold_type`` (and subclasses) with this
    class.

    A factory may be registered as well as a class: anything that maps a manifold to its :class:`Geometry`.
    """
    return _GEOMETRIES.register(manifold_type)


def geometry(manifold: geoopt.Manifold) -> "Geometry":
    """The :class:`Geometry` of a geoopt manifold.

    :raises ValueError: for a manifold (or anything else) without a registered geometry.

    >>> import geoopt
    >>> geometry(geoopt.Sphere()).dim((3,))
    2
    """
    make = _GEOMETRIES.find(type(manifold))
    if make is not None:
        return make(manifold)
    if isinstance(manifold, type):
        seen = f"{manifold.__name__} (the class itself)"
    else:
        seen = type(manifold).__name__
    raise ValueError(
        f"manifold: no geometry is registered for {seen}; expected an instance of one of "
        f"{', '.join(_GEOMETRIES.names())}. Pass e.g. geoopt.Sphere(), or register your own with "
        "pyro_manifold.geometry.register_geometry."
    )
