"""Conversion between points of the unit sphere in R^3 and longitude and latitude."""

import torch
from torch import Tensor

__all__ = ["from_lon_lat", "lon_lat"]


def lon_lat(x: Tensor) -> tuple[Tensor, Tensor]:
    r"""Longitude in [-pi, pi], east of the first axis, and latitude in [-pi/2, pi/2] of points of
    :math:`S^2`, in radians.

    .. math:: \lambda = \mathrm{atan2}(x_2, x_1), \qquad \varphi = \mathrm{atan2}\big(x_3, \sqrt{x_1^2 +
        x_2^2}\big)

    :param x: points, shape (..., 3).
    :raises ValueError: for another last axis.

    >>> lon_lat(torch.tensor([0.0, 1.0, 0.0]))
    (tensor(1.5708), tensor(0.))
    """
    if x.dim() < 1 or x.shape[-1] != 3:
        raise ValueError(f"x: got shape {tuple(x.shape)}; expected points of the sphere S^2, shape (..., 3).")
    return torch.atan2(x[..., 1], x[..., 0]), torch.atan2(x[..., 2], torch.hypot(x[..., 0], x[..., 1]))


def from_lon_lat(lon: Tensor, lat: Tensor) -> Tensor:
    r"""The point of :math:`S^2` at a longitude and a latitude in radians, shape ``(..., 3)``; the inverse of
    :func:`lon_lat`.

    .. math:: x = (\cos\varphi\cos\lambda,\; \cos\varphi\sin\lambda,\; \sin\varphi)

    >>> from_lon_lat(torch.tensor(torch.pi / 2), torch.tensor(0.0)).round(decimals=3).abs()
    tensor([0., 1., 0.])
    """
    lon, lat = torch.broadcast_tensors(lon, lat)
    return torch.stack([lat.cos() * lon.cos(), lat.cos() * lon.sin(), lat.sin()], -1)
