r"""Densities of fields of manifold-valued pixels, and of one field given another.

.. math::
    x = f(z),\ z \sim N(0, I), \qquad \log p(x) = \log N\big(f^{-1}(x)\big) - \log\mathrm{vol}_f \\
    x = f_y(z),\ z \sim N\big(m(y), \operatorname{diag} s(y)^2\big), \qquad
    \log p(x \mid y) = \log N\big(f_y^{-1}(x);\, m(y), s(y)^2\big) - \log\mathrm{vol}_{f_y}

with f the multi-scale flow of :class:`~pyro_manifold.flows.MultiScaleField`, from vectors of tangent coordinates. Base
measure: the product of the Riemannian volumes of the pixels. Reference: Zhen et al., *Flow-based generative models for
learning manifold to manifold mappings*, AAAI 2021.
"""

import math
from collections.abc import Sequence
from typing import Any

import geoopt
import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from ..constraints import check_point
from ..flows import Conditional, MultiScaleField, glow_scales
from ..flows.fields import field_constraint, squeezed
from ..geometry import geometry
from ..infer import frechet_mean
from ..nn import ConvNet
from ..nn.field_regression import FieldRegression
from ..ops.arguments import checked
from ..ops.checks import as_tensors
from ..transforms import ExpChart
from ..transforms.chain import as_map

__all__ = ["ManifoldGLOW", "ManifoldToManifoldFlow"]

_LOG_SCALE = 5.0  # log scales of the latent normal stay within +- this, as a soft bound
_FIELDS = 512  # of the data, from which actnorms and regressions are computed
_PIXELS = 4096  # of the data, from which base points are computed


def _check_fields(
    name: str, x: Tensor, manifold: geoopt.Manifold, shape: Sequence[int], event: torch.Size
) -> None:
    whole = (*shape, *event)
    if tuple(x.shape[max(0, x.dim() - len(whole)) :]) != whole:
        raise ValueError(
            f"{name}: got shape {tuple(x.shape)}; expected fields of shape {whole}, (channels, height, width) + pixel, "
            "on the last axes. Crop or pad them."
        )
    check_point(manifold, name, x)


def _centre(name: str, x: Tensor, manifold: geoopt.Manifold) -> tuple[Tensor, Tensor]:
    """The Fréchet mean of the pixels of fields, evenly spaced ones if they are many, and the standard deviations of
    their coordinates there."""
    geo = geometry(manifold)
    if x.dim() < 4 + geo.event_dim or not x.numel():
        raise ValueError(
            f"{name}: got shape {tuple(x.shape)}; expected one or more fields, (fields, channels, height, width) "
            "+ pixel."
        )
    check_point(manifold, name, x)
    pixels = x.detach().flatten(0, x.dim() - geo.event_dim - 1).double()
    pixels = geo.project(pixels[:: max(1, len(pixels) // _PIXELS)])  # rounded in single precision
    loc = frechet_mean(manifold, pixels, tolerance=1e-6).mean
    v = ExpChart(manifold, loc).inv(pixels)
    scale = v.std(0, correction=0)
    scale = torch.where(scale > 0, scale, 1.0).clamp_min(1e-3 * float(scale.max()))
    return geo.project(loc.to(x)), scale.to(x)


def _small(h: Tensor, halvings: int) -> Tensor:
    """A field of channels, squeezed that often."""
    for _ in range(halvings):
        h = squeezed(h, 0)
    return h


class _Glow(PyroModule):
    """What both have: a flow of fields."""

    manifold: geoopt.Manifold
    shape: tuple[int, ...]
    event_shape: torch.Size
    codomain: Any

    def _flow(
        self, manifold: geoopt.Manifold, shape: Sequence[int], loc: Tensor, **options: Any
    ) -> MultiScaleField:
        (loc,) = as_tensors(loc=loc)
        self.manifold, self.shape = manifold, tuple(shape)
        self.event_shape = check_point(manifold, "loc", loc)
        self.codomain = field_constraint(manifold)
        return MultiScaleField(manifold, shape, glow_scales(manifold, shape, loc, **options), loc)


class ManifoldGLOW(_Glow):
    r"""A density of fields of C channels of H x W pixels, each a point of a manifold.

    .. math:: x = f(z),\ z \sim N(0, I), \qquad \log p(x) = \log N\big(f^{-1}(x)\big) - \log\mathrm{vol}_f

    f has at each scale ``depth`` steps of a coupling, actnorm, a mixing of channels and an isometry of each pixel, see
    :func:`~pyro_manifold.flows.glow_scales`. Base measure: the product of the Riemannian volumes of the pixels. A new
    model is a normal in the chart at ``loc``; :meth:`from_data` fits that to data. Train it with
    :func:`~pyro_manifold.training.fit_likelihood`.

    :param geoopt.Manifold manifold: of a pixel: a sphere, positive definite matrices, hyperbolic or flat space, SO(3),
        or a product of these.
    :param shape: (C, H, W).
    :param Tensor loc: base point of the charts, shape ``event``.
    :param int scales: how many; each but the first has half the height and width of the one before.
    :param int depth: steps at each scale.
    :param bool one_chart: see :func:`~pyro_manifold.flows.glow_scales`: faster, with fewer group actions.
    :param coupling: options of :class:`~pyro_manifold.flows.FieldCoupling`; ``layers`` for its ``depth``.
    :raises ValueError: for sides that cannot be halved as often, a ``loc`` off the manifold; by ``log_prob``, for
        fields of another shape, or with pixels off the manifold, such as indefinite or asymmetric matrices.

    Reference: Zhen et al., AAAI 2021, sec. 3; Kingma and Dhariwal, *Glow*, NeurIPS 2018.

    >>> glow = ManifoldGLOW(geoopt.SymmetricPositiveDefinite(), (1, 4, 4), torch.eye(3), scales=2, depth=1)
    >>> x = glow.sample(5)
    >>> x.shape, glow.log_prob(x).shape
    (torch.Size([5, 1, 4, 4, 3, 3]), torch.Size([5]))
    """

    @checked(scales=1, depth=1)
    def __init__(
        self,
        manifold: geoopt.Manifold,
        shape: Sequence[int],
        loc: Tensor,
        *,
        scales: int = 1,
        depth: int = 4,
        one_chart: bool = False,
        **coupling: Any,
    ) -> None:
        super().__init__()
        options = dict(scales=scales, depth=depth, one_chart=one_chart)
        self.flow = self._flow(manifold, shape, loc, **options, **coupling)

    @classmethod
    def from_data(cls, manifold: geoopt.Manifold, x: Tensor, **options: Any) -> "ManifoldGLOW":
        """A model whose base point is the Fréchet mean of the pixels of fields ``x``, shape ``(fields, C, H, W) +
        event``, and whose actnorms and mixings are those of ``x``; ``options`` as above."""
        loc, _ = _centre("x", x, manifold)
        model = cls(manifold, x.shape[1:4], loc, **options).to(x)
        model.flow.initialise(x[:_FIELDS])
        return model

    @property
    def distribution(self) -> Any:
        """The distribution of a field."""
        zero = self.flow.loc.new_zeros(self.flow.latent_dim)
        base = dist.Normal(zero, 1.0, validate_args=False).to_event(1)
        return dist.TransformedDistribution(base, [self.flow], validate_args=False)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density of fields, in nats, w.r.t. the product of the Riemannian volumes of their pixels."""
        _check_fields("x", x, self.manifold, self.shape, self.event_shape)
        return self.distribution.log_prob(x)

    @torch.no_grad()
    @checked(n=0)
    def sample(self, n: int) -> Tensor:
        """``n`` fields."""
        return self.distribution.sample((n,))

    def model(self, x: Tensor | None = None, n: int = 1) -> Tensor:
        """Fields observed, for Pyro's inference; ``n`` drawn, for its ``Predictive``, if ``x`` is omitted."""
        if x is not None:
            _check_fields("x", x, self.manifold, self.shape, self.event_shape)
        with pyro.plate("fields", n if x is None else len(x)):
            return pyro.sample("x", self.distribution, obs=x)


class ManifoldToManifoldFlow(_Glow):
    r"""A density of fields on one manifold given fields of the same height and width on another.

    .. math:: x = f_y(z),\ z \sim N\big(m(y), \operatorname{diag} s(y)^2\big), \qquad
        \log p(x \mid y) = \log N\big(f_y^{-1}(x);\, m(y), s(y)^2\big) - \log\mathrm{vol}_{f_y}

    A convolutional network makes features of the coordinates of y in the chart at ``source_loc``; from these, further
    ones predict mean and scale of the latent tangent coordinates of each scale, the mean on top of a quadratic
    regression, and, if ``coupled``, the couplings of f read them too. Without, f is one flow for all y, as in the
    paper. Base measure: the product of the Riemannian volumes of the pixels of x.

    :param geoopt.Manifold source: manifold of the pixels of y.
    :param source_shape: (C, H, W) of y.
    :param Tensor source_loc: base point of its chart.
    :param geoopt.Manifold manifold: that of the pixels of x; ``shape`` and ``loc`` likewise.
    :param Tensor source_scale: standard deviations of the coordinates of y, by which they are divided; 1 if omitted.
    :param int features: channels of the features of y, besides its coordinates.
    :param int width: channels inside the networks that read y.
    :param bool coupled: do the couplings depend on y?
    :param options: ``scales``, ``depth``, ``one_chart`` and the options of couplings, see :class:`ManifoldGLOW`.
    :raises ValueError: for fields of different height or width, sides that cannot be halved as often, points off their
        manifolds, or fields of another shape.

    Reference: Zhen et al., AAAI 2021, sec. 4.

    >>> spd, sphere = geoopt.SymmetricPositiveDefinite(), geoopt.Sphere()
    >>> flow = ManifoldToManifoldFlow(spd, (1, 4, 4), torch.eye(3), sphere, (1, 4, 4), torch.eye(5)[0], depth=1)
    >>> y = torch.eye(3).expand(2, 1, 4, 4, 3, 3)
    >>> x = flow.sample(y, 7)
    >>> x.shape, flow.log_prob(x, y).shape
    (torch.Size([7, 2, 1, 4, 4, 5]), torch.Size([7, 2]))
    """

    @checked(features=0, width=1)
    def __init__(
        self,
        source: geoopt.Manifold,
        source_shape: Sequence[int],
        source_loc: Tensor,
        manifold: geoopt.Manifold,
        shape: Sequence[int],
        loc: Tensor,
        *,
        source_scale: Tensor | None = None,
        features: int = 16,
        width: int = 32,
        coupled: bool = True,
        **options: Any,
    ) -> None:
        super().__init__()
        if len(source_shape) != 3 or tuple(source_shape[1:]) != tuple(shape[1:]):
            raise ValueError(
                f"source_shape, shape: got {tuple(source_shape)} and {tuple(shape)}; expected (channels, height, "
                "width) with the same height and width. Resample one of the fields."
            )
        ExpChart(source)  # raises for a manifold that has none
        source_loc, loc, source_scale = as_tensors(source_loc=source_loc, loc=loc, source_scale=source_scale)
        self.source, self.source_shape = source, tuple(source_shape)
        self.source_event = check_point(source, "source_loc", source_loc)
        d = geometry(source).dim(self.source_event)
        source_scale = source_loc.new_ones(d) if source_scale is None else source_scale
        if source_scale.shape != (d,) or not bool((source_scale > 0).all()):
            raise ValueError(
                f"source_scale: got shape {tuple(source_scale.shape)}; expected {d} positive standard deviations."
            )
        self.register_buffer("source_loc", source_loc.detach().clone())
        self.register_buffer("source_scale", source_scale.detach().clone())
        self.coupled = coupled
        read = self.source_shape[0] * d
        self.encoder = ConvNet(read, features, width) if features else None
        channels = read + features
        flow = self._flow(manifold, shape, loc, **options)
        self.flow: Any = Conditional(flow, channels * math.prod(shape[1:])) if coupled else flow
        self.halvings = [round(math.log2(shape[1] / h)) for _, h, _, _ in flow.latent_shapes]
        self.heads = nn.ModuleList(
            ConvNet(channels * 4**k, 2 * c * dim, width, kernel=3)
            for k, (c, _, _, dim) in zip(self.halvings, flow.latent_shapes, strict=True)
        )
        self.regressions = nn.ModuleList(
            FieldRegression(read * 4**k, c * dim)
            for k, (c, _, _, dim) in zip(self.halvings, flow.latent_shapes, strict=True)
        )
        self.to(loc)

    @classmethod
    def from_data(
        cls, source: geoopt.Manifold, y: Tensor, manifold: geoopt.Manifold, x: Tensor, **options: Any
    ) -> "ManifoldToManifoldFlow":
        """A model that starts as a ridge regression with normal errors of the coordinates of fields ``x`` on those of
        ``y`` at their Fréchet means, both of shape ``(fields, C, H, W) + event``; ``options`` as above."""
        if len(x) != len(y):
            raise ValueError(f"x, y: got {len(x)} and {len(y)} fields; expected as many, in pairs.")
        source_loc, source_scale = _centre("y", y, source)
        loc, _ = _centre("x", x, manifold)
        model = cls(
            source,
            y.shape[1:4],
            source_loc,
            manifold,
            x.shape[1:4],
            loc,
            source_scale=source_scale,
            **options,
        ).to(x)
        model._regress(x[:_FIELDS], y[:_FIELDS])
        return model

    @torch.no_grad()
    def _regress(self, x: Tensor, y: Tensor) -> None:
        """Start as a regression of coordinates: the flow takes its actnorms and mixings from the residuals, then the
        mean of the latent normal is fitted to the latent coordinates."""
        chart = as_map(ExpChart(self.manifold, self._plain.loc, validate_args=False), 4)
        h, v = self._source_coordinates(y), chart.inv(x)
        flat = v.movedim(-1, -3).flatten(-4, -3)
        regression = FieldRegression(h.shape[1], flat.shape[1]).to(h)
        regression.fit(h, flat)
        residual = (flat - regression(h)).unflatten(-3, (v.shape[-4], v.shape[-1])).movedim(-3, -1)
        self._given(y)[2].initialise(chart(residual - residual.mean(0) + v.mean((0, 2, 3), keepdim=True)[0]))
        z = self._given(y)[2].inv(x)
        shapes = self._plain.latent_shapes
        parts = z.split([torch.Size(s).numel() for s in shapes], -1)
        for part, shape, k, fitted in zip(parts, shapes, self.halvings, self.regressions, strict=True):
            target = part.unflatten(-1, shape).movedim(-1, -3).flatten(-4, -3)
            fitted.fit(_small(h, k), target)  # type: ignore[operator]

    def _source_coordinates(self, y: Tensor) -> Tensor:
        """Standardised coordinates of y, batch + (C d, H, W)."""
        chart = as_map(ExpChart(self.source, self.source_loc, validate_args=False), 4)
        v = chart.inv(y) / self.source_scale
        return v.movedim(-1, -3).flatten(-4, -3)

    def _given(self, y: Tensor) -> tuple[Tensor, Tensor, Any]:
        """Mean and scale of the latent vector, and the flow, given ``y``."""
        _check_fields("source", y, self.source, self.source_shape, self.source_event)
        own = self._source_coordinates(y)
        h = own if self.encoder is None else torch.cat([own, self.encoder(own)], -3)
        mean: list[Tensor] = []
        log_scale: list[Tensor] = []
        d = self._plain.pixel_dim
        for k, head, regression in zip(self.halvings, self.heads, self.regressions, strict=True):
            learned, scale = head(_small(h, k)).chunk(2, -3)
            for part, to in ((regression(_small(own, k)) + learned, mean), (scale, log_scale)):
                to.append(part.unflatten(-3, (-1, d)).movedim(-3, -1).flatten(-4))
        bounded = _LOG_SCALE * (torch.cat(log_scale, -1) / _LOG_SCALE).tanh()
        flow = self.flow.condition(h.flatten(-3)) if self.coupled else self.flow
        return torch.cat(mean, -1), bounded.exp(), flow

    @property
    def _plain(self) -> MultiScaleField:
        return self.flow.layer if self.coupled else self.flow

    def condition(self, source: Tensor) -> Any:
        """The distribution of x given fields ``source``, of their batch shape."""
        mean, scale, flow = self._given(source)
        base = dist.Normal(mean, scale, validate_args=False).to_event(1)
        return dist.TransformedDistribution(base, [flow], validate_args=False)

    def log_prob(self, x: Tensor, source: Tensor) -> Tensor:
        """Log density of fields x given fields ``source``, in nats, w.r.t. the product of the Riemannian volumes of the
        pixels of x."""
        _check_fields("x", x, self.manifold, self.shape, self.event_shape)
        return self.condition(source).log_prob(x)

    @torch.no_grad()
    @checked(n=0)
    def sample(self, source: Tensor, n: int = 1) -> Tensor:
        """``n`` fields x for each field of ``source``, shape ``(n,) + batch + (C, H, W) + event``."""
        return self.condition(source).sample((n,))

    @torch.no_grad()
    def predict(self, source: Tensor) -> Tensor:
        """The field at the mean of the latent normal: one answer for each source, of high density if x given y has one
        mode."""
        mean, _, flow = self._given(source)
        return flow(mean)

    def model(self, x: Tensor | None, source: Tensor) -> Tensor:
        """Pairs of fields observed, for Pyro's inference; a field for each source, for its ``Predictive``, if ``x`` is
        None."""
        if x is not None:
            _check_fields("x", x, self.manifold, self.shape, self.event_shape)
        with pyro.plate("fields", len(source)):
            return pyro.sample("x", self.condition(source), obs=x)
