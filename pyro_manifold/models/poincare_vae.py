"""Variational auto-encoder whose latent variable lives on a manifold."""

import math
from typing import Any

import geoopt
import pyro.distributions as dist
import torch
from torch import Tensor

from ..distributions import RiemannianNormal, WrappedNormal
from ..geometry import geometry
from ..nn import ManifoldDecoder, ManifoldEncoder
from ..nn.charts import chart_geometry, check_size
from ..ops.arguments import checked
from .latent_vae import LatentVAE

__all__ = ["PoincareVAE"]

_FAMILIES = ("wrapped", "riemannian")


class PoincareVAE(LatentVAE):
    r"""Variational auto-encoder with its latent variable on a manifold with a chart: hyperbolic, Euclidean or
    a product.

    .. math::
        z \sim p(\cdot \mid o, \sigma_0), \qquad x \sim p_\theta(\cdot \mid f_\theta(z)), \qquad
        q_\phi(z \mid x) = q(\cdot \mid \mu_\phi(x), \sigma_\phi(x))

    with wrapped or Riemannian normal distributions p and q about the origin o and about :math:`\mu_\phi(x)`.
    All densities of z are with respect to Riemannian volume, so the evidence bound is that of x in its own
    measure. ``model`` and ``guide`` are ordinary Pyro functions, for ``SVI(vae.model, vae.guide, ...)``; on
    :class:`geoopt.Euclidean` this is the usual VAE.

    :param geoopt.Manifold manifold: where z lives. A learnable curvature is learned with the other
        parameters.
    :param int dim: its dimension.
    :param int data_dim: size of x.
    :param int hidden: units of the encoder's and of the decoder's hidden layer.
    :param str prior: family of p, ``"wrapped"`` or ``"riemannian"`` (the same distribution on flat space).
    :param str posterior: family of q. A Riemannian normal is isotropic, with one standard deviation.
    :param bool isotropic: one posterior standard deviation in the wrapped family too, for equal freedom in
        comparisons.
    :param float prior_scale: :math:`\sigma_0`, in geodesic length.
    :param str likelihood: ``"bernoulli"`` for x in {0, 1}, or ``"normal"`` about f(z).
    :param float likelihood_scale: standard deviation of the normal likelihood.
    :param str decoder: first layer of the decoder, see :class:`~pyro_manifold.nn.ManifoldDecoder`.
    :param str name: prefix of the parameters' names in Pyro's parameter store.
    :raises ValueError: for an unknown family, sizes and scales that are not positive, or data of another
        size.

    Reference: Mathieu et al., "Continuous hierarchical representations with Poincaré variational
    auto-encoders", NeurIPS 2019, section 3. IWAE: Burda et al., ICLR 2016, eq. 8.

    >>> vae = PoincareVAE(geoopt.PoincareBall(), dim=2, data_dim=64)
    >>> svi = pyro.infer.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), pyro.infer.Trace_ELBO())
    >>> loss = svi.step(torch.ones(5, 64))
    >>> vae.sample(3).shape, vae.iwae(torch.ones(5, 64), k=10).shape
    (torch.Size([3, 64]), torch.Size([5]))
    """

    @checked(dim=1, data_dim=1, hidden=1)
    def __init__(
        self,
        manifold: geoopt.Manifold,
        dim: int,
        data_dim: int,
        *,
        hidden: int = 200,
        prior: str = "wrapped",
        posterior: str = "wrapped",
        isotropic: bool = False,
        prior_scale: float = 1.0,
        likelihood: str = "bernoulli",
        likelihood_scale: float = 1.0,
        decoder: str = "gyroplane",
        name: str = "poincare_vae",
    ) -> None:
        super().__init__(check_size("data_dim", data_dim), width=check_size("hidden", hidden), name=name)
        chart_geometry(manifold).point_shape(check_size("dim", dim))
        for key, value, known in (
            ("prior", prior, _FAMILIES),
            ("posterior", posterior, _FAMILIES),
            ("likelihood", likelihood, ("bernoulli", "normal")),
        ):
            if value not in known:
                raise ValueError(f"{key}: got {value!r}; expected {' or '.join(map(repr, known))}.")
        for key, scale in (("prior_scale", prior_scale), ("likelihood_scale", likelihood_scale)):
            if not 0 < scale < math.inf:
                raise ValueError(f"{key}: got {scale!r}; expected a positive finite number.")
        self.dim, self.hidden, self.data_dim = dim, hidden, data_dim
        self.families = {"prior": prior, "posterior": posterior, "likelihood": likelihood}
        self.manifold = manifold
        isotropic = isotropic or posterior == "riemannian"
        self.encoder = ManifoldEncoder(manifold, data_dim, hidden, dim, isotropic=isotropic)
        self.decoder = ManifoldDecoder(manifold, dim, hidden, data_dim, first=decoder)
        self.register_buffer("prior_scale", torch.tensor(float(prior_scale)))
        self.register_buffer("likelihood_scale", torch.tensor(float(likelihood_scale)))

    # --- the three distributions ----------------------------------------------------------------------------
    @property
    def prior(self) -> Any:
        """Distribution of z."""
        scale = self.prior_scale
        origin = geometry(self.manifold).origin(self.dim, dtype=scale.dtype, device=scale.device)
        return self._distribution("prior", origin, scale.unsqueeze(-1))

    def encode(self, x: Tensor) -> Any:
        """Approximate posterior q(z | x), a distribution of batch shape ``x.shape[:-1]``."""
        self._check_data(x)
        return self._distribution("posterior", *self.encoder(x))

    def decode(self, z: Tensor) -> Any:
        """Likelihood p(x | z), a distribution of event shape ``(data_dim,)``."""
        out = self.decoder(z)
        if self.families["likelihood"] == "bernoulli":
            return dist.Bernoulli(logits=out).to_event(1)
        return dist.Normal(out, self.likelihood_scale).to_event(1)

    def _distribution(self, which: str, loc: Tensor, scale: Tensor) -> Any:
        if self.families[which] == "riemannian":
            return RiemannianNormal(self.manifold, loc, scale.squeeze(-1))
        return WrappedNormal(self.manifold, loc, scale)

    def settings(self) -> dict[str, Any]:
        """The families; prior scale and curvature are buffers and parameters already."""
        return dict(self.families)
