r"""Tangent coordinates of the parameters of a distribution, in which its likelihood is maximised and its
information is taken.

Each parameter has coordinates :math:`\theta` that are 0 at its present value: those of an orthonormal frame for
a point of a manifold, differences for numbers, rotation angles for a frame.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...geometry import Geometry
from ...geometry.registry import ClassRegistry
from ...ops.matrix_exp import matrix_exp
from ...ops.orthogonal import hat

__all__ = [
    "CHARTS",
    "Chart",
    "Coordinates",
    "Frame",
    "Number",
    "Point",
    "Shape",
    "SumZero",
    "Symmetric",
    "Tril",
]


class Coordinates(ABC):
    """Coordinates of one parameter, ``value`` of shape ``batch + event``."""

    twice = True  # has the log density a second derivative in them by autograd?

    @abstractmethod
    def size(self, value: Tensor) -> int:
        """How many there are."""

    @abstractmethod
    def moved(self, value: Tensor, theta: Tensor) -> Tensor:
        """The parameter with coordinates ``theta``, ``batch + (size,)``, in float64."""

    def inside(self, value: Tensor) -> Tensor | bool:
        """Which batch elements are valid parameters."""
        return True

    @abstractmethod
    def errors(self, value: Tensor, covariance: Tensor) -> Tensor:
        """Standard errors from the covariance of the coordinates, ``batch + (size, size)``."""


def _diagonal(covariance: Tensor) -> Tensor:
    return covariance.diagonal(dim1=-2, dim2=-1).clamp_min(0).sqrt()


def _through(jacobian: Tensor, covariance: Tensor) -> Tensor:
    """Standard errors of functions of the coordinates with the given Jacobian, ``batch + (m, size)``."""
    return ((jacobian @ covariance) * jacobian).sum(-1).clamp_min(0).sqrt()


def _sum_zero_basis(n: int, like: Tensor) -> Tensor:
    """An orthonormal basis, in the columns, of the vectors of n numbers that add up to 0."""
    eye = torch.eye(n, dtype=torch.float64, device=like.device)
    return torch.linalg.qr(eye[:, :-1] - 1 / n).Q


class Point(Coordinates):
    """A point of a manifold; errors are geodesic lengths along the axes of the frame at the point."""

    def __init__(self, geo: Geometry) -> None:
        self.geo = geo

    def size(self, value: Tensor) -> int:
        return self.geo.dim(self.geo.event_shape(value))

    def moved(self, value: Tensor, theta: Tensor) -> Tensor:
        p = self.geo.project(value.double())
        return self.geo.exp_frame(p.expand(theta.shape[:-1] + self.geo.event_shape(p)), theta)

    def errors(self, value: Tensor, covariance: Tensor) -> Tensor:
        return _diagonal(covariance)


class Number(Coordinates):
    """Numbers in an open interval; ``event_dim`` says how many trailing axes of them are one element."""

    def __init__(
        self, event_dim: int = 0, low: float = -torch.inf, high: float = torch.inf, twice: bool = True
    ) -> None:
        self.event_dim, self.low, self.high, self.twice = event_dim, low, high, twice

    def _event(self, value: Tensor) -> torch.Size:
        return value.shape[value.dim() - self.event_dim :]

    def size(self, value: Tensor) -> int:
        return self._event(value).numel()

    def moved(self, value: Tensor, theta: Tensor) -> Tensor:
        return value.double() + theta.reshape(theta.shape[:-1] + self._event(value))

    def inside(self, value: Tensor) -> Tensor:
        ok = (value >= self.low) & (value < self.high) & value.isfinite()
        return ok.flatten(value.dim() - self.event_dim).all(-1) if self.event_dim else ok

    def errors(self, value: Tensor, covariance: Tensor) -> Tensor:
        return _diagonal(covariance).reshape(covariance.shape[:-2] + self._event(value))


class SumZero(Coordinates):
    """A vector whose entries add up to 0; errors are those of its entries."""

    def size(self, value: Tensor) -> int:
        return value.shape[-1] - 1

    def moved(self, value: Tensor, theta: Tensor) -> Tensor:
        return value.double() + theta @ _sum_zero_basis(value.shape[-1], value).mT

    def errors(self, value: Tensor, covariance: Tensor) -> Tensor:
        return _through(_sum_zero_basis(value.shape[-1], value), covariance)


class Frame(Coordinates):
    """Orthonormal columns, turned in the planes of two of them; errors are the angles in radians, in the order
    of :func:`pyro_manifold.ops.orthogonal.hat`."""

    def size(self, value: Tensor) -> int:
        d = value.shape[-1]
        return d * (d - 1) // 2

    def moved(self, value: Tensor, theta: Tensor) -> Tensor:
        f = value.double()
        f = 1.5 * f - 0.5 * f @ (f.mT @ f)
        return f @ matrix_exp(hat(theta))

    def errors(self, value: Tensor, covariance: Tensor) -> Tensor:
        return _diagonal(covariance)


def _symmetric_basis(d: int, like: Tensor) -> Tensor:
    """An orthonormal basis of the symmetric matrices of trace 0, ``(d (d + 1) / 2 - 1, d, d)``."""
    rows, columns = torch.triu_indices(d, d, 1, device=like.device)
    off = torch.zeros(len(rows), d, d, dtype=torch.float64, device=like.device)
    off[torch.arange(len(rows)), rows, columns] = off[torch.arange(len(rows)), columns, rows] = 0.5**0.5
    return torch.cat([torch.diag_embed(_sum_zero_basis(d, like).mT), off])


class Symmetric(Coordinates):
    """A symmetric matrix of which a multiple of the identity may be subtracted; errors are those of the entries
    of the matrix with its trace held."""

    def size(self, value: Tensor) -> int:
        d = value.shape[-1]
        return d * (d + 1) // 2 - 1

    def moved(self, value: Tensor, theta: Tensor) -> Tensor:
        basis = _symmetric_basis(value.shape[-1], value)
        return value.double() + (theta @ basis.flatten(1)).unflatten(-1, basis.shape[1:])

    def errors(self, value: Tensor, covariance: Tensor) -> Tensor:
        basis = _symmetric_basis(value.shape[-1], value)
        return _through(basis.flatten(1).mT, covariance).unflatten(-1, basis.shape[1:])


class Shape(Coordinates):
    r"""The Cholesky factor L of a covariance up to a factor: :math:`LL^\top` becomes :math:`Le^SL^\top` for
    symmetric S of trace 0. Errors are those of the entries of L with its determinant held."""

    def size(self, value: Tensor) -> int:
        return Symmetric().size(value)

    def moved(self, value: Tensor, theta: Tensor) -> Tensor:
        basis = _symmetric_basis(value.shape[-1], value)
        s = (theta @ basis.flatten(1)).unflatten(-1, basis.shape[1:])
        return value.double() @ torch.linalg.cholesky(matrix_exp(s))

    def errors(self, value: Tensor, covariance: Tensor) -> Tensor:
        basis = _symmetric_basis(value.shape[-1], value)
        lower = basis.tril(-1) + torch.diag_embed(basis.diagonal(dim1=-2, dim2=-1) / 2)
        jacobian = (value.double().unsqueeze(-3) @ lower).flatten(-2).mT
        return _through(jacobian, covariance).unflatten(-1, basis.shape[1:])


class Tril(Coordinates):
    """A lower triangular matrix with a positive diagonal; errors are those of its entries."""

    @staticmethod
    def _lower(theta: Tensor, d: int) -> Tensor:
        rows, columns = torch.tril_indices(d, d, device=theta.device)
        where = torch.zeros(len(rows), d * d, dtype=theta.dtype, device=theta.device)
        where[torch.arange(len(rows)), rows * d + columns] = 1.0
        return (theta @ where).unflatten(-1, (d, d))

    def size(self, value: Tensor) -> int:
        d = value.shape[-1]
        return d * (d + 1) // 2

    def moved(self, value: Tensor, theta: Tensor) -> Tensor:
        return value.double() + self._lower(theta, value.shape[-1])

    def inside(self, value: Tensor) -> Tensor:
        return (value.diagonal(dim1=-2, dim2=-1) > 0).all(-1)

    def errors(self, value: Tensor, covariance: Tensor) -> Tensor:
        return self._lower(_diagonal(covariance), value.shape[-1])


class Chart(NamedTuple):
    """The parameters of a distribution: the coordinates and the present value of each by name; what makes a
    distribution of values by name; and a condition on all of them together, per batch element."""

    parameters: dict[str, Coordinates]
    values: dict[str, Tensor]
    make: Callable[[dict[str, Tensor]], Any]
    inside: Callable[[dict[str, Tensor]], Tensor] | None = None

    def sizes(self) -> dict[str, int]:
        """How many coordinates each parameter has."""
        return {name: c.size(self.values[name]) for name, c in self.parameters.items()}


# By class of distribution: a function from a distribution to its chart.
CHARTS: ClassRegistry[Callable[[Any], Chart]] = ClassRegistry()
