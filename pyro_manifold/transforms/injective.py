r"""Injective maps :math:`g: \mathbb R^n \to \mathbb R^d`, n <= d, whose image is a manifold.

.. math::
    \log\mathrm{vol}_g(u) = \tfrac12\log\det J_g(u)^TJ_g(u), \qquad
    p_X(g(u)) = p_U(u)\,\det\!\big(J_g^TJ_g\big)^{-1/2}

the second with respect to the n-dimensional Hausdorff measure of the image. ``inv`` is a left inverse: what it makes of a
point off the image is that of its :meth:`~InjectiveTransform.project`.

References: [1] Brehmer and Cranmer, *Flows for simultaneous manifold learning and density estimation*, NeurIPS 2020, eqs. 2
and 7. [2] Ross and Cresswell, *Tractable density estimation on learned manifolds with conformal embedding flows*, NeurIPS 2021,
sec. 3.
"""

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import biject_to, constraints, transform_to

from ..constraints import image
from ..ops.checks import as_tensors, check_all
from ..ops.numerics import concrete
from .module import ModuleTransform
from .push import forward_push, half_log_det_gram

__all__ = ["Chart", "InjectiveTransform", "LinearEmbedding", "Pad"]


class InjectiveTransform(ModuleTransform, ABC):
    """What all injective maps share. A subclass gives ``_call`` and ``_inverse``, and ``push`` where it has a closed form.

    :param int dim: n, the dimension of u.
    :param int codomain_dim: d, that of x.
    :raises ValueError: if n > d; where the derivative loses rank (by ``log_volume``).
    """

    def __init__(self, dim: int, codomain_dim: int, *, cache_size: int = 0) -> None:
        super().__init__(cache_size=cache_size)
        if not (isinstance(dim, int) and isinstance(codomain_dim, int) and 1 <= dim <= codomain_dim):
            raise ValueError(
                f"dim: got {dim!r} with codomain_dim {codomain_dim!r}; expected integers 1 <= dim <= codomain_dim, since an "
                "injective map cannot lower the dimension."
            )
        self.dim, self.codomain_dim = dim, codomain_dim
        self._memory: list[Any] = [None]  # of the last x; one for all copies with and without cache

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_memory": [None]}

    def _sharing(self, **changed: Any) -> Any:
        return super()._sharing(_memory=self._memory, **changed)

    @property
    def codomain(self) -> constraints.Constraint:  # type: ignore[override]
        return image(self)

    @abstractmethod
    def _call(self, u: Tensor) -> Tensor: ...

    @abstractmethod
    def _inverse(self, x: Tensor) -> Tensor: ...

    def push(self, u: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
        """g(u) and :math:`J_g(u)T`, for the k vectors T of ``tangents``, shape ``batch + (k, n)``."""
        return forward_push(self._call, u, tangents)

    def push_volume(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """g(u) and the log-volume there, in one pass."""
        x, J = self.push(u, torch.eye(self.dim, dtype=u.dtype, device=u.device))  # one for all, up to the first map that bends
        return x, half_log_det_gram(J).expand(x.shape[:-1])

    def log_volume(self, u: Tensor) -> Tensor:
        r""":math:`\tfrac12\log\det J^TJ` at ``u``, shape ``u.shape[:-1]``."""
        return self.push_volume(u)[1]

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:  # torch's names: x is u here
        return self.log_volume(x)

    def coordinates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """inv(x) and the log-volume there. Where nothing of it needs a gradient the result for the last ``x`` is kept, until
        ``x`` or a parameter is changed: data observed through a fixed map are encoded once."""
        seen = self._memory[0]
        if seen is not None and seen[0]() is x and not x.requires_grad and seen[1] == self._state(x):
            return seen[2]
        u = self._inv_call(x)
        out = (u, self.log_volume(u))
        if not (out[0].requires_grad or out[1].requires_grad) and torch.is_grad_enabled() and concrete(x):
            self._memory[0] = (weakref.ref(x), self._state(x), out)
        return out

    def project(self, x: Tensor) -> Tensor:
        """g(inv(x)), a point of the image; for ``x`` of the image, ``x``."""
        self.inverse_shape(x.shape)
        return self._call(self._inverse(x))

    def reconstruction_error(self, x: Tensor) -> Tensor:
        """Euclidean distance of ``x`` from :meth:`project`, shape ``x.shape[:-1]``."""
        return torch.linalg.vector_norm(x - self.project(x), dim=-1)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.dim} -> {self.codomain_dim})"


class Pad(InjectiveTransform):
    r"""Zeros appended, :math:`u \mapsto (u, 0)`, an isometric embedding.

    :raises ValueError: if ``dim`` exceeds ``codomain_dim``.

    >>> Pad(1, 3)(torch.tensor([2.0]))
    tensor([2., 0., 0.])
    """

    def _call(self, u: Tensor) -> Tensor:
        return nn.functional.pad(u, (0, self.codomain_dim - self.dim))

    def _inverse(self, x: Tensor) -> Tensor:
        return x[..., : self.dim]

    def push(self, u: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
        return self._call(u), self._call(tangents)


class LinearEmbedding(InjectiveTransform):
    r"""An affine subspace, :math:`u \mapsto m + Wu`, with the orthogonal projection as left inverse.

    :param Tensor matrix: W, shape ``(d, n)``, of rank n.
    :param Tensor loc: m, shape ``(d,)``.
    :raises ValueError: for a matrix without full column rank or shapes that do not fit.

    >>> plane = LinearEmbedding(torch.tensor([[1.0], [1.0]]))
    >>> plane.project(torch.tensor([2.0, 0.0]))
    tensor([1., 1.])
    """

    def __init__(self, matrix: Tensor, loc: Tensor | None = None, *, cache_size: int = 0) -> None:
        (matrix,) = as_tensors(matrix=matrix)
        if matrix.dim() != 2:
            raise ValueError(f"matrix: got shape {tuple(matrix.shape)}; expected (d, n), one column for each latent dimension.")
        super().__init__(matrix.shape[1], matrix.shape[0], cache_size=cache_size)
        loc = matrix.new_zeros(matrix.shape[0]) if loc is None else as_tensors(matrix=matrix, loc=loc)[1]
        if loc.shape != matrix.shape[:1]:
            raise ValueError(f"loc: got shape {tuple(loc.shape)}; expected {tuple(matrix.shape[:1])}, the rows of matrix.")
        rank = torch.linalg.matrix_rank(matrix)
        check_all(rank == self.dim, "matrix", rank, f"rank {self.dim}", "Drop columns that depend on others.")
        self.register_buffer("matrix", matrix)
        self.register_buffer("loc", loc)
        self.register_buffer("inverse_matrix", torch.linalg.pinv(matrix))

    @classmethod
    def from_pca(cls, x: Tensor, dim: int) -> "LinearEmbedding":
        """The subspace through the mean of the rows ``x``, shape ``(rows, d)``, along their first ``dim`` principal axes, in
        units of their standard deviations.

        :raises ValueError: if the rows span fewer dimensions.
        """
        loc, axes, scale = principal_axes(x)
        if not 1 <= dim <= len(scale) or not bool(scale[dim - 1] > 0):
            raise ValueError(f"dim: got {dim}; expected at most the {int((scale > 0).sum())} dimensions that the rows of x span.")
        return cls(axes[:, :dim] * scale[:dim], loc)

    def _call(self, u: Tensor) -> Tensor:
        return self.loc + u @ self.matrix.mT

    def _inverse(self, x: Tensor) -> Tensor:
        return (x - self.loc) @ self.inverse_matrix.mT

    def push(self, u: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
        return self._call(u), tangents @ self.matrix.mT


def principal_axes(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, principal axes (columns, those of most variance first) and standard deviations of the rows of ``x``."""
    if x.dim() != 2 or len(x) < 2:
        raise ValueError(f"x: got shape {tuple(x.shape)}; expected (rows, d) with at least 2 rows.")
    check_all(x.isfinite(), "x", x, "finite numbers", "Remove or impute those rows.")
    loc = x.mean(0)
    variance, axes = torch.linalg.eigh(torch.cov(x.double().mT).reshape(x.shape[1], x.shape[1]))
    floor = variance[-1] * torch.finfo(x.dtype).eps * x.shape[1]
    scale = torch.where(variance > floor, variance, 0.0).sqrt()
    return loc, axes.flip(-1).to(x), scale.flip(-1).to(x)


class Chart(InjectiveTransform):
    """An embedding that the user writes down: FOM ("flow on a prescribed manifold") in [1].

    :param forward: g, a differentiable function of one vector or a batch of them. Of another injective map the
        ``push`` is used: with an encoder network as ``inverse`` this is the M_e-flow, with two networks the decoder and
        encoder of a probabilistic auto-encoder. Modules become submodules.
    :param inverse: a left inverse of it.
    :param int dim: n.
    :param int codomain_dim: d.
    :raises ValueError: if n > d; where the derivative of g loses rank.

    >>> circle = Chart(lambda u: torch.cat([u.cos(), u.sin()], -1), lambda x: torch.atan2(x[..., 1:], x[..., :1]), 1, 2)
    >>> circle(torch.tensor([0.0])), circle.log_volume(torch.tensor([0.0]))
    (tensor([1., 0.]), tensor(0.))
    """

    def __init__(
        self, forward: Callable[[Tensor], Tensor], inverse: Callable[[Tensor], Tensor], dim: int, codomain_dim: int,
        *, cache_size: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(dim, codomain_dim, cache_size=cache_size)
        self._forward: Any = forward
        self._backward: Any = inverse

    def _call(self, u: Tensor) -> Tensor:
        return self._forward(u)

    def _inverse(self, x: Tensor) -> Tensor:
        return self._backward(x)

    def push(self, u: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
        own = isinstance(self._forward, InjectiveTransform)
        return self._forward.push(u, tangents) if own else super().push(u, tangents)


_register: Any = biject_to.register
_register(image, lambda constraint: constraint.transform)
transform_to.register(image, lambda constraint: constraint.transform)
