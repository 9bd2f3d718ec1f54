"""The normal distribution of tangent coordinates that :class:`WrappedNormal` pushes to the manifold, built from
``scale``, ``scale_tril`` or ``covariance_matrix``."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from ..geometry import Geometry
from ..ops.checks import broadcast_shapes, check_all, common_shape
from ..ops.linalg import sym
from .truncated import TruncatedTangentNormal

__all__ = ["tangent_normal", "widened"]


class _Diagonal(dist.Independent):
    """Normal distribution with mean 0 and a diagonal covariance. Its density also works on an empty batch,
    where torch's fails."""

    def log_prob(self, value: Tensor) -> Tensor:
        scale = self.base_dist.scale
        square = (value / scale).square().sum(-1)
        return -0.5 * square - (scale.log().sum(-1) + 0.5 * math.log(2 * math.pi) * scale.shape[-1])

    def entropy(self) -> Tensor:
        return self.base_dist.entropy().sum(-1)


class _Full(dist.MultivariateNormal):
    """Normal distribution with mean 0 and a full covariance. Its density also works on an empty batch, where
    torch's fails, and is faster where all points share one Cholesky factor."""

    def log_prob(self, value: Tensor) -> Tensor:
        tril = self._unbroadcasted_scale_tril
        if value.numel() == 0 or tril.numel() == 0:
            return (value + self.loc).sum(-1) + tril.sum((-1, -2))
        if tril.dim() > 2:
            return super().log_prob(value)
        batch = common_shape(self.batch_shape, value.shape[:-1])
        x = torch.linalg.solve_triangular(tril, value.reshape(-1, len(tril)).mT, upper=False)
        square = x.square().sum(0).reshape(value.shape[:-1])
        log_det = tril.diagonal().log().sum()
        return (-0.5 * square - (log_det + 0.5 * math.log(2 * math.pi) * len(tril))).expand(batch)


def tangent_normal(
    geo: Geometry,
    event_shape: Sequence[int],
    loc_batch: torch.Size,
    scale: Tensor | None,
    scale_tril: Tensor | None,
    covariance_matrix: Tensor | None,
    *,
    truncated: bool,
    validate: bool,
) -> Any:
    """Normal distribution of frame coordinates with mean 0. Its batch shape is that of the spread, broadcast
    with ``loc_batch``, the batch shape of the centre.

    :raises ValueError: unless exactly one of ``scale``, ``scale_tril`` and ``covariance_matrix`` is given, and
        has the right shape and valid values.
    """
    given = {"scale": scale, "scale_tril": scale_tril, "covariance_matrix": covariance_matrix}
    names = [k for k, x in given.items() if x is not None]
    if len(names) != 1:
        raise ValueError(
            f"scale: got {names or 'nothing'}; expected exactly one of scale, scale_tril, covariance_matrix."
        )
    if truncated:
        return _truncated(geo, event_shape, loc_batch, scale, validate)
    dim = geo.dim(event_shape)
    if scale is not None:
        return _diagonal(dim, loc_batch, scale, validate)
    return _full(dim, loc_batch, names[0], given[names[0]], validate)  # type: ignore[arg-type]


def widened(base: Any, dtype: torch.dtype) -> Any:
    """The same normal distribution of tangent coordinates, converted to ``dtype``."""
    if isinstance(base, TruncatedTangentNormal):
        return TruncatedTangentNormal(base._scale.to(dtype), base._radius, base.event_shape[0])
    if isinstance(base, dist.MultivariateNormal):
        return _Full(
            base.loc.to(dtype), scale_tril=base._unbroadcasted_scale_tril.to(dtype), validate_args=False
        )
    normal = base.base_dist
    return _Diagonal(
        dist.Normal(normal.loc.to(dtype), normal.scale.to(dtype), validate_args=False), 1, validate_args=False
    )


def _positive(scale: Tensor) -> None:
    ok = (scale > 0) & scale.isfinite()
    check_all(ok, "scale", scale, "positive numbers, finite", "Use a positive constraint such as softplus.")


def _diagonal(dim: int, loc_batch: torch.Size, scale: Tensor, validate: bool) -> Any:
    if scale.dim() > 0 and scale.shape[-1] not in (1, dim):
        raise ValueError(
            f"scale: got shape {tuple(scale.shape)}, expected a number or a last axis of size 1 or dim = "
            f"{dim} (tangent coordinates). For one isotropic scale per batch element give "
            "scale.unsqueeze(-1)."
        )
    if validate:
        _positive(scale)
    batch = broadcast_shapes(loc=loc_batch, scale=scale.shape[:-1])
    normal = dist.Normal(scale.new_zeros(()), scale.expand(batch + (dim,)), validate_args=False)
    return _Diagonal(normal, 1, validate_args=False)


def _truncated(
    geo: Geometry, event_shape: Sequence[int], loc_batch: torch.Size, scale: Tensor | None, validate: bool
) -> TruncatedTangentNormal:
    radius = geo.injectivity_radius(event_shape)
    if not isinstance(radius, Tensor) and radius == math.inf:
        raise ValueError(
            f"truncated: got True, but {geo.manifold.name} has an infinite injectivity radius, so there is "
            "nothing to truncate; leave it False."
        )
    if scale is None or (scale.dim() > 0 and scale.shape[-1] != 1):
        seen = "a matrix" if scale is None else f"shape {tuple(scale.shape)}"
        raise ValueError(
            f"scale: got {seen}, expected an isotropic scale (a number, or a trailing axis of size 1) with "
            f"truncated=True."
        )
    if validate:
        _positive(scale)
    scale = scale if scale.dim() == 0 else scale.squeeze(-1)
    batch = broadcast_shapes(loc=loc_batch, scale=scale.shape)
    radius_now = partial(
        geo.injectivity_radius, event_shape
    )  # called each time: the curvature may be learned
    return TruncatedTangentNormal(scale.expand(batch), radius_now, geo.dim(event_shape))


def _full(dim: int, loc_batch: torch.Size, name: str, matrix: Tensor, validate: bool) -> Any:
    if matrix.dim() < 2 or matrix.shape[-2:] != (dim, dim):
        raise ValueError(
            f"{name}: got shape {tuple(matrix.shape)}, expected (..., {dim}, {dim}), the manifold's "
            f"dimension."
        )
    tril = matrix
    if validate:
        remedy = "Check the computation that produced them."
        check_all(matrix.isfinite().all(-1).all(-1), name, matrix, "finite numbers", remedy)
    if name == "covariance_matrix":
        if validate:
            ok = (matrix - matrix.mT).abs().amax((-1, -2)) <= 1e-5 * matrix.abs().amax((-1, -2))
            check_all(ok, name, matrix, "a symmetric matrix", "Symmetrise it: (S + S.mT) / 2.")
        tril, info = torch.linalg.cholesky_ex(sym(matrix))
        if validate:
            check_all(info == 0, name, matrix, "a positive definite matrix", "Add a jitter to its diagonal.")
    elif validate:
        ok = (matrix.diagonal(dim1=-2, dim2=-1) > 0).all(-1) & (matrix.triu(1) == 0).all(-1).all(-1)
        check_all(ok, name, matrix, "lower triangular with a positive diagonal", "Use torch.linalg.cholesky.")
    batch = broadcast_shapes(loc=loc_batch, scale=tril.shape[:-2])
    # the mean has the batch shape, so that a single Cholesky factor is not copied to every batch element
    return _Full(tril.new_zeros(()).expand(batch + (dim,)), scale_tril=tril, validate_args=False)
