r"""Densities on a learned manifold.

.. math::
    x = g(u),\quad u \sim h(\cdot \mid \theta), \qquad
    \log p(x \mid \theta) = \log p_h(u \mid \theta) - \tfrac12\log\det J_g^TJ_g

Reference: Brehmer and Cranmer, *Flows for simultaneous manifold learning and density estimation*, NeurIPS
2020, sec. 2-3.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ..distributions import Pushforward
from ..flows import Affine, Coupling, InjectiveFlow, LatentDensity, LULinear
from ..nn import MLP
from ..ops.arguments import checked
from ..transforms import Chart, InjectiveTransform, LinearEmbedding, Pad
from ..transforms.injective import principal_axes
from .flow_model import FlowModel, check_dim, latent_flow

__all__ = ["ManifoldFlow"]


def graph_layers(
    x: Tensor, dim: int, depth: int, hidden: tuple[int, ...], kind: str, mix: bool = True
) -> list[Any]:
    """Layers from (u, 0) to data that start as the principal axes of the rows ``x``.

    Couplings bend (u, 0) into a graph over u, then change u given all else, and so on in turn. With ``mix`` u
    is changed in two halves, the second given the first too, and a linear layer after each coupling turns the
    axes: surfaces can then roll up. The last layer is fixed and has the units of the data, so that all that
    is learned is of order 1.
    """
    d = x.shape[-1]
    halves = [range((dim + 1) // 2), range((dim + 1) // 2, dim)] if mix and dim > 1 else [range(dim)]
    parts = [range(dim, d), *halves]
    layers: list[Any] = []
    for i in range(depth if dim < d else 0):
        layers.append(Coupling(d, parts[i % len(parts)], hidden=hidden, kind=kind))
        if mix:
            layers.append(LULinear(d))
    if not mix or not layers:
        layers.append(LULinear(d))
    return [*(layer.to(x) for layer in layers), Affine.from_pca(x, floor=0.01)]


class ManifoldFlow(FlowModel):
    r"""A learned manifold, the image of an injective map g, and a density h of its coordinates: M-flow,
    M_e-flow, FOM and PAE.

    ============ ==================================================================================
    M-flow       ``ManifoldFlow.from_data(x, dim)``: g an injective flow, inverted exactly
    M_e-flow     ``ManifoldFlow.from_data(x, dim, encoder=True)``: a network in place of its inverse
    FOM          ``ManifoldFlow(Chart(g, inverse, n, d), latent)``: g is prescribed
    PAE          ``ManifoldFlow.autoencoder(x, dim)``: networks both ways
    ============ ==================================================================================

    Base measure: Hausdorff measure of the image. Train it with :func:`~pyro_manifold.training.fit_md`, never
    by maximising the likelihood of g, which may choose the manifold on which the density is largest rather
    than the one the data are on.

    :param InjectiveTransform transform: g.
    :param LatentFlow latent: h.
    :param str off_manifold: see :class:`~pyro_manifold.distributions.Pushforward`.
    :raises ValueError: if the dimensions differ; where a flow is made from data, for n >= d.

    >>> x = torch.randn(50, 3)
    >>> flow = ManifoldFlow.from_data(x, dim=2, hidden=(8,))
    >>> flow.log_prob(x).shape, flow.condition().sample((4,)).shape
    (torch.Size([50]), torch.Size([4, 3]))
    """

    @checked
    def __init__(
        self, transform: InjectiveTransform, latent: LatentDensity, *, off_manifold: str = "project"
    ) -> None:
        super().__init__()
        if off_manifold not in ("project", "reject", "error"):
            raise ValueError(f"off_manifold: got {off_manifold!r}, expected 'project', 'reject' or 'error'.")
        if latent.dim != transform.dim:
            raise ValueError(
                f"latent: its dimension is {latent.dim}; expected {transform.dim}, that of transform's "
                f"domain."
            )
        self.transform, self.latent, self.off_manifold = transform, latent, off_manifold

    @classmethod
    @checked(dim=1, context_dim=0, depth=0, latent_depth=0)
    def from_data(
        cls,
        x: Tensor,
        dim: int,
        context_dim: int = 0,
        *,
        depth: int = 6,
        hidden: tuple[int, ...] = (64, 64, 64),
        kind: str = "affine",
        mix: bool = True,
        latent_depth: int = 5,
        latent_hidden: tuple[int, ...] = (64, 64),
        encoder: bool = False,
    ) -> "ManifoldFlow":
        """An M-flow of dimension ``dim`` that starts as the principal subspace of the rows ``x``.

        :param int context_dim: size of the context of h; 0 for none.
        :param int depth: couplings of g, of ``kind`` affine or spline.
        :param bool mix: linear layers between them, with which surfaces can roll up; without, g is a graph
            bent over.
        :param int latent_depth: spline couplings of h.
        :param bool encoder: a network in place of g's inverse (M_e-flow).
        """
        check_dim(x, dim)
        g: InjectiveTransform = InjectiveFlow(
            Pad(dim, x.shape[-1]), graph_layers(x, dim, depth, hidden, kind, mix)
        ).to(x)
        if encoder:
            g = Chart(g, _Encoder(x, dim, hidden), dim, x.shape[-1])
        return cls(g, latent_flow(dim, context_dim, latent_depth, latent_hidden).to(x))

    @classmethod
    def autoencoder(
        cls,
        x: Tensor,
        dim: int,
        context_dim: int = 0,
        *,
        hidden: tuple[int, ...] = (100, 100, 100),
        latent_depth: int = 5,
        latent_hidden: tuple[int, ...] = (64, 64),
    ) -> "ManifoldFlow":
        """A probabilistic auto-encoder (PAE). Its decoder need not be injective: published densities are
        those of u alone,
        :meth:`latent_log_prob`."""
        check_dim(x, dim)
        net = MLP(dim, x.shape[-1], hidden)
        nn.init.normal_(net.last.weight, std=0.05)
        decoder = nn.Sequential(net, Affine.from_pca(x, floor=0.01)).to(x)
        return cls(
            Chart(decoder, _Encoder(x, dim, hidden), dim, x.shape[-1]),
            latent_flow(dim, context_dim, latent_depth, latent_hidden).to(x),
        )

    @torch.no_grad()
    def whitened(self, x: Tensor) -> "ManifoldFlow":
        """The same manifold in coordinates that have mean 0 and covariance 1 over the rows ``x``, as the
        splines of h like them; h is taken along untransformed, to be trained next.

        :raises ValueError: unless g is an injective flow after an affine embedding, or if coordinates of rows
            are collinear.
        """
        g = self.transform
        if not (isinstance(g, InjectiveFlow) and isinstance(g.embedding, Pad | LinearEmbedding)):
            raise ValueError(
                f"transform: got {type(g).__name__}; expected an InjectiveFlow after Pad or LinearEmbedding."
            )
        loc, axes, scale = principal_axes(g.inv(x))
        middle = g.embedding(loc)
        e = LinearEmbedding((g.embedding(loc + (axes * scale).mT) - middle).mT, middle)
        return ManifoldFlow(InjectiveFlow(e, g.layers), self.latent, off_manifold=self.off_manifold)

    @property
    def context_dim(self) -> int:
        return self.latent.context_dim

    def condition(self, context: Tensor | None = None) -> Pushforward:
        r""":math:`p(\cdot \mid \theta)`, a distribution on the manifold."""
        return Pushforward(self.latent.condition(context), self.transform, off_manifold=self.off_manifold)

    def coordinates(self, x: Tensor) -> Tensor:
        """u, those of the projection of ``x``."""
        return self.transform.inv(x)

    def relative_log_prob(self, u: Tensor, context: Tensor | None = None) -> Tensor:
        r""":math:`\log p_h(u \mid \theta)`, up to a term that is constant in :math:`\theta` and in what is
        trained."""
        return self.latent.relative_log_prob(u, context)

    def standardise(self, u: Tensor) -> None:
        """Set the fixed layer of h to mean and principal axes of the rows ``u``."""
        if any(p.requires_grad for p in self.latent.flow.parameters()):
            self.latent.flow.standardise(u)

    def manifold_parameters(self) -> list[nn.Parameter]:
        return list(self.transform.parameters())

    def density_parameters(self) -> list[nn.Parameter]:
        return list(self.latent.parameters())

    def latent_log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        r""":math:`\log p_h(u \mid \theta)`: log p up to a term that does not depend on :math:`\theta`."""
        return self.latent.condition(context).log_prob(self.transform.inv(x))

    def denoise(self, x: Tensor) -> Tensor:
        """The projection of ``x`` onto the manifold."""
        return self.transform.project(x)

    def ood_score(self, x: Tensor) -> Tensor:
        """How far ``x`` is from the manifold: the reconstruction error, large for what is not of the data.
        (The density alone does not tell; its value off the manifold is that of the projection.)"""
        return self.transform.reconstruction_error(x)


class _Encoder(nn.Module):
    """A network from x to u, beside the principal coordinates: at first just those."""

    def __init__(self, x: Tensor, dim: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.dim = dim
        self.whiten = Affine.from_pca(x, floor=0.01)
        self.net = MLP(x.shape[-1], dim, hidden)
        self.to(x)

    def forward(self, x: Tensor) -> Tensor:
        z = self.whiten._inverse(x)
        return z[..., : self.dim] + self.net(z)
