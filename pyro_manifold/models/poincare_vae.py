"""The Poincaré variational auto-encoder: its latent variable lives in hyperbolic space."""

from typing import Any

import geoopt

from ..nn.charts import chart_geometry
from ..ops.arguments import checked
from .manifold_vae import ManifoldVAE

__all__ = ["PoincareVAE"]


class PoincareVAE(ManifoldVAE):
    r"""Variational auto-encoder with its latent variable on a manifold with a chart, hyperbolic, Euclidean or a
    product of these: :class:`ManifoldVAE` with the families and the decoder of its paper.

    .. math::
        z \sim p(\cdot \mid o, \sigma_0), \qquad x \sim p_\theta(\cdot \mid f_\theta(z)), \qquad
        q_\phi(z \mid x) = q(\cdot \mid \mu_\phi(x), \sigma_\phi(x))

    with wrapped or Riemannian normal distributions p and q about the origin o and about :math:`\mu_\phi(x)`.

    :param geoopt.Manifold manifold: where z lives. A learnable curvature is learned with the other
        parameters.
    :param int dim: its dimension.
    :param int data_dim: size of x.
    :param int hidden: units of the encoder's and of the decoder's hidden layer.
    :param str prior: family of p, ``"wrapped"`` or ``"riemannian"`` (the same distribution on flat space).
    :param str posterior: family of q. A Riemannian normal is isotropic, with one standard deviation.
    :param str decoder: first layer of the decoder, see :class:`~pyro_manifold.nn.ManifoldDecoder`.
    :param kwargs: ``isotropic``, ``prior_scale``, ``likelihood`` and ``likelihood_scale`` of :class:`ManifoldVAE`.
    :param str name: prefix of the parameters' names in Pyro's parameter store.
    :raises ValueError: for a manifold without a chart, an unknown family, sizes and scales that are not positive, or
        data of another size.

    Reference: Mathieu et al., "Continuous hierarchical representations with Poincaré variational
    auto-encoders", NeurIPS 2019, section 3.

    >>> import pyro, torch
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
        decoder: str = "gyroplane",
        name: str = "poincare_vae",
        **kwargs: Any,
    ) -> None:
        chart_geometry(manifold)
        super().__init__(
            manifold,
            dim,
            data_dim,
            hidden=hidden,
            prior=prior,
            posterior=posterior,
            first=decoder,
            name=name,
            **kwargs,
        )
