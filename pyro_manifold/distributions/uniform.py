"""The uniform distribution of a manifold of finite volume."""

from collections.abc import Sequence
from typing import Any

import geoopt
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from ..constraints import on
from ..ops.arguments import checked
from ..ops.checks import common_shape
from ._repr import ReprMixin, expanded

__all__ = ["ManifoldUniform"]


class ManifoldUniform(ReprMixin, TorchDistribution):
    r"""Uniform distribution with respect to Riemannian volume (Haar measure on groups).

    .. math:: p(x) = 1 / \mathrm{vol}(M)

    The geometry draws the points directly; no transform is involved.

    :param geoopt.Manifold manifold: a manifold of finite volume.
    :param event_shape: shape of one point, e.g. ``(3,)`` on :math:`S^2`; may be omitted for a product manifold,
        which fixes it.
    :param batch_shape: batch shape.
    :param torch.dtype dtype: dtype of the draws; default: torch's default dtype.
    :param device: device of the draws.
    :raises ValueError: if the volume is infinite or points of the manifold do not have that event shape.

    Base measure: Riemannian volume.

    >>> import geoopt
    >>> ManifoldUniform(geoopt.Sphere(), (3,)).log_prob(torch.tensor([0.0, 0.0, 1.0]))  # -log 4 pi
    tensor(-2.5310)
    """

    arg_constraints: dict[str, Any] = {}
    has_rsample = True

    @checked
    def __init__(
        self,
        manifold: geoopt.Manifold,
        event_shape: Sequence[int] | int | None = None,
        batch_shape: Sequence[int] = (),
        *,
        dtype: torch.dtype | None = None,
        device: Any = None,
        validate_args: bool | None = None,
    ) -> None:
        self.manifold = manifold
        self._support = on(manifold)
        geo = self._support.geometry
        if event_shape is None:
            event_shape = getattr(manifold, "n_elements", None)
            if event_shape is None:
                raise ValueError(
                    f"event_shape: got None, but {manifold.name} does not fix the dimension; expected the "
                    "shape of one point, e.g. (3,) for S^2."
                )
        event_shape = torch.Size([event_shape] if isinstance(event_shape, int) else event_shape)
        if len(event_shape) != geo.event_dim or geo.dim(event_shape) < 1:
            raise ValueError(
                f"event_shape: got {tuple(event_shape)}, expected the shape of one point of {manifold.name} "
                f"({geo.event_dim} axes, dimension at least 1)."
            )
        if not geo.has_finite_volume:
            raise ValueError(f"manifold: {geo.unknown('uniform distribution')}")
        log_volume = geo.log_volume(event_shape)
        self.log_volume = torch.as_tensor(log_volume, dtype=dtype or torch.get_default_dtype(), device=device)
        super().__init__(torch.Size(batch_shape), event_shape, validate_args=validate_args)

    @property
    def support(self) -> on:  # type: ignore[override]
        return self._support

    def expand(
        self, batch_shape: Sequence[int], _instance: "ManifoldUniform | None" = None
    ) -> "ManifoldUniform":
        attributes = ["manifold", "log_volume", "_support"]
        return expanded(self, ManifoldUniform, batch_shape, _instance, attributes)

    @staticmethod
    def infer_shapes(
        manifold: Any = (), event_shape: Any = (), batch_shape: Any = ()
    ) -> tuple[torch.Size, torch.Size]:
        event = (event_shape,) if isinstance(event_shape, int) else event_shape
        return torch.Size(batch_shape), torch.Size(event)

    def rsample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape
        like = self.log_volume
        return self._support.geometry.uniform_sample(
            shape, self.event_shape, dtype=like.dtype, device=like.device
        )

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        batch = value.shape[: value.dim() - len(self.event_shape)]
        return (-self.log_volume).expand(common_shape(batch, self.batch_shape))

    def _moment(self, which: int) -> Tensor:
        like = self.log_volume
        moment = self._support.geometry.uniform_moments(
            self.event_shape, dtype=like.dtype, device=like.device
        )[which]
        return moment.expand(self.batch_shape + self.event_shape)

    @property
    def mean(self) -> Tensor:
        r"""Expectation :math:`\mathrm E[x]` of the coordinates of a draw: 0, also for angles, which are in
        :math:`[-\pi,\pi)`.

        :raises NotImplementedError: where the integral does not converge or is not known (stereographic
            coordinates).
        """
        return self._moment(0)

    @property
    def variance(self) -> Tensor:
        r"""Variance of each coordinate of a draw: 1/n on the sphere in :math:`\mathbb R^n` and for rotations
        and orthonormal frames of :math:`\mathbb R^n`; :math:`\pi^2/3` for an angle (whose *circular* variance
        is 1).

        :raises NotImplementedError: as :attr:`mean`.
        """
        return self._moment(1)

    def entropy(self) -> Tensor:
        r""":math:`\log\mathrm{vol}(M)`."""
        return self.log_volume.expand(self.batch_shape)
