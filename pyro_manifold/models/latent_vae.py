"""What every variational auto-encoder shares, whatever its latent variable: bounds, draws and files."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import pyro
import torch
from pyro.nn import PyroModule
from torch import Tensor
from torch.distributions import kl_divergence

from ..nn.sizes import check_size
from ..ops.arguments import checked
from .saved import Saved

__all__ = ["LatentVAE"]


class LatentVAE(Saved, PyroModule):
    r"""Base class of variational auto-encoders: of a prior p(z), a posterior q(z | x) and a likelihood p(x | z)
    it makes ``model`` and ``guide``, the evidence bounds, draws, and files.

    .. math::
        \log p(x) \ge \mathrm E_{q(z \mid x)} \log p(x \mid z) - \mathrm{KL}(q(z \mid x) \,\|\, p(z))

    A subclass defines :attr:`prior`, :meth:`encode` and :meth:`decode`. It may replace :meth:`divergence`, where
    the Kullback-Leibler divergence is known in another form, and extends :meth:`settings` by what else must
    agree before saved weights can be loaded. Prior and posterior are with respect to one measure, so the bound
    is that of x in its own measure.

    :param data_shape: shape of one x, or its size.
    :param int width: size of the largest intermediate tensor of the networks for one row, by which :meth:`iwae`
        chooses how many draws to evaluate at once.
    :param str name: prefix of the parameters' names in Pyro's parameter store. While the store holds another
        model's parameters under it (a copy's, a loaded one's) a number is put behind it.

    References: Kingma & Welling, ICLR 2014, eq. 3; Burda et al., ICLR 2016, eq. 8.

    >>> import pyro.distributions as dist
    >>> class Linear(LatentVAE):
    ...     def __init__(self):
    ...         super().__init__(4, name="linear_vae")
    ...         self.up, self.down = torch.nn.Linear(4, 2), torch.nn.Linear(2, 4)
    ...     @property
    ...     def prior(self):
    ...         return dist.Normal(torch.zeros(2), 1.0).to_event(1)
    ...     def encode(self, x):
    ...         return dist.Normal(self.up(x), 0.5).to_event(1)
    ...     def decode(self, z):
    ...         return dist.Normal(self.down(z), 1.0).to_event(1)
    >>> vae = Linear()
    >>> vae.elbo(torch.zeros(3, 4)).shape, vae.sample(2).shape
    (torch.Size([3]), torch.Size([2, 4]))
    """

    _like: Tensor

    @checked(width=1)
    def __init__(self, data_shape: int | Sequence[int], *, width: int = 1, name: str = "vae") -> None:
        super().__init__(name)
        shape = (data_shape,) if isinstance(data_shape, int) else tuple(data_shape)
        if not shape or any(isinstance(n, bool) or n < 1 for n in shape):
            raise ValueError(
                f"data_shape: got {data_shape!r}; expected a positive integer or several, the shape of one x."
            )
        self.data_shape = torch.Size(shape)
        self.width = max(width, self.data_shape.numel())
        self.register_buffer("_like", torch.zeros(()), persistent=False)  # has the model's dtype and device

    # --- the three distributions, which a subclass defines --------------------------------------------------
    @property
    def prior(self) -> Any:
        """Distribution of z, of batch shape ``()``."""
        raise NotImplementedError(f"{type(self).__name__} does not define prior.")

    def encode(self, x: Tensor) -> Any:
        """Approximate posterior q(z | x), a distribution whose batch shape is that of the rows ``x``."""
        raise NotImplementedError(f"{type(self).__name__} does not define encode.")

    def decode(self, z: Tensor) -> Any:
        """Likelihood p(x | z), a distribution of event shape ``data_shape``."""
        raise NotImplementedError(f"{type(self).__name__} does not define decode.")

    def divergence(self, posterior: Any, prior: Any, z: Tensor) -> Tensor:
        r""":math:`\mathrm{KL}(q \,\|\, p)` for each row: in closed form where ``torch.distributions`` has one
        registered, else the mean of log q(z) - log p(z) over the draws ``z``, the first axis of which counts
        them."""
        try:
            return kl_divergence(posterior, prior)
        except NotImplementedError:  # how torch says that there is none
            return (posterior.log_prob(z) - prior.log_prob(z)).mean(0)

    # --- Pyro -----------------------------------------------------------------------------------------------
    def model(self, x: Tensor | None = None, size: int | None = None) -> Tensor:
        """p(z) p(x | z) for the rows of ``x``.

        :param x: data of shape ``(n,) + data_shape``; if omitted, ``size`` rows are drawn. Axes further left
            need plates of their own.
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
        batch = self._check_data(x)
        if not batch:
            raise ValueError(
                f"x: got shape {tuple(x.shape)}; expected {self._rows('n')}. Use x.unsqueeze(0) for a row."
            )
        n = batch[-1]
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

    # --- bounds ---------------------------------------------------------------------------------------------
    def elbo(self, x: Tensor, k: int = 1) -> Tensor:
        r"""Evidence lower bound for each row of ``x``, differentiable in the parameters: the loss of a training
        loop of one's own is ``-vae.elbo(x).mean()``.

        :param x: rows, shape ``(...,) + data_shape``.
        :param k: draws per row.
        :return: shape ``(...,)``, in nats; the divergence is exact where it has a closed form (:meth:`divergence`).
        :raises ValueError: for a posterior whose draws have no gradient; use ``SVI`` with ``Trace_ELBO`` there.
        """
        batch = self._check_data(x)
        check_size("k", k)
        if not x.numel():
            return x.new_zeros(batch)
        posterior = self.encode(x)
        if not posterior.has_rsample:
            raise ValueError(
                f"posterior: draws of {type(posterior).__name__} have no gradient; expected a distribution with "
                "rsample. Train with pyro.infer.SVI(vae.model, vae.guide, ..., Trace_ELBO()), which uses the "
                "score function."
            )
        z = posterior.rsample((k,))
        return self.decode(z).log_prob(x).mean(0) - self.divergence(posterior, self.prior, z)

    @torch.no_grad()
    def iwae(self, x: Tensor, k: int = 5000, *, chunk: int = 1 << 20) -> Tensor:
        r"""Importance-weighted bound on :math:`\log p(x)`, for each row of ``x``.

        .. math:: \log \frac1k \sum_{i=1}^k \frac{p(x \mid z_i)\, p(z_i)}{q(z_i \mid x)}, \qquad z_i \sim
            q(\cdot \mid x)

        :param x: rows, shape ``(...,) + data_shape``; every one is scored.
        :param k: draws per row.
        :param chunk: largest number of elements of an intermediate tensor; memory does not grow with n or k.
        :return: shape ``(...,)``, in nats. Its expectation is at most log p(x) and rises with k.
        """
        batch, event = self._check_data(x), len(self.data_shape)
        check_size("k", k)
        if not x.numel():
            return x.new_zeros(batch)
        table = x if batch else x.unsqueeze(0)
        rows_axis = -1 - event
        # models whose layers hold several sets of weights have leading axes of their own
        stacked = math.prod(table.shape[:rows_axis])
        prior, width = self.prior, self.width * stacked
        rows = max(1, min(table.shape[rows_axis], chunk // width))
        draws = max(1, min(k, chunk // (width * rows)))
        out = []
        for part in table.split(rows, rows_axis):
            posterior = self.encode(part)
            total = part.new_full(part.shape[: part.dim() - event], -math.inf, dtype=self._like.dtype)
            for start in range(0, k, draws):
                z = posterior.sample((min(draws, k - start),))
                weight = self.decode(z).log_prob(part) + prior.log_prob(z) - posterior.log_prob(z)
                total = torch.logaddexp(total, weight.logsumexp(0))
            out.append(total - math.log(k))
        return torch.cat(out, -1).reshape(batch)

    # --- after training -------------------------------------------------------------------------------------
    @torch.no_grad()
    def sample(self, n: int, x: Tensor | None = None) -> Tensor:
        """``n`` draws of data, from the prior or, given ``x``, from the posterior aggregated over random rows
        of ``x``."""
        check_size("n", n)
        if x is None:
            z = self.prior.sample((n,))
        else:
            z = self.encode(self._random_rows(n, x)).sample()
        return self.decode(z).sample()

    def _random_rows(self, n: int, x: Tensor) -> Tensor:
        """``n`` rows of ``x``, drawn with replacement."""
        if x.dim() != 1 + len(self.data_shape) or not len(x):
            raise ValueError(
                f"x: got shape {tuple(x.shape)}; expected {self._rows('rows')} with at least one row."
            )
        return x[torch.randint(len(x), (n,), device=x.device)]

    def _check_data(self, x: Tensor) -> torch.Size:
        """The batch shape of the rows ``x``.

        :raises ValueError: unless they have the model's data shape, dtype and device.
        """
        event, cut = self.data_shape, x.dim() - len(self.data_shape)
        if cut < 0 or x.shape[cut:] != event:
            axis = f"a last axis of size {event[0]}" if len(event) == 1 else f"last axes {tuple(event)}"
            raise ValueError(f"x: got shape {tuple(x.shape)}; expected {axis}.")
        for what in ("dtype", "device"):
            seen, own = getattr(x, what), getattr(self._like, what)
            if seen != own:
                raise ValueError(
                    f"x: got {what} {seen}; expected the model's, {own}. Convert x or the model with "
                    f".to(...)."
                )
        return x.shape[:cut]

    def _rows(self, n: str) -> str:
        return f"({', '.join([n, *map(str, self.data_shape)])})"
