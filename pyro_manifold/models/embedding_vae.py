"""Variational auto-encoder whose latent variable is a hidden variable, of a cube or R^n, embedded into a manifold."""

import math
from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Transform, kl_divergence

from ..constraints import manifold_of
from ..distributions._cube_beta import CubeBeta
from ..geometry import geometry
from ..nn import GroupActionHead, ManifoldDecoder
from ..nn.encoder import feature_network
from ..nn.row_wise import RowWise
from ..nn.sizes import check_size
from ..ops.arguments import checked
from ..transforms.cube import CubeTransform
from .latent_vae import LatentVAE

__all__ = ["EmbeddingVAE"]

_SHARPEST = 16.0  # the largest log concentration of a Beta posterior: standard deviation 2e-4
_LIKELIHOODS = ("normal", "bernoulli")


class EmbeddingVAE(LatentVAE):
    r"""Variational auto-encoder with a hidden variable u that an embedding takes to a manifold: the
    embedding-reparameterised VAE.

    .. math::
        u \sim p(u), \qquad x \sim p_\theta(\cdot \mid f_\theta(\phi(u))), \qquad
        q(u \mid x) = \prod_j \mathrm{Beta}\big(1 + c_j m_j,\ 1 + c_j(1 - m_j)\big), \quad
        m(x) \in (0, 1)^d,\ c(x) > 0

    on the cube, with uniform p; on :math:`\mathbb R^d` p is the standard normal distribution and q a normal one with
    diagonal covariance. Which of them it is follows from the domain of the embedding. The divergence is taken between
    hidden distributions, where it has a closed form: for an injective :math:`\phi` it is that on the manifold,
    :math:`\mathrm{KL}(\phi_\#q \,\|\, \phi_\#p) = \mathrm{KL}(q \,\|\, p)`, for any other it is larger, and the bound
    on :math:`\log p(x)` for the prior :math:`\phi_\#p` still holds. No posterior on the cube reaches across a seam.
    With ``group_action`` the network also gives an isometry g(x) of the manifold, which moves the seam to where the
    data of that row are not:

    .. math:: z = g(x) \cdot \phi(u), \quad u \sim q(u \mid x)

    If :math:`\phi` is a bijection this is a posterior with a known density, and all bounds are right. If it is not
    (:class:`~pyro_manifold.flows.LearnedEmbedding`), KL(q || p) is that on the manifold only if g leaves
    :math:`\phi_\#p` as it is, which is not so: then :attr:`is_bound` is False, :meth:`elbo` is the objective of
    the paper but no bound, and :meth:`iwae` raises. :meth:`log_evidence` is right in every case.

    The Pyro site is the hidden variable ``"z"``; :meth:`to_manifold` takes its draws to the manifold. Draws on the cube
    are kept 1e-5 away from its faces.

    :param Transform embedding: :math:`\phi`, from the cube (:class:`~pyro_manifold.transforms.CubeToSphere`,
        :class:`~pyro_manifold.transforms.CubeToTorus`, :class:`~pyro_manifold.transforms.CubeToRotations`,
        :class:`~pyro_manifold.flows.LearnedEmbedding`) or from vectors (:class:`~pyro_manifold.transforms.ExpMap`,
        :class:`~pyro_manifold.transforms.StereographicChart`, a flow). Its parameters are trained too, unless frozen.
    :param data_dim: size of x, or its shape.
    :param int dim: d; that of ``embedding`` if omitted.
    :param bool group_action: see above; on spheres, tori and rotations.
    :param int hidden: number of features between the networks and the hidden variable, at both ends.
    :param nn.Module encoder: a network of your own from rows ``(n,) + shape of x`` to features ``(n, hidden)``; by
        default one hidden layer.
    :param nn.Module decoder: a network of your own from features ``(n, hidden)`` to ``(n, size of x)``, behind a
        :class:`~pyro_manifold.nn.ManifoldDecoder`'s first layer; by default linear.
    :param str likelihood: ``"normal"`` about f, or ``"bernoulli"`` with logits f.
    :param float likelihood_scale: standard deviation of the normal likelihood.
    :param str name: prefix of the parameters' names in Pyro's parameter store.
    :raises ValueError: for an embedding of another domain, sizes and scales that are not positive, or data of another
        size.

    Reference: Golikov and Kretov, *Embedding-reparameterization procedure for manifold-valued latent variables in
    generative models*, 2018.

    >>> from pyro_manifold.transforms import CubeToSphere
    >>> vae = EmbeddingVAE(CubeToSphere(1), data_dim=10, likelihood_scale=0.1)
    >>> svi = pyro.infer.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), pyro.infer.TraceMeanField_ELBO())
    >>> loss = svi.step(torch.ones(5, 10))
    >>> vae.to_manifold(vae.encode(torch.ones(5, 10)).sample()).shape, vae.is_bound
    (torch.Size([5, 2]), True)
    """

    likelihood_scale: Tensor

    @checked(hidden=1)
    def __init__(
        self,
        embedding: Transform,
        data_dim: int | Sequence[int],
        *,
        dim: int | None = None,
        group_action: bool = False,
        hidden: int = 200,
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
        likelihood: str = "normal",
        likelihood_scale: float = 1.0,
        name: str = "embedding_vae",
    ) -> None:
        for size in [data_dim] if isinstance(data_dim, int) else data_dim:
            check_size("data_dim", size)
        widths = [getattr(net, "width", 1) for net in (encoder, decoder)]
        super().__init__(data_dim, width=max(hidden, *(w for w in widths if isinstance(w, int))), name=name)
        self.embedding, self.dim, self.data_dim = embedding, _dim_of(embedding, dim), self.data_shape.numel()
        if likelihood not in _LIKELIHOODS:
            raise ValueError(
                f"likelihood: got {likelihood!r}; expected {' or '.join(map(repr, _LIKELIHOODS))}."
            )
        if not 0 < likelihood_scale < math.inf:
            raise ValueError(
                f"likelihood_scale: got {likelihood_scale!r}; expected a positive finite number."
            )
        self.family, self.likelihood = _family(embedding), likelihood
        self.point_shape = embedding.forward_shape(torch.Size([self.dim]))
        manifold = getattr(embedding, "manifold", None) or manifold_of(embedding.codomain)
        self.encoder = feature_network(encoder, self.data_shape, hidden)
        self.posterior = nn.Linear(hidden, 2 * self.dim)
        self.action: Any = None
        if group_action:
            if manifold is None:
                raise ValueError(
                    f"group_action: {embedding!r} does not say which manifold it maps to; expected a sphere, a torus "
                    "or rotations. Leave it out, or use one of the Cube transforms or LearnedEmbedding."
                )
            self.action = GroupActionHead(manifold, hidden, self.dim)
        if manifold is not None:
            size = geometry(manifold).dim(self.point_shape)
            self.decoder: nn.Module = ManifoldDecoder(manifold, size, hidden, self.data_dim, network=decoder)
        else:
            last = nn.Linear(hidden, self.data_dim)
            last_or_own = (
                last if decoder is None else RowWise(decoder, (hidden,), (self.data_dim,), "decoder")
            )
            self.decoder = nn.Sequential(nn.Linear(self.point_shape.numel(), hidden), nn.ReLU(), last_or_own)
        self.register_buffer("likelihood_scale", torch.tensor(float(likelihood_scale)))

    # --- what the objective is ------------------------------------------------------------------------------
    @property
    def is_bound(self) -> bool:
        """Whether :meth:`elbo` is a lower bound on log p(x) in expectation, for the prior :math:`\\phi_\\#p`."""
        return self.action is None or bool(self.embedding.bijective)

    @property
    def bound(self) -> str:
        """In words, of what :meth:`elbo` is a bound, or why it is none."""
        uniform = isinstance(self.embedding, CubeTransform)
        prior = (
            "uniform on the manifold" if uniform else f"the image of {self._prior_name} under the embedding"
        )
        if not self.is_bound:
            return (
                "no bound: the group acts on the image of an embedding that is no bijection, and does not leave the "
                "image of the prior as it is"
            )
        if self.embedding.bijective:
            return f"a lower bound on log p(x) for the prior that is {prior}"
        return f"a lower bound on log p(x) for the prior that is {prior}; looser than on the manifold where that folds"

    @property
    def _prior_name(self) -> str:
        return (
            "the uniform distribution of the cube"
            if self.family == "beta"
            else "the standard normal distribution"
        )

    # --- the three distributions ----------------------------------------------------------------------------
    @property
    def prior(self) -> Any:
        """Distribution of the hidden variable: uniform on the cube, or standard normal."""
        one = self.likelihood_scale.new_ones(self.dim)
        return (CubeBeta(one, one) if self.family == "beta" else dist.Normal(0 * one, one)).to_event(1)

    def encode(self, x: Tensor) -> Any:
        """Approximate posterior of the hidden variable, a distribution of batch shape ``x.shape[:-1]``. With a group
        action :math:`\\phi^{-1}(g\\,\\phi(u))` is that variable if the embedding is a bijection; if not, this is the
        distribution of u before the action."""
        hidden, action = self._encode(x)
        if action is None or not self.embedding.bijective:
            return hidden
        return dist.TransformedDistribution(hidden, [self.embedding, action, self.embedding.inv])

    def _encode(self, x: Tensor) -> tuple[Any, Any]:
        """The distribution of u, and the isometry."""
        self._check_data(x)
        h = self.encoder(x)
        where, sharpness = self.posterior(h).chunk(2, -1)
        if self.family == "beta":
            mode = where.sigmoid()
            concentration = (_SHARPEST - nn.functional.softplus(_SHARPEST - sharpness)).exp()
            validate = None if x.numel() else False  # torch's check fails on an empty batch
            hidden = CubeBeta(
                1 + concentration * mode, 1 + concentration * (1 - mode), validate_args=validate
            )
        else:
            hidden = dist.Normal(where, nn.functional.softplus(sharpness) + 1e-5)
        return hidden.to_event(1), None if self.action is None else self.action(h)

    def divergence(self, posterior: Any, prior: Any, z: Tensor) -> Tensor:
        """Between the hidden distributions; an isometry changes nothing if the embedding preserves measure."""
        if self.action is not None and isinstance(self.embedding, CubeTransform):
            return kl_divergence(posterior.base_dist, prior)
        return super().divergence(posterior, prior, z)

    def to_manifold(self, u: Tensor) -> Tensor:
        """Points of the manifold of hidden values, :math:`\\phi(u)`, shape ``u.shape[:-1] + event``."""
        return self.embedding(u)

    def decode(self, z: Tensor) -> Any:
        """Likelihood p(x | z) of the hidden value ``z``, a distribution of event shape ``data_dim``."""
        return self._likelihood(self.to_manifold(z))

    def _likelihood(self, points: Tensor) -> Any:
        out, rank = self.decoder(points), len(self.data_shape)
        out = out if rank == 1 else out.unflatten(-1, self.data_shape)
        if self.likelihood == "bernoulli":
            return dist.Bernoulli(logits=out).to_event(rank)
        return dist.Normal(out, self.likelihood_scale).to_event(rank)

    @torch.no_grad()
    def embed(self, x: Tensor) -> Tensor:
        """A point of the manifold for each row: that of the mean of its hidden distribution, moved by the isometry."""
        hidden, action = self._encode(x)
        points = self.to_manifold(hidden.mean)
        return points if action is None else action(points)

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """The mean of the likelihood at :meth:`embed`, for each row."""
        return self._likelihood(self.embed(x)).mean

    # --- with an action on an embedding that is no bijection, likelihoods are at the points that it moves ---------
    def model(self, x: Tensor | None = None, size: int | None = None) -> Tensor:
        if x is None or self.is_bound:
            return super().model(x, size)
        self._register()
        with self._plate(x, size):
            z = pyro.sample("z", self.prior)
            return pyro.sample("x", self._likelihood(self._encode(x)[1](self.to_manifold(z))), obs=x)

    def elbo(self, x: Tensor, k: int = 1) -> Tensor:
        """As :meth:`LatentVAE.elbo`; a bound only if :attr:`is_bound`."""
        if self.is_bound or not x.numel():
            return super().elbo(x, k)
        check_size("k", k)
        hidden, action = self._encode(x)
        z = hidden.rsample((k,))
        return self._likelihood(action(self.to_manifold(z))).log_prob(x).mean(0) - self.divergence(
            hidden, self.prior, z
        )

    def iwae(self, x: Tensor, k: int = 5000, *, chunk: int = 1 << 21) -> Tensor:
        """As :meth:`LatentVAE.iwae`.

        :raises ValueError: unless :attr:`is_bound`.
        """
        if not self.is_bound:
            raise ValueError(f"iwae: of this model it would be {self.bound}; use log_evidence(x).")
        return super().iwae(x, k, chunk=chunk)

    @torch.no_grad()
    def log_evidence(self, x: Tensor, points: int = 4096, *, seed: int = 0, chunk: int = 1 << 21) -> Tensor:
        r"""log p(x) for each row, by evenly spread points of the prior; no posterior enters.

        .. math:: \log\frac1n\sum_{i=1}^n p_\theta(x \mid f_\theta(\phi(u_i))), \qquad
            u_i \text{ a scrambled Sobol sequence}

        In expectation at most log p(x), and near it once the points are much closer together than the posterior is
        wide, which few dimensions of u allow: up to 2 or 3.

        :param x: rows, shape ``(...,) + data_dim``.
        :param points: n, a power of 2.
        :param seed: of the scrambling.
        :param chunk: largest number of elements of an intermediate tensor.
        """
        batch = self._check_data(x)
        check_size("points", points)
        if not x.numel():
            return x.new_zeros(batch)
        u = torch.quasirandom.SobolEngine(self.dim, scramble=True, seed=seed).draw(
            points, dtype=torch.float64
        )
        u = u.clamp(1e-9, 1 - 1e-9).to(self._like)
        if self.family == "normal":
            u = math.sqrt(2) * torch.erfinv(2 * u - 1)
        table = x if batch else x.unsqueeze(0)
        axes, rows = table.dim() - len(self.data_shape), -1 - len(self.data_shape)
        width = self.width * math.prod(table.shape[:rows])  # sets of weights stand in front of the rows
        many = max(1, min(points, chunk // width))
        parts = table.split(max(1, chunk // (many * width)), rows)
        totals = [part.new_full(part.shape[:axes], -math.inf) for part in parts]
        for some in u.split(many):  # decoded once for all rows
            likelihood = self.decode(some.reshape((-1,) + (1,) * axes + (self.dim,)))
            for k, part in enumerate(parts):
                totals[k] = torch.logaddexp(totals[k], likelihood.log_prob(part).logsumexp(0))
        return (torch.cat(totals, -1) - math.log(points)).reshape(batch)

    @torch.no_grad()
    def sample(self, n: int, x: Tensor | None = None) -> Tensor:
        if x is None or self.is_bound:
            return super().sample(n, x)
        check_size("n", n)
        hidden, action = self._encode(self._random_rows(n, x))
        return self._likelihood(action(self.to_manifold(hidden.sample()))).sample()

    def settings(self) -> dict[str, Any]:
        return {
            "embedding": repr(self.embedding),
            "group_action": self.action is not None,
            "likelihood": self.likelihood,
        }


def _dim_of(embedding: Any, dim: int | None) -> int:
    """
    :raises ValueError: where the dimension is not known, or another than given.
    """
    own: int | None = getattr(embedding, "dim", None)
    known = own if dim is None else dim
    if known is None:
        raise ValueError(f"dim: {embedding!r} does not say its dimension; give dim=.")
    if dim is not None and own is not None and dim != own:
        raise ValueError(f"dim: got {dim}, but the embedding has {own}. Leave dim out.")
    return check_size("dim", known)


def _family(embedding: Any) -> str:
    """The family of hidden distributions on the domain of ``embedding``.

    :raises ValueError: for another domain than cube or vectors.
    """
    domain = embedding.domain
    tried = torch.tensor([[0.5], [-0.5], [1.5]])
    if domain.event_dim == 1:
        if domain.check(tried).tolist() == [True, False, False]:
            return "beta"
        if domain.check(tried).all():
            return "normal"
    raise ValueError(
        f"embedding: got {embedding!r} with domain {domain}; expected a map from the cube, constraints.independent("
        "constraints.unit_interval, 1), or from vectors, constraints.real_vector."
    )
