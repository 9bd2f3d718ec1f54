r"""Injective maps :math:`g: \mathbb R^n \to \mathbb R^d`, n <= d, whose image is a manifold.

.. math::
    \log\mathrm{vol}_g(u) = \tfrac12\log\det J_g(u)^TJ_g(u), \qquad
    p_X(g(u)) = p_U(u)\,\det\!\big(J_g^TJ_g\big)^{-1/2}

the second with respect to the n-dimensional Hausdorff measure of the image. ``inv`` is a left inverse: for a
point off the image it gives the coordinates of the projection, :meth:`~InjectiveTransform.project`.

Half log-determinants of Gram matrices do not add up along a chain: for f after g,
:math:`\det J_g^TJ_f^TJ_fJ_g \ne \det J_f^TJ_f\,\det J_g^TJ_g`. So these maps have ``bijective =
False``, and only :class:`~pyro_manifold.flows.InjectiveFlow` composes them.

References: [1] Brehmer and Cranmer, *Flows for simultaneous manifold learning and density estimation*,
NeurIPS 2020, eqs. 2 and 7. [2] Ross and Cresswell, *Tractable density estimation on learned manifolds with
conformal embedding flows*, NeurIPS 2021, sec. 3.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import biject_to, constraints, transform_to

from ..constraints import image
from ..ops.arguments import checked
from ..ops.checks import as_tensors, check_all
from ..ops.tracing import is_concrete
from .base import SeparateVolume
from .cache import attributes, dependencies
from .jvp import half_log_det_gram
from .module import ModuleTransform

__all__ = ["Chart", "InjectiveTransform", "LinearEmbedding", "Pad"]


class InjectiveTransform(ModuleTransform):
    """The base of all injective maps. A subclass defines ``_call`` and ``_inverse``, and ``jvp`` where it has
    a closed form.

    The volume is :meth:`log_volume`, the density of the image that of
    :class:`~pyro_manifold.distributions.Pushforward`. A ``TransformedDistribution`` through such a map can be
    drawn from, but has no ``log_prob``: torch would add its log-determinant to those of other layers.

    :param int dim: n, the dimension of u.
    :param int codomain_dim: d, that of x.
    :raises ValueError: if n > d; where the derivative loses rank (by ``log_volume``); by
        ``log_abs_det_jacobian``.
    """

    bijective = False
    separate_volume = True

    @checked(dim=1)
    def __init__(self, dim: int, codomain_dim: int, *, cache_size: int = 0) -> None:
        super().__init__(cache_size=cache_size)
        if not (isinstance(dim, int) and isinstance(codomain_dim, int) and 1 <= dim <= codomain_dim):
            raise ValueError(
                f"dim: got {dim!r} with codomain_dim {codomain_dim!r}; expected integers 1 <= dim <= "
                "codomain_dim, since an injective map cannot lower the dimension."
            )
        self.dim, self.codomain_dim = dim, codomain_dim

    @property
    def codomain(self) -> constraints.Constraint:  # type: ignore[override]
        return image(self)

    @abstractmethod
    def _call(self, u: Tensor) -> Tensor: ...

    @abstractmethod
    def _inverse(self, x: Tensor) -> Tensor: ...

    def depends(self) -> list[Any] | None:
        return attributes(self)

    def forward_and_log_volume(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """g(u) and the log volume at u, in one pass."""
        self.check_input(u, self.forward_shape)
        # without batch axes: linear maps transform the identity once for the whole batch
        x, J = self.jvp(u, torch.eye(self.dim, dtype=u.dtype, device=u.device))
        return x, half_log_det_gram(J).expand(x.shape[:-1])

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        raise ValueError(
            f"transforms: {self!r} is injective, not a bijection, and torch adds log-determinants along a "
            "chain, which is wrong for it. Score the image with "
            "pyro_manifold.distributions.Pushforward(base, transform), put layers behind it by "
            "InjectiveFlow(embedding, layers), and ask transform.log_volume(u) for the volume."
        )

    def inverse_and_log_volume(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """inv(x) and the log volume there. If neither needs a gradient, the result for the last ``x`` is
        remembered until ``x`` or a tensor that the map reads changes: data observed through a fixed map are
        encoded once."""
        depends = self.depends() if is_concrete(x) else None
        seen = self._inverted.get([x], depends)
        if seen is not None:
            return seen[0], seen[1]
        u = self._inv_call(x)
        log_volume = self.log_volume(u)
        if is_concrete(x) and not (u.requires_grad or log_volume.requires_grad):
            self._inverted.put([x], depends, [u, log_volume])
        return u, log_volume

    def project(self, x: Tensor) -> Tensor:
        """g(inv(x)), a point of the image; for ``x`` of the image, ``x``."""
        self.check_input(x, self.inverse_shape)
        return self._call(self._inverse(x))

    def preimage_error(self, x: Tensor, u: Tensor) -> Tensor:
        """How far the preimage of ``x`` is from ``u``, with what the inverse leaves out where the map knows
        it."""
        return self._inverse(x) - u

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

    def jvp(self, u: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
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

    @checked
    def __init__(self, matrix: Tensor, loc: Tensor | None = None, *, cache_size: int = 0) -> None:
        (matrix,) = as_tensors(matrix=matrix)
        if matrix.dim() != 2:
            raise ValueError(
                f"matrix: got shape {tuple(matrix.shape)}; expected (d, n), one column for each latent "
                f"dimension."
            )
        super().__init__(matrix.shape[1], matrix.shape[0], cache_size=cache_size)
        loc = matrix.new_zeros(matrix.shape[0]) if loc is None else as_tensors(matrix=matrix, loc=loc)[1]
        if loc.shape != matrix.shape[:1]:
            raise ValueError(
                f"loc: got shape {tuple(loc.shape)}; expected {tuple(matrix.shape[:1])}, the rows of matrix."
            )
        check_all(matrix.isfinite(), "matrix", matrix, "finite numbers", "Look at where they come from.")
        rank = torch.linalg.matrix_rank(matrix)
        check_all(rank == self.dim, "matrix", rank, f"rank {self.dim}", "Drop columns that depend on others.")
        self.register_buffer("matrix", matrix)
        self.register_buffer("loc", loc)
        self.register_buffer("inverse_matrix", torch.linalg.pinv(matrix))

    @classmethod
    def from_pca(cls, x: Tensor, dim: int) -> "LinearEmbedding":
        """The subspace through the mean of the rows ``x``, shape ``(rows, d)``, along their first ``dim``
        principal axes, in units of their standard deviations.

        :raises ValueError: if the rows span fewer dimensions.
        """
        loc, axes, scale = principal_axes(x)
        if not 1 <= dim <= len(scale) or not bool(scale[dim - 1] > 0):
            raise ValueError(
                f"dim: got {dim}; expected at most the {int((scale > 0).sum())} dimensions that the rows of "
                f"x span."
            )
        return cls(axes[:, :dim] * scale[:dim], loc)

    def _call(self, u: Tensor) -> Tensor:
        return self.loc + u @ self.matrix.mT

    def _inverse(self, x: Tensor) -> Tensor:
        return (x - self.loc) @ self.inverse_matrix.mT

    def jvp(self, u: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
        return self._call(u), tangents @ self.matrix.mT


def principal_axes(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, principal axes (columns, those of most variance first) and standard deviations of the rows of
    ``x``."""
    if x.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"x: got dtype {x.dtype}; expected torch.float32 or torch.float64. Convert it with .float()."
        )
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

    :param forward: g, a differentiable function of one vector or a batch of them. If it is itself an
        injective map, its ``jvp`` is used: with an encoder network as ``inverse`` this is the M_e-flow; two
        networks are the decoder and encoder of a probabilistic auto-encoder. Modules become submodules.
    :param inverse: a left inverse of it.
    :param int dim: n.
    :param int codomain_dim: d.
    :param bool pure: declares that both functions read nothing besides their argument but parameters and
        buffers of modules. Only then are results remembered (draws are scored without the inverse, observed
        data are encoded once), since any other function may read tensors that change later. It is not needed
        for charts made of transforms and of torch's own modules.
    :raises ValueError: if n > d; for arguments that cannot be called; where the derivative of g loses rank.

    >>> circle = Chart(lambda u: torch.cat([u.cos(), u.sin()], -1), lambda x: torch.atan2(x[..., 1:], x[..., :1]), 1, 2)
    >>> circle(torch.tensor([0.0])), circle.log_volume(torch.tensor([0.0]))
    (tensor([1., 0.]), tensor(0.))
    """

    @checked(dim=1)
    def __init__(
        self,
        forward: Callable[[Tensor], Tensor],
        inverse: Callable[[Tensor], Tensor],
        dim: int,
        codomain_dim: int,
        *,
        pure: bool = False,
        cache_size: int = 0,
    ) -> None:
        super().__init__(dim, codomain_dim, cache_size=cache_size)
        for name, f in (("forward", forward), ("inverse", inverse)):
            if not callable(f):
                raise ValueError(
                    f"{name}: got {f!r}; expected a function (or module) of one tensor of vectors. Write the "
                    "chart as a function of u and its left inverse as a function of x."
                )
        self._forward: Any = forward
        self._backward: Any = inverse
        self.pure = pure

    def depends(self) -> list[Any] | None:
        read: list[Any] = []
        for f in (self._forward, self._backward):
            known = dependencies(f)
            if known is None and not self.pure:
                return None
            read.extend(
                [*f.parameters(), *f.buffers()] if known is None and isinstance(f, nn.Module) else known or ()
            )
        return read

    def _call(self, u: Tensor) -> Tensor:
        return self._sized("forward", self._forward(u), self.forward_shape(u.shape))

    def _inverse(self, x: Tensor) -> Tensor:
        return self._sized("inverse", self._backward(x), self.inverse_shape(x.shape))

    @staticmethod
    def _sized(name: str, out: Tensor, shape: torch.Size) -> Tensor:
        if out.shape != shape:
            raise ValueError(
                f"{name}: it returned shape {tuple(out.shape)}, expected {tuple(shape)}, of dim and "
                "codomain_dim and with the batch axes of its argument. Write it with leading batch axes "
                "(x[..., 0], dim=-1)."
            )
        return out

    def jvp(self, u: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
        own = isinstance(self._forward, InjectiveTransform)
        return self._forward.jvp(u, tangents) if own else super().jvp(u, tangents)


class OntoImage(SeparateVolume):
    r"""An injective map as the bijection from :math:`\mathbb R^n` onto its image: unconstrained coordinates
    of a latent site.

    .. math:: u \mapsto g(u) \in M, \qquad \log\frac{d\mathrm{vol}_M}{du} = \tfrac12\log\det J_g^TJ_g

    Guides and kernels get it by ``biject_to(image(g))``. Its values are points of a manifold: no layer of
    :math:`\mathbb R^d` can follow it.

    :param InjectiveTransform transform: g.
    """

    domain = constraints.real_vector

    def __init__(self, transform: InjectiveTransform, cache_size: int = 0) -> None:
        super().__init__(cache_size=cache_size)
        self.transform = transform

    @property
    def codomain(self) -> constraints.Constraint:  # type: ignore[override]
        return image(self.transform)

    def depends(self) -> list[Any] | None:
        return self.transform.depends()

    def _call(self, x: Tensor) -> Tensor:
        return self.transform(x)

    def _inverse(self, y: Tensor) -> Tensor:
        return self.transform.inv(y)

    def log_volume(self, x: Tensor) -> Tensor:
        return self.transform.log_volume(x)

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        return self.transform.forward_shape(shape)

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        return self.transform.inverse_shape(shape)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OntoImage) and self.transform == other.transform

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"OntoImage({self.transform!r})"


_register: Any = biject_to.register
_register(image, lambda constraint: OntoImage(constraint.transform))
transform_to.register(image, lambda constraint: OntoImage(constraint.transform))
