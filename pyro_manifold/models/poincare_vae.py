"""Variational auto-encoder whose latent variable lives on a manifold."""

import itertools
import math
from typing import Any

import geoopt
import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor

from ..distributions import RiemannianNormal, WrappedNormal
from ..geometry import geometry
from ..nn import ManifoldDecoder, ManifoldEncoder
from ..nn.charts import chart_geometry, check_last, check_size
from ..ops.arguments import checked

__all__ = ["PoincareVAE"]

_FAMILIES = ("wrapped", "riemannian")


class PoincareVAE(PyroModule):
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
    :param str name: prefix of the parameters' names in Pyro's parameter store. While the store holds another
        model's parameters under it (a copy's, a loaded one's) a number is put behind it.
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
        super().__init__(name)
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
        self.dim, self.hidden, self.data_dim = (
            dim,
            check_size("hidden", hidden),
            check_size("data_dim", data_dim),
        )
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

    # --- Pyro
    #
    # ------------------------------------------------------------------------------------------------
    def model(self, x: Tensor | None = None, size: int | None = None) -> Tensor:
        """p(z) p(x | z) for the rows of ``x``.

        :param x: data of shape (n, data_dim); if omitted, ``size`` rows are drawn. Axes further left need
            plates of their own.
        :param size: number of rows of the full data set when ``x`` is a minibatch: the plate then scales by
            ``size / n``.
        """
        self._register()
        with self._plate(x, size):
            z = pyro.sample("z", self.prior)
            return pyro.sample("x", self.decode(z), obs=x)

    def guide(self, x: Tensor, size: int | None = None) -> Tensor:
        """q(z | x) for the rows of ``x``; arguments as :meth:`model`."""
        self._register()
        with self._plate(x, size):
            return pyro.sample("z", self.encode(x))

    def _plate(self, x: Tensor | None, size: int | None) -> Any:
        if x is None:
            if size is None:
                raise ValueError(
                    "x: got neither data nor size; expected x of shape (n, data_dim), or size=n to draw rows."
                )
            return pyro.plate("data", size)
        self._check_data(x)
        if x.dim() < 2:
            raise ValueError(
                f"x: got shape {tuple(x.shape)}; expected (n, {self.data_dim}). Use x.unsqueeze(0) for a row."
            )
        n = x.shape[-2]
        if n == 0:
            raise ValueError(
                f"x: got shape {tuple(x.shape)}; expected at least one row. (iwae and encode take none.)"
            )
        if size is not None and size < n:
            raise ValueError(
                f"size: got {size}, fewer than the {n} rows of x; expected that of the full data set."
            )
        return pyro.plate("data", size or n, subsample=torch.arange(n, device=x.device))

    def _register(self) -> None:
        """Show the trainable parameters to Pyro under this model's own prefix: its name, with a number behind
        it while the parameter store holds another model's parameters under that. (``pyro.module`` would train
        those in place of these.)"""
        own = [(key, value) for key, value in self.named_parameters() if value.requires_grad]
        store = pyro.get_param_store()
        for i in itertools.count(1):
            prefix = self._pyro_name if i == 1 else f"{self._pyro_name}_{i}"
            names = [(f"{prefix}.{key}", value) for key, value in own]
            if all(name not in store or store._params[name] is value for name, value in names):
                break
        for name, value in names:
            pyro.param(name, value)

    # --- after training -------------------------------------------------------------------------------------
    @torch.no_grad()
    def sample(self, n: int, x: Tensor | None = None) -> Tensor:
        """``n`` draws of data, from the prior or, given ``x``, from the posterior aggregated over random rows
        of ``x``."""
        check_size("n", n)
        if x is None:
            z = self.prior.sample((n,))
        else:
            if x.dim() != 2 or not len(x):
                raise ValueError(
                    f"x: got shape {tuple(x.shape)}; expected (rows, {self.data_dim}) with at least one row."
                )
            z = self.encode(x[torch.randint(len(x), (n,), device=x.device)]).sample()
        return self.decode(z).sample()

    @torch.no_grad()
    def iwae(self, x: Tensor, k: int = 5000, *, chunk: int = 1 << 21) -> Tensor:
        r"""Importance-weighted bound on :math:`\log p(x)`, for each row of ``x``.

        .. math:: \log \frac1k \sum_{i=1}^k \frac{p(x \mid z_i)\, p(z_i)}{q(z_i \mid x)}, \qquad z_i \sim
            q(\cdot \mid x)

        :param x: rows, shape ``(..., data_dim)``; every one is scored.
        :param k: draws per row.
        :param chunk: largest number of elements of an intermediate tensor; memory does not grow with n or k.
        :return: shape ``x.shape[:-1]``, in nats. Its expectation is at most log p(x) and rises with k.
        """
        self._check_data(x)
        check_size("k", k)
        if not x.numel():
            return x.new_zeros(x.shape[:-1])
        table = x if x.dim() > 1 else x.unsqueeze(0)
        stacked = math.prod(
            table.shape[:-2]
        )  # models whose layers hold several sets of weights have leading axes of their own
        prior, width = self.prior, max(self.hidden, self.data_dim) * stacked
        rows = max(1, min(table.shape[-2], chunk // width))
        draws = max(1, min(k, chunk // (width * rows)))
        out = []
        for part in table.split(rows, -2):
            posterior, total = self.encode(part), part.new_full(part.shape[:-1], -math.inf)
            for start in range(0, k, draws):
                z = posterior.sample((min(draws, k - start),))
                weight = self.decode(z).log_prob(part) + prior.log_prob(z) - posterior.log_prob(z)
                total = torch.logaddexp(total, weight.logsumexp(0))
            out.append(total - math.log(k))
        return torch.cat(out, -1).reshape(x.shape[:-1])

    def _check_data(self, x: Tensor) -> None:
        check_last("x", x, self.data_dim)
        for what in ("dtype", "device"):
            seen, own = getattr(x, what), getattr(self.prior_scale, what)
            if seen != own:
                raise ValueError(
                    f"x: got {what} {seen}; expected the model's, {own}. Convert x or the model with "
                    f".to(...)."
                )

    # --- state: the families travel with the weights; prior scale and curvature are buffers and parameters
    # already --------
    def get_extra_state(self) -> dict[str, str]:
        return dict(self.families)

    def set_extra_state(self, state: dict[str, str]) -> None:
        if state != self.families:
            raise ValueError(
                f"state_dict: was saved from a model with {state}, this one has {self.families}; construct "
                f"it alike."
            )
