"""Pyro's ``MCMC`` for kernels that advance many chains together."""

from typing import Any

from pyro.infer import MCMC

from ...ops.arguments import checked

__all__ = ["VectorizedMCMC"]


class VectorizedMCMC(MCMC):
    """Pyro's driver for a kernel with ``chains > 1``: the chains become the chains of samples, summary and
    diagnostics.

    :param kernel: a :class:`~pyro_manifold.infer.GeodesicHMC` or ``GeodesicNUTS`` with its ``chains``.
    :raises ValueError: if ``num_chains`` is given, or the kernel has no ``chains``.

    Other parameters: :class:`pyro.infer.MCMC`, without ``num_chains``.

    >>> import geoopt
    >>> import pyro_manifold.distributions as mdist
    >>> from pyro_manifold.infer import GeodesicNUTS
    >>> model = lambda: pyro.sample("x", mdist.ManifoldUniform(geoopt.Sphere(), 3))
    >>> mcmc = VectorizedMCMC(GeodesicNUTS(model, chains=4), num_samples=10, warmup_steps=10, disable_progbar=True)
    >>> mcmc.run()
    >>> mcmc.get_samples(group_by_chain=True)["x"].shape
    torch.Size([4, 10, 3])
    """

    _samples: Any
    _diagnostics: Any

    @checked(num_samples=0)
    def __init__(self, kernel: Any, num_samples: int, *args: Any, **kwargs: Any) -> None:
        if not hasattr(kernel, "chains"):
            raise ValueError(f"kernel: {type(kernel).__name__} has no chains; use pyro.infer.MCMC for it.")
        if kwargs.get("num_chains", 1) != 1:
            raise ValueError(
                "num_chains: set chains in the kernel instead, e.g. GeodesicNUTS(model, chains=64)."
            )
        super().__init__(kernel, num_samples, *args, **kwargs)

    def run(self, *args: Any, **kwargs: Any) -> None:
        self.num_chains = 1  # what the sampler underneath sees
        try:
            super().run(*args, **kwargs)
        except BaseException:  # Ctrl-C too: the kernel drops the run and can be run again
            self.kernel.cleanup()
            raise
        chains = self.kernel.chains
        if chains > 1:  # (1, draws, chains, ...) -> (chains, draws, ...)
            self._samples = {k: v[0].transpose(0, 1) for k, v in self._samples.items()}
            self._diagnostics = self._diagnostics[0]["by chain"]
        self.num_chains = chains
