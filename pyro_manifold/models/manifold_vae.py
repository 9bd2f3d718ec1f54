"""Variational auto-encoder whose latent variable lives on any manifold."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import geoopt
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ..geometry import geometry
from ..nn import ManifoldDecoder, ManifoldEncoder
from ..nn.encoder import feature_network
from ..nn.sizes import check_size
from ..ops.arguments import checked
from ..ops.tracing import is_concrete
from .latent_families import FamilyOn, factor_manifolds, family_on
from .latent_vae import LatentVAE

__all__ = ["ManifoldVAE"]

_GIVEN = "given by a function"


class ManifoldVAE(LatentVAE):
    r"""Variational auto-encoder with its latent variable on any manifold or product of manifolds: flat and hyperbolic
    space, spheres of any dimension, tori, rotations, positive definite matrices, frames and subspaces.

    .. math::
        z \sim p(\cdot \mid o, \sigma_0), \qquad x \sim p_\theta(\cdot \mid f_\theta(z)), \qquad
        q_\phi(z \mid x) = q(\cdot \mid \mu_\phi(x), \sigma_\phi(x))

    with distributions p and q about the origin o and about :math:`\mu_\phi(x)`, of one of these families:

    ==================== ================================================= ====================================
    family               defined on                                        widths :math:`\sigma`, geodesic length
    ==================== ================================================= ====================================
    ``wrapped``          manifolds with a logarithm, products as a whole   one for each tangent coordinate
    ``riemannian``       constant curvature; SPD as a prior                one
    ``vmf``              the unit sphere, :math:`\kappa = 1/\sigma^2`      one
    ``power_spherical``  the unit sphere, :math:`\kappa = 2/\sigma^2`      one
    ``uniform``          finite volume                                     none
    ==================== ================================================= ====================================

    On a product, a family that is not defined on the whole is taken for each factor, and a list gives one for each
    factor. By default p is uniform where the volume is finite and wrapped elsewhere; q is a von Mises-Fisher
    distribution on unit spheres and wrapped elsewhere. Their divergence is exact where a closed form is registered
    (``vmf``, ``power_spherical`` and ``riemannian`` against ``uniform``, ``vmf`` against ``vmf``, everything in
    flat space), in :meth:`elbo` and in Pyro's ``TraceMeanField_ELBO``.

    All densities of z are with respect to Riemannian volume, so the evidence bound is that of x in its own
    measure. ``model`` and ``guide`` are ordinary Pyro functions, for ``SVI(vae.model, vae.guide, ...)``; on
    :class:`geoopt.Euclidean` this is the usual VAE.

    :param geoopt.Manifold manifold: where z lives. A learnable curvature or scale is learned with the other
        parameters.
    :param int dim: its dimension. (A manifold that is not determined by it is given as
        ``geoopt.ProductManifold((manifold, shape))``.)
    :param data_dim: size of x, or its shape.
    :param int hidden: number of features between the networks and the latent variable, at both ends.
    :param prior: family of p; or a function of no arguments, such as a module, that returns a distribution of points
        of the manifold, for instance a ``TransformedDistribution`` by a flow.
    :param posterior: family of q; or a function (module) of the features ``batch + (hidden,)`` that returns a
        distribution of that batch shape, for instance by a flow conditioned on the features.
    :param bool isotropic: one posterior width in the wrapped family too, for equal freedom in comparisons.
    :param float prior_scale: :math:`\sigma_0`.
    :param likelihood: ``"bernoulli"`` for x in {0, 1}, ``"normal"`` about f(z), ``"categorical"`` for x in
        {0, ..., classes - 1}; or a function of the decoder's output ``batch + (out_features,)`` that returns a
        distribution of event shape ``data_dim``.
    :param float likelihood_scale: standard deviation of the normal likelihood.
    :param int classes: of the categorical likelihood.
    :param int out_features: numbers that the decoder gives, for a likelihood that is a function.
    :param encoder: a network of your own from rows ``(n,) + shape of x`` (``"categorical"``: one-hot,
        ``(n, size * classes)``) to features ``(n, hidden)``, for example
        :class:`~pyro_manifold.nn.ConvEncoder`; by default one hidden layer.
    :param decoder: a network of your own from features ``(n, hidden)`` to ``(n, out_features)``, where out_features
        is the size of x (times classes), for example :class:`~pyro_manifold.nn.ConvDecoder`; by default linear.
    :param str first: first layer of the decoder, from points to features, see
        :class:`~pyro_manifold.nn.ManifoldDecoder`.
    :param str name: prefix of the parameters' names in Pyro's parameter store.
    :raises ValueError: for a family that is not known or not defined on the manifold, sizes and scales that are
        not positive, or data of another size.

    References: Kingma & Welling, ICLR 2014; Davidson et al., UAI 2018 (spheres); Mathieu et al., NeurIPS 2019
    (hyperbolic); Falorsi et al., 2018, arXiv:1807.04689 (rotations); Skopek et al., ICLR 2020 (products).

    >>> import pyro
    >>> vae = ManifoldVAE(geoopt.Sphere(), dim=2, data_dim=64)
    >>> svi = pyro.infer.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), pyro.infer.TraceMeanField_ELBO())
    >>> loss = svi.step(torch.ones(5, 64))
    >>> vae.encode(torch.ones(5, 64)), vae.sample(3).shape, vae.iwae(torch.ones(5, 64), k=10).shape
    (VonMisesFisher(loc: torch.Size([5, 3]), concentration: torch.Size([5])), torch.Size([3, 64]), torch.Size([5]))
    """

    prior_scale: Tensor
    likelihood_scale: Tensor

    @checked(dim=1, hidden=1, classes=2, out_features=1)
    def __init__(
        self,
        manifold: geoopt.Manifold,
        dim: int,
        data_dim: int | Sequence[int],
        *,
        hidden: int = 200,
        prior: str | Sequence[str] | Callable[[], Any] | None = None,
        posterior: str | Sequence[str] | Callable[[Tensor], Any] | None = None,
        isotropic: bool = False,
        prior_scale: float = 1.0,
        likelihood: str | Callable[[Tensor], Any] = "bernoulli",
        likelihood_scale: float = 1.0,
        classes: int | None = None,
        out_features: int | None = None,
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
        first: str | None = None,
        name: str = "manifold_vae",
    ) -> None:
        for size in [data_dim] if isinstance(data_dim, int) else data_dim:
            check_size("data_dim", size)
        widths = [getattr(net, "width", 1) for net in (encoder, decoder)]
        width = max(hidden, *(w for w in widths if isinstance(w, int)))
        super().__init__(data_dim, width=width, name=name)
        self.point_shape = geometry(manifold).point_shape(check_size("dim", dim))
        for key, scale in (("prior_scale", prior_scale), ("likelihood_scale", likelihood_scale)):
            if not 0 < scale < math.inf:
                raise ValueError(f"{key}: got {scale!r}; expected a positive finite number.")
        self.dim, self.hidden, self.manifold = dim, hidden, manifold
        self.data_dim = self.data_shape.numel()
        self._choose_likelihood(likelihood, classes, out_features)
        self._prior = self._family("prior", prior, isotropic=True)
        self._posterior = self._family("posterior", posterior, isotropic)
        inputs = (self.data_dim * classes,) if classes else tuple(self.data_shape)
        self.encoder: nn.Module
        if isinstance(self._posterior, FamilyOn):
            # a posterior without a width, the uniform one, leaves the head unused: refused by _family
            self.encoder = ManifoldEncoder(
                manifold, inputs, hidden, dim, scales=sum(self._posterior.scales), network=encoder
            )
        else:
            self.encoder = feature_network(encoder, inputs, hidden)
        self.decoder = ManifoldDecoder(manifold, dim, hidden, self.out_features, first, network=decoder)
        self.register_buffer("prior_scale", torch.tensor(float(prior_scale)))
        self.register_buffer("likelihood_scale", torch.tensor(float(likelihood_scale)))

    # --- what the arguments choose --------------------------------------------------------------------------
    def _choose_likelihood(self, likelihood: Any, classes: int | None, out_features: int | None) -> None:
        known = ("bernoulli", "normal", "categorical")
        if isinstance(likelihood, str) and likelihood not in known:
            raise ValueError(f"likelihood: got {likelihood!r}; expected {' or '.join(map(repr, known))}.")
        if (classes is not None) != (likelihood == "categorical"):
            raise ValueError(
                f"classes: got {classes!r} with likelihood={likelihood!r}; expected the number of classes with "
                "'categorical', and None otherwise."
            )
        if out_features is not None and isinstance(likelihood, str):
            raise ValueError(
                f"out_features: got {out_features} with likelihood={likelihood!r}, which determines it; expected "
                "None. Give it with a likelihood that is a function of your own."
            )
        self.likelihood, self.classes = likelihood, classes
        self.out_features = out_features or self.data_dim * (classes or 1)

    def _family(self, key: str, choice: Any, isotropic: bool = False) -> Any:
        if callable(choice):
            return choice
        if choice is not None and not isinstance(choice, str | Sequence):
            raise ValueError(
                f"{key}: got {choice!r}; expected the name of a family, one for each factor of a product, or a "
                "function that returns a distribution."
            )
        family = family_on(key, self.manifold, self.point_shape, choice, isotropic=isotropic)
        if key == "posterior" and 0 in family.scales:
            raise ValueError(
                f"posterior: got {choice!r}, which does not depend on the data; expected a family with a centre."
            )
        return family

    def settings(self) -> dict[str, Any]:
        """Manifold, families and likelihood. (Prior scale, curvature and weights are buffers and parameters.)"""
        parts = factor_manifolds(self.manifold, self.point_shape)
        out = {"manifold": " x ".join(f"{m.name} {tuple(s)}" for m, s in parts)}
        for key, value in (("prior", self._prior), ("posterior", self._posterior)):
            out[key] = ", ".join(value.names) if isinstance(value, FamilyOn) else _GIVEN
        return {**out, "likelihood": self.likelihood if isinstance(self.likelihood, str) else _GIVEN}

    # --- the three distributions ----------------------------------------------------------------------------
    @property
    def prior(self) -> Any:
        """Distribution of z."""
        if not isinstance(self._prior, FamilyOn):
            return self._checked("prior", self._prior(), torch.Size())
        like = self.prior_scale
        origin = geometry(self.manifold).base_point(self.point_shape, dtype=like.dtype, device=like.device)
        return self._prior(origin, like.expand(sum(self._prior.scales)))

    def encode(self, x: Tensor) -> Any:
        """Approximate posterior q(z | x), a distribution of the batch shape of the rows ``x``."""
        batch = self._check_data(x)
        h = self.encoder(self._inputs(x))
        if isinstance(self._posterior, FamilyOn):
            return self._posterior(*h)
        return self._checked("posterior", self._posterior(h), batch)

    def decode(self, z: Tensor) -> Any:
        """Likelihood p(x | z), a distribution of event shape ``data_dim``."""
        out = self.decoder(z)
        if not isinstance(self.likelihood, str):
            return self._checked("likelihood", self.likelihood(out), out.shape[:-1], self.data_shape)
        rank = len(self.data_shape)
        if self.likelihood == "categorical":
            assert self.classes is not None
            return dist.Categorical(logits=out.unflatten(-1, (*self.data_shape, self.classes))).to_event(rank)
        out = out if rank == 1 else out.unflatten(-1, self.data_shape)
        if self.likelihood == "bernoulli":
            return dist.Bernoulli(logits=out).to_event(rank)
        return dist.Normal(out, self.likelihood_scale).to_event(rank)

    def _inputs(self, x: Tensor) -> Tensor:
        """What the encoder takes: the data, or class numbers one-hot."""
        if self.classes is None:
            return x
        hot = (x.unsqueeze(-1) == torch.arange(self.classes, device=x.device)).to(x.dtype)
        if is_concrete(hot) and not bool(hot.any(-1).all()):
            raise ValueError(
                f"x: got numbers that are no class, between {float(x.min())} and {float(x.max())}; expected whole "
                f"numbers from 0 to {self.classes - 1}."
            )
        return hot.flatten(-1 - len(self.data_shape))

    def _checked(self, key: str, made: Any, batch: torch.Size, event: torch.Size | None = None) -> Any:
        event = self.point_shape if event is None else event
        if not isinstance(made, torch.distributions.Distribution) or made.event_shape != event:
            seen = tuple(made.event_shape) if hasattr(made, "event_shape") else type(made).__name__
            raise ValueError(
                f"{key}: returned {seen}; expected a distribution of event shape {tuple(event)}."
            )
        if made.batch_shape != batch:
            raise ValueError(
                f"{key}: its distribution has batch shape {tuple(made.batch_shape)}; expected {tuple(batch)}, that "
                "of the rows it was given."
            )
        return made

    # --- after training -------------------------------------------------------------------------------------
    @torch.no_grad()
    def embed(self, x: Tensor) -> Tensor:
        """A point of the manifold for each row: the centre of its posterior, or a draw of a posterior that has none
        (one given by a function, without ``loc``)."""
        if isinstance(self._posterior, FamilyOn):
            self._check_data(x)
            return self.encoder(self._inputs(x))[0]
        posterior = self.encode(x)
        loc = getattr(posterior, "loc", None)
        return posterior.sample() if loc is None else loc

    @torch.no_grad()
    def interpolate(self, x: Tensor, y: Tensor, steps: int = 10) -> tuple[Tensor, Tensor]:
        """Points along the shortest geodesic between the latent points of two rows (:meth:`embed`), ends included,
        and the mean of the data at each.

        :param x: a row, or rows, ``batch + shape of x``; so is ``y``.
        :param int steps: number of points, at least 2.
        :return: points ``(steps,) + batch + event`` and means ``(steps,) + batch + shape of x`` (of categorical data
            probabilities, with a last axis of classes).
        """
        if check_size("steps", steps) < 2:
            raise ValueError(f"steps: got {steps}; expected at least 2, the two ends.")
        p, q = torch.broadcast_tensors(self.embed(x), self.embed(y))
        geo = geometry(self.manifold)
        v = geo.log_frame(p, q)
        t = torch.linspace(0, 1, steps, dtype=v.dtype, device=v.device)
        z = geo.exp_frame(p.expand((steps,) + p.shape), t.reshape((steps,) + (1,) * v.dim()) * v)
        made = self.decode(z)
        return z, made.base_dist.probs if self.classes else made.mean
