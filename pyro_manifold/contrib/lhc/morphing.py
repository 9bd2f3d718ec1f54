r"""A latent density whose dependence on theta is a ratio of quadratic forms, as that of every interfering
amplitude.

.. math::
    p(u \mid \theta) = p_{\mathrm{mix}}(u)\,
        \frac{\tilde\theta^\top B(u)\,\tilde\theta}{\tilde\theta^\top S\,\tilde\theta}, \qquad
    B(u) = \frac{C(u)\,C(u)^\top}{\mathrm{tr}\,G\,C(u)\,C(u)^\top}, \qquad
    G = \mathbb E_{\theta\sim\pi}\frac{\tilde\theta\tilde\theta^\top}{\tilde\theta^\top S\,\tilde\theta}

with :math:`\tilde\theta = (1, \theta)`, S known from the simulator (total rates) and C a network. By the
choice of G the mixture
:math:`\mathbb E_{\theta\sim\pi}\,p(u \mid \theta)` is :math:`p_{\mathrm{mix}}(u)` whatever C is. References:
    Brehmer, Louppe,
Pavez, Cranmer, *Mining gold from implicit models*, PNAS 2020 (morphing-aware estimators); Brehmer, Cranmer,
Louppe, Pavez, *A guide to constraining effective field theories with machine learning*, Phys. Rev. D 98
(2018) 052004.
"""

import math
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ...flows.latent_flow import LatentDensity, LatentFlow
from ...nn.mlp import MLP
from ...ops.arguments import checked
from ...ops.checks import as_tensors, check_all
from ...ops.memo import Memo
from ...ops.rejection import rejection
from ...ops.tracing import is_concrete
from ...transforms.cache import dependencies

__all__ = ["MorphingHead"]


class MorphingHead(LatentDensity):
    r"""A density of latents that :class:`~pyro_manifold.models.ManifoldFlow` takes in place of a conditional
    ``LatentFlow``.

    .. math:: w(u, \theta) = \frac{p(u \mid \theta)}{p_{\mathrm{mix}}(u)}
        = \frac{|M(u)^\top s|^2}{\mathbb E_{\theta'\sim\pi}|M(u)^\top s'|^2}, \qquad
        s = \frac{L^\top\tilde\theta}{|L^\top\tilde\theta|}, \quad LL^\top = S, \quad C = LM

    Base measure: Lebesgue measure of :math:`\mathbb R^n`. A new head has M = 1, so :math:`w = 1`. While the
    same u are observed, M(u) and :math:`p_{\mathrm{mix}}(u)` are computed once: another theta costs one small
    product. Draws are exact, by rejection with the provable bound
    :math:`w \le \tilde\theta^\top G^{-1}\tilde\theta/\tilde\theta^\top S\,\tilde\theta`; they follow the
    density normalised, see :meth:`log_normaliser`.

    :param LatentFlow base: :math:`p_{\mathrm{mix}}` without a context, of the training events whatever their
        theta.
    :param Tensor S: positive definite, shape ``(k + 1, k + 1)``; its scale cancels.
    :param Tensor mixture: the theta of the training events, or draws of their distribution :math:`\pi`, shape
        ``(m, k)``.
    :param tuple hidden: units of the hidden layers of M.
    :raises ValueError: for a base with a context, an S that is not positive definite, shapes that do not fit,
        draws of theta that do not span.

    >>> from pyro_manifold.flows import coupling_chain
    >>> head = MorphingHead(LatentFlow(3, coupling_chain(3, 2)), torch.eye(2), torch.randn(100, 1), hidden=(8,))
    >>> distribution = head.condition(torch.zeros(5, 1))
    >>> distribution.log_prob(torch.zeros(3)).shape, distribution.sample((2,)).shape
    (torch.Size([5]), torch.Size([2, 5, 3]))
    """

    root: Tensor
    gram: Tensor

    @checked
    def __init__(
        self, base: LatentFlow, S: Tensor, mixture: Tensor, *, hidden: tuple[int, ...] = (128, 128, 128)
    ) -> None:
        nn.Module.__init__(self)
        if base.context_dim:
            raise ValueError(
                f"base: it has a context of size {base.context_dim}; expected none, as of a mixture over "
                f"theta."
            )
        S, mixture = as_tensors(S=S, mixture=mixture.to(S))
        if mixture.dim() != 2 or S.shape != (mixture.shape[-1] + 1,) * 2:
            raise ValueError(
                f"S, mixture: got shapes {tuple(S.shape)}, {tuple(mixture.shape)}; expected (k + 1, k + 1), "
                f"(m, k)."
            )
        root, wrong = torch.linalg.cholesky_ex(S)
        if wrong or not torch.allclose(S, S.mT):
            raise ValueError(
                "S: got a matrix that is not symmetric and positive definite, as the total rates of "
                "amplitudes are."
            )
        self.base, self.dim, self.context_dim = base, base.dim, mixture.shape[-1]
        self.register_buffer("root", root)
        s = self._direction(mixture)
        gram = s.mT @ s / len(s)
        if not bool(torch.linalg.eigvalsh(gram)[0] > 1e-6):
            raise ValueError(
                f"mixture: got {len(s)} draws whose (1, theta) do not span {len(S)} dimensions; give more of "
                f"them."
            )
        self.register_buffer("gram", gram)
        self.net = MLP(base.dim, len(S) ** 2, hidden)
        self._features = Memo()
        self.to(base.zero)

    def _direction(self, theta: Tensor) -> Tensor:
        """s, unit vectors of shape ``(..., k + 1)``."""
        theta = theta.to(self.root)
        s = torch.cat([torch.ones_like(theta[..., :1]), theta], -1) @ self.root
        return s / torch.linalg.vector_norm(s, dim=-1, keepdim=True)

    def amplitudes(self, u: Tensor) -> Tensor:
        r"""M(u), shape ``(..., k + 1, k + 1)``, scaled so that :math:`w = |M^\top s|^2`."""
        size = len(self.gram)
        m = self.net(u).unflatten(-1, (size, size)) + torch.eye(
            size, dtype=self.gram.dtype, device=self.gram.device
        )
        return m / ((self.gram @ m) * m).sum((-2, -1), keepdim=True).sqrt()

    def log_ratio(self, u: Tensor, context: Tensor) -> Tensor:
        r""":math:`\log w(u, \theta)`: all that inference of theta needs, without the cost of
        :math:`p_{\mathrm{mix}}`."""
        return _log_form(self.amplitudes(u), self._direction(context))

    @property
    def flow(self) -> LatentFlow:
        return self.base

    def relative_log_prob(self, u: Tensor, context: Tensor | None = None) -> Tensor:
        """:meth:`log_ratio` while the base is frozen."""
        if context is None or any(p.requires_grad for p in self.base.parameters()):
            return super().relative_log_prob(u, context)
        return self.log_ratio(u, context)

    def condition(self, context: Tensor | None = None) -> "_Morphed":
        if context is None or context.shape[-1:] != (self.context_dim,):
            seen = "none" if context is None else f"shape {tuple(context.shape)}"
            raise ValueError(f"context: got {seen}; expected size {self.context_dim} on the last axis.")
        if is_concrete(context):
            check_all(
                context.isfinite().all(-1),
                "context",
                context,
                "finite numbers",
                "Look at where they come from.",
            )
        return _Morphed(self, self._direction(context))

    def features(self, u: Tensor) -> tuple[Tensor, Tensor]:
        r""":math:`\log p_{\mathrm{mix}}(u)` and :math:`M(u)`, computed once while neither u nor a parameter
        changes."""
        depends = self._depends() if is_concrete(u) else None
        seen = self._features.get([u], depends)
        if seen is not None:
            return seen[0], seen[1]
        log_mix, m = self.base.condition().log_prob(u), self.amplitudes(u)
        if is_concrete(u) and not (log_mix.requires_grad or m.requires_grad):
            self._features.put([u], depends, [log_mix, m])
        return log_mix, m

    def _depends(self) -> list[Any] | None:
        """What the features are computed from besides u."""
        read = dependencies(self.base.layers)
        return None if read is None else [*read, *self.parameters(), *self.buffers()]

    @torch.no_grad()
    def log_normaliser(self, context: Tensor, num: int = 10_000) -> Tensor:
        r"""Log of :math:`\int p(u \mid \theta)\,du = \tilde\theta^\top E_{\mathrm{mix}}[B]\,\tilde\theta/
        \tilde\theta^\top S\,\tilde\theta` by ``num`` draws: 0 for the true B, and a measure of what training
        has left."""
        m = self.amplitudes(self.base.condition().sample((num,)))
        forms = torch.einsum("nac,nbc->ab", m, m) / num
        s = self._direction(context)
        return torch.einsum("...a,ab,...b->...", s, forms, s).log()

    def clear_cache(self) -> None:
        """Forget the last u."""
        self._features.clear()


def _log_form(m: Tensor, s: Tensor) -> Tensor:
    return (m.mT @ s.unsqueeze(-1)).square().sum((-2, -1)).log()


class _Morphed(dist.TorchDistribution):
    """The density of a head given unit vectors ``s``, shape ``batch + (k + 1,)``."""

    arg_constraints: dict[str, Any] = {}
    support = dist.constraints.real_vector

    def __init__(self, head: MorphingHead, s: Tensor) -> None:
        self.head, self.s = head, s
        super().__init__(s.shape[:-1], torch.Size([head.dim]), validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "_Morphed":
        return _Morphed(self.head, self.s.expand(torch.Size(batch_shape) + self.s.shape[-1:]))

    def log_prob(self, value: Tensor) -> Tensor:
        log_mix, m = self.head.features(value)
        return log_mix + _log_form(m, self.s)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        s = self.s.reshape(-1, self.s.shape[-1])
        log_bound = (s * torch.linalg.solve(self.head.gram, s.mT).mT).sum(-1).log()
        base = self.head.base.condition()

        def propose(k: int, row: Tensor | slice) -> tuple[Tensor, Tensor]:
            u = base.sample((k,))
            return u, _log_form(self.head.amplitudes(u), s[row]) - log_bound[row]

        shape = torch.Size(sample_shape)
        draws = rejection(propose, math.prod(shape), len(s), self.head.dim, self.head.base.zero)
        return draws.reshape(shape + self.batch_shape + self.event_shape)
