"""What a distribution written by a user need not say again."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from ..constraints import manifold_of
from ..ops.checks import as_tensors, broadcast_shapes, check_all
from ._repr import ReprMixin, expanded, validates

__all__ = ["ManifoldDistribution"]


class ManifoldDistribution(ReprMixin, TorchDistribution):
    r"""Base class of a distribution of your own: give its density and its draws.

    .. math:: \log p(x) = \texttt{log\_density}(x), \qquad x \in M

    A subclass has ``arg_constraints``, one for each parameter in the order of its ``__init__``, and ``support``,
    which is ``on(manifold)``; it passes its parameters on, and defines two methods:

    - ``log_density(value)``, the log density at points of the manifold;
    - ``draw(shape)``, draws of shape ``shape + event_shape``, where ``shape`` ends in ``batch_shape``; differentiable
      in the parameters where ``has_rsample = True``.

    Parameters are attributes, all expanded to the batch shape. This class looks after shapes, ``expand``,
    ``infer_shapes``, the validation of parameters, values and draws, and values under a mask.

    :param parameters: numbers or tensors by name, whose batch shapes broadcast; the rank of each without its batch is
        that of its constraint.
    :raises ValueError: for a parameter that is not finite or breaks its constraint, and for draws that leave the
        support, as where the dtype cannot hold them.

    Base measure: that in which ``log_density`` is given; the package's convention is Riemannian volume. Event shape:
    that of the parameter ``loc``, where there is one; else the class attribute ``point_shape``, or the
    ``event_shape`` of the manifold.

    >>> from pyro_manifold.constraints import on
    >>> class Cap(ManifoldDistribution):
    ...     '''Uniform on the points of S^2 at a height above h. Base measure: surface area.'''
    ...     arg_constraints = {"height": torch.distributions.constraints.interval(-1.0, 1.0)}
    ...     support, point_shape = on(geoopt.Sphere()), (3,)
    ...     def __init__(self, height, validate_args=None):
    ...         super().__init__({"height": height}, validate_args)
    ...     def draw(self, shape):
    ...         z = self.height + (1 - self.height) * torch.rand(shape)
    ...         angle = 2 * torch.pi * torch.rand(shape)
    ...         r = (1 - z * z).sqrt()
    ...         return torch.stack([r * angle.cos(), r * angle.sin(), z], -1)
    ...     def log_density(self, value):
    ...         inside = value[..., 2] >= self.height
    ...         return torch.where(inside, -(2 * torch.pi * (1 - self.height)).log(), -torch.inf)
    >>> d = Cap(torch.tensor([0.0, 0.9]))
    >>> d.sample((5,)).shape, d.log_prob(torch.tensor([0.6, 0.0, 0.8]))
    (torch.Size([5, 2, 3]), tensor([-1.8379,    -inf]))
    """

    has_rsample = False
    arg_constraints: dict[str, Any] = {}
    point_shape: Sequence[int] | None = None

    def __init__(self, parameters: Mapping[str, Tensor | float], validate_args: bool | None = None) -> None:
        tensors = dict(zip(parameters, as_tensors(**parameters), strict=True))
        if validates(validate_args):
            for name, x in tensors.items():
                check_all(
                    x.isfinite(), name, x, "finite numbers", "Check the computation that produced them."
                )
        batch, event = self.infer_shapes(**{name: x.shape for name, x in tensors.items()})
        self._set(tensors, batch)
        super().__init__(batch, event, validate_args=validate_args)

    def _set(self, tensors: Mapping[str, Tensor], batch: torch.Size) -> None:
        for name, x in tensors.items():
            setattr(self, name, x.expand(batch + x.shape[x.dim() - self.arg_constraints[name].event_dim :]))

    @classmethod
    def infer_shapes(cls, *args: Sequence[int], **kwargs: Sequence[int]) -> tuple[torch.Size, torch.Size]:
        """Batch and event shape from the shapes of the parameters."""
        shapes = {**dict(zip(cls.arg_constraints, args, strict=False)), **kwargs}
        ranks = {name: cls.arg_constraints[name].event_dim for name in shapes}
        batch = broadcast_shapes(**{k: torch.Size(s[: len(s) - ranks[k]]) for k, s in shapes.items()})
        if "loc" in shapes:
            return batch, torch.Size(shapes["loc"][len(shapes["loc"]) - ranks["loc"] :])
        point = cls.point_shape or getattr(manifold_of(cls.support), "event_shape", None)
        if point is None:
            raise ValueError(
                f"{cls.__name__}: the shape of a point is not known; give the class point_shape = (n,), or a "
                "parameter loc."
            )
        return batch, torch.Size(point)

    @abstractmethod
    def log_density(self, value: Tensor) -> Tensor:
        """Log density at points ``value`` of the manifold, whose batch shape broadcasts with that of the parameters."""

    @abstractmethod
    def draw(self, shape: torch.Size) -> Tensor:
        """Draws of shape ``shape + event_shape``; ``shape`` ends in ``batch_shape``."""

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Any:
        new = expanded(self, type(self), batch_shape, _instance)
        new._set({name: getattr(self, name) for name in self.arg_constraints}, torch.Size(batch_shape))
        return new

    def rsample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        if not self.has_rsample:
            raise NotImplementedError(f"{type(self).__name__}: draws are not reparametrised; use sample.")
        return self._drawn(sample_shape)

    def sample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        with torch.no_grad():
            return self._drawn(sample_shape)

    def _drawn(self, sample_shape: Sequence[int]) -> Tensor:
        x = self.draw(torch.Size(sample_shape) + self.batch_shape)
        if self._validate_args:
            remedy = f"Check draw, and the parameters: {x.dtype} may not hold draws at these; use float64."
            check_all(self.support.check(x), "draws", x, f"within {self.support}", remedy)
        return x

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return self.log_density(value)
