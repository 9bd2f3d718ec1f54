r"""The one base of all maps, fixed or learned, onto, between and into manifolds.

.. math::
    x \mapsto \big(f(x),\ \log\mathrm{vol}_f(x)\big), \qquad
    \log\mathrm{vol}_f(x) = \tfrac12\log\det J^TJ = \log|\det J| \ \text{ for a bijection}, \qquad
    (x, T) \mapsto \big(f(x),\ J\,T\big)

J is the derivative in orthonormal frames of domain and codomain, so that the volume is the Riemannian one.
Torch's methods of a ``Transform``, and the cache, follow from these three.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Transform
from torch.distributions.transforms import _InverseTransform

from ..ops.memo import Memo
from ..ops.precision import FullPrecision
from ..ops.tracing import is_concrete
from .cache import attributes
from .jvp import forward_mode_jvp

__all__ = ["Inverse", "MapTransform", "SeparateVolume"]


class MapTransform(FullPrecision, Transform, ABC):
    r"""A torch ``Transform`` that gives value and volume together.

    **To write a map**, give

    1. ``domain`` and ``codomain``, any constraints: ``on(manifold)``, ``independent(on(manifold), 3)`` for
       fields of points, ``real_vector``. Their event dimensions say which trailing axes are one point.
    2. :meth:`forward_and_log_volume` and :meth:`inverse_and_log_volume`.
    3. ``forward_shape`` and ``inverse_shape``, where the map changes shapes.
    4. :meth:`jvp`, where it has a closed form, and :meth:`depends`, where the map reads tensors that are not
       among its attributes.

    Where y alone costs less than y with its volume, derive from :class:`SeparateVolume` instead. A map with
    parameters is a :class:`~pyro_manifold.transforms.ModuleTransform`; the base itself is no
    ``nn.Module``, because the exponential map of a wrapped normal is made anew at each step of a guide, and
    a module takes more than twice as long to make.

    The last pair (x, y) is remembered together with the state of all tensors that it was computed from.
    Unlike torch's cache, which asks only whether y is the same object, this one answers only if y, x and all
    that :meth:`depends` names are unchanged, and never where a gradient is asked for that the remembered
    tensors do not carry: the density of a detached draw depends on the parameters through the inverse.

    :param int cache_size: under 1 the inverse of a y that the map has just made is the x it was made from.
    """

    bijective = True
    separate_volume = False
    exact = True  # to rounding? A differential equation is solved to a tolerance

    _exact = (
        "_call",
        "_inverse",
        "__call__",
        "_inv_call",
        "log_abs_det_jacobian",
        "forward_and_log_volume",
        "inverse_and_log_volume",
        "log_volume",
        "jvp",
        "project",
        "reconstruction_error",
    )

    def __init__(self, cache_size: int = 0) -> None:
        super().__init__(cache_size=cache_size)
        self._made = Memo()  # y -> (x, log volume), by the map
        self._inverted = Memo()  # y -> (x, log volume), by its inverse

    # --- the primitives -------------------------------------------------------------------------------------
    @abstractmethod
    def forward_and_log_volume(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """y and the log volume at x, of the batch shape of y (parameters may have one too)."""

    @abstractmethod
    def inverse_and_log_volume(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """x and the log volume at x: that of the map, not of its inverse."""

    def jvp(self, x: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
        """y and the derivative along ``tangents``, shape ``batch + (k,) + event``, by forward-mode
        differentiation; in ambient coordinates."""
        return forward_mode_jvp(self._call, x, tangents, self.domain.event_dim, self.codomain.event_dim)

    def log_volume(self, x: Tensor) -> Tensor:
        """The log volume at x alone."""
        return self.forward_and_log_volume(x)[1]

    # --- what the map is computed from ----------------------------------------------------------------------
    def depends(self) -> list[Any] | None:
        """All tensors (and plain values) besides x that the map reads; ``None`` if they cannot be known, so
        that nothing is remembered. By default those found among the attributes."""
        return attributes(self)

    def with_cache(self, cache_size: int = 1) -> Any:
        """This map, or a copy that shares its tensors, with another ``cache_size``."""
        return self if cache_size == self._cache_size else self._sharing(_cache_size=cache_size, _inv=None)

    def _sharing(self, **new_attributes: Any) -> Any:
        """A shallow copy with some attributes replaced."""
        new = copy.copy(self)
        new.__dict__.update(new_attributes)
        return new

    def clear_cache(self) -> None:
        """Forget the last pair."""
        self._made.clear()
        self._inverted.clear()

    def cached_preimage(self, y: Tensor) -> Tensor | None:
        """The x that ``y`` was made from, if that is known for certain."""
        if not self._cache_size or not is_concrete(y):
            return None
        pair = self._made.get([y], self.depends())
        return None if pair is None else pair[0]

    def check_input(self, x: Tensor, shape: Callable[[torch.Size], torch.Size]) -> None:
        """Called with each x and ``forward_shape``, and with each y and ``inverse_shape``; a map that checks
        them raises from here."""

    # --- the methods of torch -------------------------------------------------------------------------------
    def _call(self, x: Tensor) -> Tensor:
        return self.forward_and_log_volume(x)[0]

    def _inverse(self, y: Tensor) -> Tensor:
        return self.inverse_and_log_volume(y)[0]

    def __call__(self, x: Tensor) -> Tensor:
        self.check_input(x, self.forward_shape)
        if self.separate_volume:
            y, log_volume = self._call(x), None
        else:
            y, log_volume = self.forward_and_log_volume(x)
        if (self._cache_size or log_volume is not None) and is_concrete(x):
            self._made.put([y], self.depends(), [x] if log_volume is None else [x, log_volume])
        return y

    def _inv_call(self, y: Tensor) -> Tensor:
        self.check_input(y, self.inverse_shape)
        x = self.cached_preimage(y)
        if x is not None:
            return x
        if self.separate_volume:
            return self._inverse(y)
        x, log_volume = self.inverse_and_log_volume(y)
        if is_concrete(y):
            self._inverted.put([y], self.depends(), [x, log_volume])
        return x

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        if not self.separate_volume and is_concrete(x) and is_concrete(y):
            for memo in (self._inverted, self._made):
                pair = memo.get([y], self.depends()) if memo.gives(x) else None
                if pair is None or len(pair) == 1:
                    continue
                if torch.is_grad_enabled() and pair[1].requires_grad:
                    memo.replace([x])  # returned once: a backward pass may free its graph
                return pair[1]
        return self.log_volume(x)

    @property
    def inv(self) -> "Inverse":
        return Inverse(self)


class SeparateVolume(MapTransform):
    """A map whose volume is a formula of its own, so that y alone costs less. A subclass gives ``_call``,
    ``_inverse`` and ``log_volume``."""

    separate_volume = True

    @abstractmethod
    def _call(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def _inverse(self, y: Tensor) -> Tensor: ...

    @abstractmethod
    def log_volume(self, x: Tensor) -> Tensor: ...

    def forward_and_log_volume(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._call(x), self.log_volume(x)

    def inverse_and_log_volume(self, y: Tensor) -> tuple[Tensor, Tensor]:
        x = self._inverse(y)
        return x, self.log_volume(x)


class Inverse(_InverseTransform):
    """The inverse of a map, with the primitives of one."""

    def __getstate__(self) -> Any:
        return self.__dict__.copy()  # that of torch leaves out ``_inv``, which here is the map itself

    @property
    def _map(self) -> Any:
        return self._inv

    def forward_and_log_volume(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y, log_volume = self._map.inverse_and_log_volume(x)
        return y, -log_volume

    def inverse_and_log_volume(self, y: Tensor) -> tuple[Tensor, Tensor]:
        x, log_volume = self._map.forward_and_log_volume(y)
        return x, -log_volume

    def jvp(self, x: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
        return forward_mode_jvp(self._call, x, tangents, self.domain.event_dim, self.codomain.event_dim)

    def _call(self, x: Tensor) -> Tensor:
        return self._map._inverse(x)

    def _inverse(self, y: Tensor) -> Tensor:
        return self._map._call(y)
