r"""Invertible 1 x 1 layers of fields, the same at all pixels: isometries of a pixel, and rotations that mix channels.

.. math::
    X \mapsto A_c X A_c^T \ (\text{positive definite}), \qquad x \mapsto Q_c x\ (\text{spheres}), \qquad
    y_{cijk} = \sum_{c'} Q_{cc'} x_{c'ijk}\ (\text{coordinates}), \qquad \log|\det J| = 0

with :math:`A = \exp B` and :math:`Q = (I - S)(I + S)^{-1}Q_0`, S skew (Cayley). Isometries keep Riemannian volume:
no determinant is left out here.
"""

from collections.abc import Sequence
from typing import Any

import geoopt
import torch
from torch import Tensor, nn

from ..constraints import check_point
from ..geometry import geometry
from ..ops.arguments import checked
from ..ops.checks import as_tensors
from ..ops.matrix_exp import matrix_exp
from ..transforms.module import ModuleTransform
from .fields import CoordinateLayer, field_constraint

__all__ = ["ChannelMixing", "GroupAction", "cayley"]


def cayley(lower: Tensor) -> Tensor:
    """The rotation :math:`(I - S)(I + S)^{-1}` of the skew matrix S whose strict lower triangle is that of ``lower``.

    >>> q = cayley(torch.tensor([[0.0, 0.0], [1.0, 0.0]]))
    >>> torch.allclose(q, torch.tensor([[0.0, 1.0], [-1.0, 0.0]]), atol=1e-6)
    True
    """
    strict = lower.tril(-1)
    skew = strict - strict.mT
    eye = torch.eye(lower.shape[-1], dtype=lower.dtype, device=lower.device)
    return torch.linalg.solve(eye + skew, eye - skew)  # the two factors commute


class GroupAction(ModuleTransform):
    r"""A learned isometry for each channel, the same at all pixels: the invertible 1 x 1 layer of a manifold.

    .. math:: X \mapsto e^{B} X e^{B^T} \ (\text{positive definite matrices}), \qquad
        x \mapsto Qx \ (\text{spheres and rotations}), \qquad \log|\det J| = 0

    B is any matrix and Q any rotation. The congruence moves determinants: with respect to Lebesgue measure of the
    entries it has a Jacobian, with respect to the affine-invariant volume it has none. Under the log-Euclidean metric,
    for which general congruences are no isometries, B is skew. A new layer is the identity.

    :param geoopt.Manifold manifold: one on which a group of matrices acts, see ``Geometry.acting_group``.
    :param int channels: C.
    :param event_shape: of a pixel.
    :raises ValueError: for a manifold without such a group.

    Reference: Zhen et al., *Flow-based generative models for learning manifold to manifold mappings*, AAAI 2021
    (whose release leaves the layer out).

    >>> f = GroupAction(geoopt.SymmetricPositiveDefinite(), 1, (2, 2))
    >>> x = torch.eye(2).expand(1, 4, 4, 2, 2)
    >>> torch.equal(f(x), x), f.log_volume(x)
    (True, tensor(0.))
    """

    @checked(channels=1)
    def __init__(
        self,
        manifold: geoopt.Manifold,
        channels: int,
        event_shape: Sequence[int],
        *,
        cache_size: int = 0,
    ) -> None:
        super().__init__(cache_size=cache_size)
        geo = geometry(manifold)
        if geo.acting_group is None:
            raise ValueError(
                f"manifold: got {manifold.name}, on which no group of matrices is known to act by isometries; expected "
                "a sphere, positive definite matrices or rotations. Leave the layer out on other manifolds."
            )
        event_shape = torch.Size(event_shape)
        check_point(manifold, "event_shape", geo.base_point(event_shape))
        self.manifold, self.channels, self.event_shape = manifold, channels, event_shape
        self.linear = geo.acting_group == "linear"
        self.domain = self.codomain = field_constraint(manifold)
        n = event_shape[0]
        self.generator = nn.Parameter(torch.zeros(channels, n, n))

    def depends(self) -> list[Any] | None:
        own, read = super().depends(), geometry(self.manifold).depends()
        return None if own is None or read is None else [*own, *read]

    def matrices(self, inverse: bool = False) -> Tensor:
        """The matrix of each channel, or its inverse, shape ``(C, n, n)``."""
        sign = -1 if inverse else 1
        if self.linear:
            return matrix_exp(sign * self.generator)
        return cayley(sign * self.generator)

    def _act(self, x: Tensor, inverse: bool = False) -> tuple[Tensor, Tensor]:
        y = geometry(self.manifold).act(self.matrices(inverse)[:, None, None], x)
        return y, x.new_zeros(x.shape[: x.dim() - 3 - len(self.event_shape)])

    def forward_and_log_volume(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._act(x)

    def inverse_and_log_volume(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return self._act(y, inverse=True)

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        k = len(self.event_shape)
        if (
            len(shape) < k + 3
            or shape[len(shape) - k :] != self.event_shape
            or shape[-3 - k] != self.channels
        ):
            raise ValueError(
                f"value: got shape {tuple(shape)}; expected fields of {self.channels} channels of pixels of shape "
                f"{tuple(self.event_shape)}, (channels, height, width) + event."
            )
        return torch.Size(shape)

    inverse_shape = forward_shape

    def __repr__(self) -> str:
        return f"GroupAction({self.manifold.name}, {self.channels})"


class ChannelMixing(CoordinateLayer):
    r"""A learned rotation that mixes the channels of a field of coordinates, the same at all pixels.

    .. math:: y_{cijk} = \sum_{c'} Q_{cc'} x_{c'ijk}, \qquad \log|\det J| = 0

    It mixes tangent vectors at one base point, so that it means the same in any frame there. With ``coordinates`` it
    mixes the coordinates of a pixel too, :math:`y_{ijp} = \sum_{q} Q_{pq} x_{ijq}` for all p = (c, k).

    :param tuple shape: of a field of coordinates, (C, H, W, d).
    :param bool coordinates: mix all C d numbers of a pixel.
    :param Tensor matrix: the rotation (or reflection) at first, C x C or C d x C d; the identity if omitted.
    :raises ValueError: for a matrix that is not orthogonal or does not fit.

    Reference: Kingma and Dhariwal, *Glow*, NeurIPS 2018, sec. 3.2.

    >>> layer = ChannelMixing((2, 1, 1, 1), matrix=torch.tensor([[0.0, 1.0], [-1.0, 0.0]]))
    >>> layer(torch.tensor([1.0, 2.0]).reshape(2, 1, 1, 1)).flatten()
    tensor([ 2., -1.], grad_fn=...)
    """

    @checked
    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        coordinates: bool = False,
        matrix: Tensor | None = None,
        cache_size: int = 0,
    ) -> None:
        super().__init__(shape, cache_size)
        self.coordinates = coordinates
        n = self.shape[0] * (self.shape[3] if coordinates else 1)
        matrix = torch.eye(n) if matrix is None else as_tensors(matrix=matrix)[0].detach()
        eye = torch.eye(n, dtype=matrix.dtype, device=matrix.device)
        small = torch.finfo(matrix.dtype).eps ** 0.5
        if matrix.shape != eye.shape or not bool(((matrix.mT @ matrix - eye).abs() <= small).all()):
            raise ValueError(
                f"matrix: got one of shape {tuple(matrix.shape)}; expected an orthogonal matrix of shape ({n}, {n}). "
                "Orthogonalise it, torch.linalg.qr(matrix).Q."
            )
        self.register_buffer("first", matrix.clone())
        self.lower = nn.Parameter(torch.zeros_like(matrix))

    @torch.no_grad()
    def initialise(self, y: Tensor) -> None:
        """With ``coordinates``: take the principal axes of fields ``y``, shape ``(n, C, H, W, d)``, as columns of Q, so
        that its inverse gives coordinates in order of their variance, without correlations."""
        if not self.coordinates:
            return
        self.check_input(y, self.inverse_shape)
        rows = self._flat(y).reshape(-1, self.first.shape[0]).double()
        _, axes = torch.linalg.eigh((rows - rows.mean(0)).mT @ (rows - rows.mean(0)))
        self.first.copy_(axes.flip(-1))
        self.lower.zero_()

    def rotation(self) -> Tensor:
        """Q."""
        return cayley(self.lower) @ self.first

    def _flat(self, x: Tensor) -> Tensor:
        """Channels, with ``coordinates`` also those of a pixel, on the last axis."""
        if not self.coordinates:
            return x.movedim(-4, -1)
        return x.movedim(-4, -2).flatten(-2)

    def _field(self, flat: Tensor) -> Tensor:
        if not self.coordinates:
            return flat.movedim(-1, -4)
        return flat.unflatten(-1, (self.shape[0], self.shape[3])).movedim(-2, -4)

    def forward_and_log_volume(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._field(self._flat(x) @ self.rotation().mT), x.new_zeros(x.shape[:-4])

    def inverse_and_log_volume(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return self._field(self._flat(y) @ self.rotation()), y.new_zeros(y.shape[:-4])

    def jvp(self, x: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
        """The value at ``x`` and the derivative along ``tangents``, shape ``batch + (k,) + event``: linear."""
        return self._call(x), self._call(tangents)
