r"""An atlas of charts around the codes of a vector-quantised auto-encoder, with a density on each.

.. math::
    g_k(u) = m_k + W_k\,f\big((u, 0);\, v_k\big), \qquad q_k(u) = q(u \mid v_k), \qquad
    p(x) = \sum_k w_k\,\frac{q_k(u_k)}{Z_k}\det\!\big(J_k^TJ_k\big)^{-1/2}, \quad u_k = g_k^{-1}(x)

Reference: Sidheekh, Dock, Jain, Balan and Singh, *VQ-flows: vector quantized local normalizing flows*, UAI 2022.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..distributions import Atlas, Pushforward
from ..flows import Conditional, Coupling, InjectiveFlow, LatentFlow, SpecialConformal
from ..flows.latent_flow import autoregressive_chain, coupling_chain
from ..flows.local_frames import LocalFrames
from ..flows.local_quadrics import LocalQuadrics, monomials, quadric_of
from ..nn import NeighbourRegions, VectorQuantizer, VQAutoencoder
from ..ops.arguments import checked
from ..ops.memo import Memo, module_tensors
from ..transforms import Pad
from ..transforms.injective import principal_axes
from .chart_ends import chart_ends, limiting_directions
from .flow_model import FlowModel, check_dim
from .saved import Saved

__all__ = ["VQFlow"]

_FLOOR = 0.05  # scale of the axes across a chart, as a share of those along it, where the data have less
_GRADIENT_DRAWS = 1024
_AROUND = 2.0  # how much farther from its code than those it is trained on rows tell where a chart goes on
_QUADRICS = 8  # dimension of charts up to which they start as quadrics: the coefficients grow like its square


class VQFlow(Saved, FlowModel):
    r"""A manifold in pieces: K charts, each an injective flow conditioned on its code, each on the region of its
    code, with densities of their coordinates that are conditioned likewise.

    .. math:: p(x) = \sum_{k:\, x \in U_k} w_k\,\frac{q(u_k \mid v_k)}{Z_k}\det\!\big(J_k^TJ_k\big)^{-1/2}

    Base measure: the n-dimensional Hausdorff measure of the union of the pieces of images in their regions. For
    curves and surfaces that no single chart covers, and for data in several components. Train it with
    :func:`~pyro_manifold.training.fit_vq`: first the codes, then the charts, then the densities.

    Charts and densities are trained on the regions :math:`d_k(x) \le (1 + \epsilon)\,d_{(m)}(x)`, which overlap, so
    that they are right beyond the border of the cells :math:`d_k(x) = d_{(1)}(x)`. The distribution itself has
    the cells as its regions, which share no point, and its mass is 1 by construction; with ``overlap`` it has the
    overlapping ones, and adds the densities of charts there (see :class:`~pyro_manifold.distributions.Atlas`).
    Coordinates are cut off where rows end inside of a chart's cell (beyond the last one there would be room for eight
    more) and not where another chart goes on, so that the manifold ends where the data do.

    :param VQAutoencoder autoencoder: the codes :math:`v_k`.
    :param Conditional transform: g, an injective flow that depends on a code and ends with
        :class:`~pyro_manifold.flows.LocalFrames`. Where its context is larger than a code, the rest is a fixed random
        vector for each code: networks tell neighbouring charts apart more easily by it.
    :param LatentFlow latent: q, likewise.
    :param int neighbours: m.
    :param float eps: :math:`\epsilon`.
    :param bool overlap: regions that overlap in the distribution too.
    :param str off_manifold: see :class:`~pyro_manifold.distributions.Pushforward`.
    :param int draws: of each chart, for the estimate of :math:`Z_k`.
    :raises ValueError: for parts that do not fit, a chart dimension that is not below that of the data, more codes
        than rows, fewer rows in all than a chart needs.

    >>> t = 6.28 * torch.rand(200, 1)
    >>> flow = VQFlow.from_data(torch.cat([t.cos(), t.sin()], 1), dim=1, charts=4, hidden=(8,), latent_hidden=(8,))
    >>> flow.sample((5,)).shape, flow.log_prob(torch.tensor([[1.0, 0.0]])).shape
    (torch.Size([5, 2]), torch.Size([1]))
    """

    weights: Tensor
    normals: Tensor
    reach: Tensor
    centres: Tensor
    labels: Tensor

    @checked(neighbours=1, eps=0, draws=1)
    def __init__(
        self,
        autoencoder: VQAutoencoder,
        transform: Conditional,
        latent: LatentFlow,
        *,
        neighbours: int = 1,
        eps: float = 0.3,
        overlap: bool = False,
        off_manifold: str = "project",
        draws: int = 16384,
    ) -> None:
        super().__init__()
        if off_manifold not in ("project", "reject", "error"):
            raise ValueError(f"off_manifold: got {off_manifold!r}, expected 'project', 'reject' or 'error'.")
        g, c = transform.layer, autoencoder.quantizer.dim
        if not isinstance(g, InjectiveFlow) or not isinstance(g.layers[-1], LocalFrames):
            raise ValueError(f"transform: got {g!r}; expected an InjectiveFlow that ends with LocalFrames.")
        more = transform.context_dim - c
        if latent.dim != g.dim or latent.context_dim != transform.context_dim or more < 0:
            raise ValueError(
                f"latent, transform: got dimensions {latent.dim} and {g.dim}, contexts of size {latent.context_dim} "
                f"and {transform.context_dim}; expected equal dimensions, and contexts of one size, at least that of "
                f"a code, {c}."
            )
        if not g.dim < g.codomain_dim:
            raise ValueError(
                f"transform: got charts of dimension {g.dim} in {g.codomain_dim}; expected a lower dimension than "
                "that of the data."
            )
        self.autoencoder, self.transform, self.latent = autoencoder, transform, latent
        self.neighbours, self.eps = neighbours, float(eps)
        self.overlap, self.off_manifold, self.draws = overlap, off_manifold, draws
        codes = autoencoder.quantizer.codes
        K, n = len(codes), g.dim
        normals = limiting_directions(n).to(codes)
        self.register_buffer("weights", codes.new_full((K,), 1 / K))
        self.register_buffer("normals", normals)
        self.register_buffer("reach", codes.new_full((K, len(normals)), torch.inf))
        self.register_buffer("centres", codes.new_zeros(K, n))
        self.register_buffer(
            "labels", torch.randn(K, more, generator=torch.Generator().manual_seed(0)).to(codes)
        )
        self._memo = Memo()

    @classmethod
    @checked(dim=1, charts=1, code_dim=1, depth=1, latent_depth=0, label_dim=0, neighbours=1, eps=0, draws=1)
    def from_data(
        cls,
        x: Tensor,
        dim: int,
        charts: int,
        *,
        code_dim: int | None = None,
        code_hidden: tuple[int, ...] = (64, 64),
        depth: int = 3,
        hidden: tuple[int, ...] = (64, 64),
        kind: str = "affine",
        latent_depth: int = 4,
        latent_hidden: tuple[int, ...] = (64, 64),
        latent_kind: str = "spline",
        label_dim: int = 16,
        neighbours: int = 1,
        eps: float = 0.3,
        overlap: bool = False,
        off_manifold: str = "project",
        draws: int = 16384,
        seed: int = 0,
    ) -> "VQFlow":
        """Charts of dimension ``dim`` that start as the principal axes of the rows around the centres of k-means.

        :param int charts: K.
        :param int code_dim: size of a code (default: d, at most 8); ``code_hidden`` are the units of the
            auto-encoder.
        :param int depth: couplings of the charts, of ``kind`` affine or spline. ``kind="conformal"`` has a conformal
            map in their place, as in the paper: each chart is a piece of a plane or of a sphere.
        :param int latent_depth: layers of the densities, of ``latent_kind``: ``"spline"`` or ``"affine"`` couplings,
            or ``"autoregressive"``, affine layers of a masked autoregressive flow.
        :param int label_dim: size of the random vectors that tell charts apart besides their codes.
        """
        check_dim(x, dim)
        if latent_kind not in ("spline", "affine", "autoregressive"):
            raise ValueError(
                f"latent_kind: got {latent_kind!r}; expected 'spline', 'affine' or 'autoregressive'."
            )
        d = x.shape[1]
        autoencoder = VQAutoencoder.from_data(x, charts, code_dim, hidden=code_hidden, seed=seed)
        c, K = autoencoder.quantizer.dim + label_dim, charts
        blank = x.new_zeros(K, c)
        parts = [range(dim, d), range(dim)]
        bends: list[Any] = [SpecialConformal(d, hidden=hidden)]
        if kind != "conformal":
            bends = [Coupling(d, parts[i % 2], hidden=hidden, kind=kind) for i in range(depth)]
            if dim <= _QUADRICS:
                many = monomials(x.new_zeros(dim)).shape[-1]
                bends.append(LocalQuadrics(blank, x.new_zeros(K, d - dim, many), dim))
        frames = [
            LocalFrames(blank, torch.eye(m).repeat(K, 1, 1).to(x), torch.zeros(K, m).to(x)) for m in (d, dim)
        ]
        flow = InjectiveFlow(Pad(dim, d), [*(b.to(x) for b in bends), frames[0]])
        if latent_kind == "autoregressive":
            chain = autoregressive_chain(dim, latent_depth, c, hidden=latent_hidden)
        else:
            chain = coupling_chain(dim, latent_depth, c, hidden=latent_hidden, kind=latent_kind)
        layers = [*chain, Conditional(frames[1], c)]
        latent = LatentFlow(dim, layers, c).to(x)
        options: dict[str, Any] = dict(
            neighbours=neighbours, eps=eps, overlap=overlap, off_manifold=off_manifold, draws=draws
        )
        new = cls(autoencoder, Conditional(flow, c).to(x), latent, **options)
        new.place_charts(x)
        new.place_densities(x)
        return new

    def settings(self) -> dict[str, Any]:
        return {"neighbours": self.neighbours, "eps": self.eps, "overlap": self.overlap}

    # --- where the charts are ---------------------------------------------------------------------------------
    @property
    def codes(self) -> Tensor:
        """The codes in use, shape ``(K, c)``."""
        quantizer = self.autoencoder.quantizer
        return quantizer.codes[quantizer.active]

    @property
    def contexts(self) -> Tensor:
        """What the charts in use are conditioned on: codes, and random vectors that tell them apart."""
        active = self.autoencoder.quantizer.active
        return torch.cat([self.codes, self.labels[active]], -1)

    def regions(self, *, training: bool = False) -> NeighbourRegions:
        """The regions of the charts in use: of the distribution, or those that charts are trained on."""
        active = self.autoencoder.quantizer.active
        codes = VectorQuantizer(self.codes)
        if training:
            return NeighbourRegions(
                self.autoencoder.encoder, codes, min(self.neighbours, len(codes.codes)), self.eps
            )
        rule = (min(self.neighbours, len(codes.codes)), self.eps) if self.overlap else (1, 0.0)
        reach, centres = self.reach[active], self.centres[active]
        return NeighbourRegions(
            self.autoencoder.encoder, codes, *rule, normals=self.normals, reach=reach, centres=centres
        )

    @torch.no_grad()
    def cover(self, x: Tensor) -> Tensor:
        """Whether each chart in use is trained on the rows ``x``, shape ``(rows, K)``."""
        regions = self.regions(training=True)
        return torch.cat([regions(part) for part in x.split(2048)]) if len(x) else regions(x)

    @torch.no_grad()
    def coordinates_in(self, x: Tensor, context: Tensor) -> Tensor:
        """Coordinates of the rows ``x`` in the charts with these contexts, one for each."""
        pairs = zip(x.split(1024), context.split(1024), strict=True)
        return torch.cat([self.transform.condition(c)._inverse(part) for part, c in pairs])

    @torch.no_grad()
    def place_charts(self, x: Tensor) -> None:
        """Turn each chart to the principal axes of the rows it is trained on, after giving up codes with fewer rows
        than a chart needs, 2 (n + 1)."""
        g = self.transform.layer
        quantizer, n, d = self.autoencoder.quantizer, g.dim, g.codomain_dim
        conformal = any(
            isinstance(layer, SpecialConformal) for layer in g.layers
        )  # those want one scale for all axes
        quantizer.active.fill_(True)
        features = torch.cat([self.autoencoder.encoder(part) for part in x.split(2048)])
        quantizer.retire(features, 2 * (n + 1))
        cover, used = self.cover(x), quantizer.active.nonzero().squeeze(-1).tolist()
        quadrics = next((layer for layer in g.layers if isinstance(layer, LocalQuadrics)), None)
        heights = None if quadrics is None else torch.zeros_like(quadrics.coefficients)
        matrix, loc = (
            torch.eye(d).to(x).repeat(len(quantizer.codes), 1, 1),
            x.mean(0).repeat(len(quantizer.codes), 1),
        )
        for i, k in enumerate(used):
            middle, axes, scale = principal_axes(x[cover[:, i]])
            if not bool(scale[n - 1] > 0):
                raise ValueError(
                    f"x: the rows of chart {k} span {int((scale > 0).sum())} dimensions; expected at least {n}. Use "
                    "fewer charts, or charts of a lower dimension."
                )
            scale = (
                scale[:n].square().mean().sqrt()
                if conformal
                else scale.clamp_min(_FLOOR * float(scale[n - 1]))
            )
            matrix[k], loc[k] = axes * scale, middle
            if heights is not None:
                own = (x[cover[:, i]] - middle) @ axes / scale
                heights[k] = quadric_of(own[:, :n], own[:, n:])
        contexts = torch.cat([quantizer.codes, self.labels], -1)
        g.layers[-1].place(contexts, matrix, loc)
        if quadrics is not None and heights is not None:
            quadrics.place(contexts, heights)

    @torch.no_grad()
    def place_densities(self, x: Tensor) -> None:
        """Set weights, scales of the densities and limits of the coordinates to those of the rows ``x``."""
        active, n = self.autoencoder.quantizer.active, self.transform.layer.dim
        cover, cells, contexts = self.cover(x), self.autoencoder.assign(x), self.contexts
        rows = cells.bincount(minlength=len(active)).to(x)
        matrix, loc = torch.eye(n).to(x).repeat(len(active), 1, 1), x.new_zeros(len(active), n)
        for i, k in enumerate(active.nonzero().squeeze(-1).tolist()):
            own = x[cover[:, i]]
            u = self.coordinates_in(own, contexts[i].expand(len(own), -1))
            middle, axes, scale = principal_axes(u)
            matrix[k], loc[k] = axes * scale.clamp_min(1e-3 * float(scale[0])), middle
            self.centres[k] = middle
            around = partial(self._rows_around, x, cover[:, i], i)
            self.reach[k] = chart_ends(u, self.normals, self._in_cell(k, contexts[i]), around)
        self.weights.copy_(rows / rows.sum())
        boxes: Any = self.latent.layers[-1]
        boxes.layer.place(torch.cat([self.autoencoder.quantizer.codes, self.labels], -1), matrix, loc)

    def _rows_around(self, x: Tensor, trained: Tensor, i: int) -> Tensor:
        """Coordinates in chart i of rows around those that it is ``trained`` on which are as near to it as nearly all
        of these are: they tell where it goes on."""
        d = self.regions(training=True).distances(x)
        others = ~trained & (d[:, i] <= _AROUND * (1 + self.eps) * d.amin(-1))
        g = self.transform.condition(self.contexts[i])
        u, usual = (g._inverse(rows) for rows in (x[others], x[trained]))
        off, most = (
            torch.linalg.vector_norm(rows - g._call(v), dim=-1)
            for rows, v in ((x[others], u), (x[trained], usual))
        )
        return u[off <= most.quantile(0.99)]

    def _in_cell(self, k: int, context: Tensor) -> Callable[[Tensor], Tensor]:
        """Whether the points with given coordinates in chart k are nearest to its code."""
        g = self.transform.condition(context)
        return lambda u: self.autoencoder.assign(g._call(u)) == k

    @torch.no_grad()
    def fit_weights(self, x: Tensor, steps: int = 20) -> None:
        """Set the weights to the mean responsibilities of the charts for the rows ``x``: the shares of the rows in the
        cells, or by ``steps`` of EM where regions overlap."""
        if self.overlap:
            active, acceptance = self.autoencoder.quantizer.active, self._acceptance()
            for _ in range(steps):
                self.weights[active] = self._atlas(acceptance=acceptance).responsibilities(x).mean(0)

    # --- the distribution -------------------------------------------------------------------------------------
    def condition(self, context: Tensor | None = None) -> Atlas:
        """The distribution on the pieces; a context there is none."""
        if context is not None:
            raise ValueError(f"context: got shape {tuple(context.shape)}; a VQFlow has none. Leave it out.")
        return self._atlas(acceptance=self._acceptance)

    def _atlas(self, **kwargs: Any) -> Atlas:
        parts = [
            Pushforward(self.latent.condition(c), self.transform.condition(c), off_manifold=self.off_manifold)
            for c in self.contexts
        ]
        weights = self.weights[self.autoencoder.quantizer.active]
        overlap = "add" if self.overlap else "nearest"
        return Atlas(weights / weights.sum(), parts, regions=self.regions(), overlap=overlap, **kwargs)

    def _acceptance(self) -> Tensor:
        """Of many draws, remembered until a parameter changes; its gradient, where needed, is of fewer."""
        depends = [t for t in module_tensors(self) if t is not self.weights]
        depends += [self.neighbours, self.eps, self.overlap, self.draws]
        seen = self._memo.get([], depends)
        if seen is None:
            with torch.no_grad():
                mean = self._atlas(draws=self.draws).acceptance().mean
            self._memo.put([], depends, [mean])
        else:
            mean = seen[0]
        if torch.is_grad_enabled() and any(p.requires_grad for p in self.latent.parameters()):
            few = self._atlas(draws=min(_GRADIENT_DRAWS, self.draws)).acceptance().mean
            mean = mean * (few / few.detach())
        return mean

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws on the manifold, each in the region of its chart."""
        return self.condition().sample(sample_shape)

    def manifold_parameters(self) -> list[nn.Parameter]:
        return list(self.transform.parameters())

    def density_parameters(self) -> list[nn.Parameter]:
        return list(self.latent.parameters())

    def denoise(self, x: Tensor) -> Tensor:
        """The projection of ``x`` by the chart of its region that is nearest."""
        return self.condition().project(x)

    def ood_score(self, x: Tensor) -> Tensor:
        """How far ``x`` is from that projection."""
        return torch.linalg.vector_norm(x - self.denoise(x), dim=-1)
