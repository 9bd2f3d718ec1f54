"""Geodesic HMC and NUTS as kernels of Pyro's ``MCMC``."""

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import geoopt
import pyro
import torch
from pyro import poutine
from pyro.infer import config_enumerate
from pyro.infer.autoguide.initialization import InitMessenger, init_to_uniform
from pyro.infer.mcmc import HMC
from pyro.infer.mcmc.util import _guess_max_plate_nesting, initialize_model
from torch import Tensor
from torch.distributions import biject_to, identity_transform

from ...constraints import manifold_of, on
from ...geometry import geometry
from .adapters import ScaleAdapter
from .errors import InvalidStartError
from .integrators import geodesic_leapfrog
from .potential import ChainBatch, ModelPotential
from .systems import State, System
from .transitions import Outcome, hmc, nuts

__all__ = ["GeodesicHMC", "GeodesicNUTS"]

Isometry = Callable[[Tensor], Tensor]
ISOMETRIES: dict[str, Isometry] = {"antipode": torch.neg}  # x -> -x: axial data, unit quaternions


class GeodesicHMC(HMC):
    r"""Hamiltonian Monte Carlo whose manifold sites move along geodesics, mixed with ordinary sites.

    .. math:: H(z, w) = -\log p(z, x) + \tfrac12|w|^2, \qquad \text{kick, exact geodesic flow, kick}

    Sites whose support is a manifold (``on(manifold)``, Pyro's ``constraints.sphere``) are sampled as points, with respect to
    Riemannian volume and without charts; the others as Pyro does, through ``biject_to``. Each manifold site has one scale and
    the ordinary ones share a diagonal or dense mass, learned in warm-up on Pyro's schedule. The arc length of a trajectory is
    uniform on ``trajectory_length`` times [1/2, 3/2], in units of the learned scales.

    :param model: a Pyro model, or give ``potential_fn``.
    :param potential_fn: minus log density of a dict of values (one chain), for which ``initial_params`` (points on the manifold
        for the sites in ``manifolds``) and ``manifolds`` must be given.
    :param dict manifolds: site name -> geoopt manifold; only with ``potential_fn``.
    :param int chains: chains that this kernel advances together, one batched gradient for all; run it with
        :class:`~pyro_manifold.infer.VectorizedMCMC`. (Pyro's ``MCMC(num_chains=...)`` runs separate processes.)
    :param float step_size: initial step size.
    :param float trajectory_length: arc length in units of the scales; the default is a quarter of a harmonic period.
    :param bool full_mass: dense mass for the ordinary sites.
    :param dict isometries: site name -> ``"antipode"`` or an isometry of that site's manifold; after each trajectory it is
        proposed as a jump, which lets axial and other two-mode targets mix.
    :param float target_accept_prob: for the adaptation of the step size.
    :param init_strategy: as in Pyro; its values are points for manifold sites.
    :param str vectorize: how chains share a gradient: ``"auto"``, ``"plates"``, ``"vmap"`` or ``"loop"``.
    :raises InvalidStartError: for a start off the manifold or without finite potential.
    :raises ValueError: for unsupported options (``jit_compile``) or names that are not sites.

    References: Byrne & Girolami 2013 (geodesic flows); Neal 2011; Bou-Rabee & Sanz-Serna 2017 (random arc lengths).

    >>> import geoopt
    >>> from pyro.infer import MCMC
    >>> import pyro_manifold.distributions as mdist
    >>> model = lambda: pyro.sample("x", mdist.VonMisesFisher(torch.tensor([0.0, 0.0, 1.0]), torch.tensor(5.0)))
    >>> mcmc = MCMC(GeodesicHMC(model), num_samples=20, warmup_steps=20, disable_progbar=True)
    >>> mcmc.run()
    >>> mcmc.get_samples()["x"].shape
    torch.Size([20, 3])
    """

    transforms: Any
    _initial_params: Any

    def __init__(
        self,
        model: Callable[..., Any] | None = None,
        potential_fn: Callable[[dict[str, Tensor]], Tensor] | None = None,
        *,
        manifolds: Mapping[str, geoopt.Manifold] | None = None,
        chains: int = 1,
        step_size: float = 0.5,
        trajectory_length: float = math.pi / 2,
        adapt_step_size: bool = True,
        adapt_mass_matrix: bool = True,
        full_mass: bool = False,
        isometries: Mapping[str, str | Isometry] | None = None,
        target_accept_prob: float = 0.8,
        init_strategy: Callable[..., Any] = init_to_uniform,
        max_plate_nesting: int | None = None,
        vectorize: str = "auto",
        jit_compile: bool = False,
    ) -> None:
        if jit_compile:
            raise ValueError(
                "jit_compile: not supported here; run many chains in one kernel instead: chains=64 (one gradient for all)."
            )
        if chains < 1:
            raise ValueError(f"chains: got {chains}, expected at least 1.")
        if vectorize not in ("auto", "plates", "vmap", "loop"):
            raise ValueError(f"vectorize: got {vectorize!r}, expected 'auto', 'plates', 'vmap' or 'loop'.")
        if not isinstance(full_mass, bool):
            raise ValueError(f"full_mass: got {full_mass!r}, expected True or False (one block for all ordinary sites).")
        if (model is None) == (potential_fn is None):
            raise ValueError("model: give exactly one of model and potential_fn.")
        super().__init__(
            model, potential_fn, step_size, trajectory_length=trajectory_length, adapt_step_size=adapt_step_size,
            adapt_mass_matrix=adapt_mass_matrix, full_mass=full_mass, target_accept_prob=target_accept_prob,
            init_strategy=init_strategy, max_plate_nesting=max_plate_nesting,
        )  # fmt: skip
        self.chains, self.vectorize = chains, vectorize
        self.manifolds = dict(manifolds or {})
        self.isometries = {k: ISOMETRIES[f] if isinstance(f, str) else f for k, f in (isometries or {}).items()}
        self._adapter.mass_matrix_adapter = ScaleAdapter(dense=full_mass)
        self._user_potential = potential_fn

    # --- start -------------------------------------------------------------------------------------------------------
    def _reset(self) -> None:
        super()._reset()
        self._state: State | None = None
        self.num_gradients = 0
        if getattr(self, "model", None) is not None:  # made anew by the next setup, so that a kernel can run twice
            self.potential_fn, self.transforms = None, None

    def _from_model(self, args: tuple, kwargs: dict) -> Callable[[dict[str, Tensor]], Tensor]:
        nesting = self._max_plate_nesting
        if nesting is None:
            nesting = _guess_max_plate_nesting(self.model, args, kwargs)
        with poutine.block():  # discrete sites are enumerated, not initialised
            model = poutine.enum(config_enumerate(self.model), first_available_dim=-1 - nesting)
            trace = poutine.trace(InitMessenger(self._init_strategy)(model)).get_trace(*args, **kwargs)
        self.transforms, discrete = {}, False
        for name, node in trace.iter_stochastic_nodes():
            if node["fn"].has_enumerate_support:
                discrete = True
                continue
            if type(node["fn"]).__name__ == "_Subsample":
                continue
            manifold = manifold_of(node["fn"].support)
            if manifold is not None:
                self.manifolds[name] = manifold
                self.transforms[name] = identity_transform
                continue
            try:
                self.transforms[name] = biject_to(node["fn"].support).inv
            except NotImplementedError:
                raise ValueError(
                    f"site {name!r}: its support {node['fn'].support} is neither a manifold nor has it a bijection from R^n; "
                    "use a reparametriser (poutine.reparam) or pyro_manifold.constraints.on(manifold)."
                ) from None
        if discrete:  # Pyro's own potential sums the enumerated sites out
            self.vectorize = "loop" if self.vectorize == "auto" else self.vectorize
            _, potential, _, _ = initialize_model(
                self.model, args, kwargs, transforms=self.transforms, max_plate_nesting=nesting, initial_params={}
            )
        else:
            potential = ModelPotential(self.model, args, kwargs, self.transforms, nesting)  # type: ignore[arg-type]
        if not self._initial_params:
            self._initial_params = self._find_start(potential, model, args, kwargs)
        return potential

    def _find_start(self, potential: Any, model: Any, args: tuple, kwargs: dict) -> dict[str, Tensor]:
        """Draws of the initialisation strategy at which potential and gradient are finite, one per chain."""
        found: list[dict[str, Tensor]] = []
        geometries = {k: geometry(m) for k, m in self.manifolds.items()}
        for _ in range(100 * self.chains):
            with poutine.block(), pyro.validation_enabled(False):
                trace = poutine.trace(InitMessenger(self._init_strategy)(model)).get_trace(*args, **kwargs)
                z = {k: t(trace.nodes[k]["value"].detach()).unsqueeze(0) for k, t in self.transforms.items()}
                if not z:
                    break
                system = System(ChainBatch(potential, z), geometries, {k: v.shape[1:] for k, v in z.items()})
                u, grad = system.evaluate(z)
            if bool(u.isfinite().all()) and bool(grad.isfinite().all()):
                found.append({k: v[0] for k, v in z.items()})
            if len(found) == self.chains:
                return found[0] if self.chains == 1 else {k: torch.stack([f[k] for f in found]) for k in found[0]}
        raise InvalidStartError(
            "no start with a finite log density and gradient was found in 100 tries per chain; check the model, or "
            "give init_strategy=pyro.infer.autoguide.init_to_value(values=...)."
        )

    def setup(self, warmup_steps: int, *args: Any, **kwargs: Any) -> None:
        self._warmup_steps = warmup_steps
        if self.model is not None:
            potential = self._from_model(args, kwargs)
        else:
            assert self._user_potential is not None
            potential, self.transforms = self._user_potential, {}
        if not self._initial_params:
            raise InvalidStartError("initial_params: missing; give MCMC(initial_params={site: value}) with potential_fn.")
        z = {k: v.detach().clone() for k, v in self._initial_params.items()}
        if self.chains == 1:
            z = {k: v.unsqueeze(0) for k, v in z.items()}
        self._check_start(z)
        geometries = {k: geometry(m) for k, m in self.manifolds.items() if k in z}
        batch = ChainBatch(potential, z, self.vectorize)
        self._system = System(batch, geometries, {k: v.shape[1:] for k, v in z.items()})
        like = next(iter(z.values()))
        with pyro.validation_enabled(False):
            self._state = self._system.state(z, like.new_zeros(self.chains, self._system.dim))
        bad = ~(self._state.potential.isfinite() & self._state.grad.isfinite().all(-1))
        if bool(bad.any()):
            raise InvalidStartError(
                f"the log density or its gradient is not finite at the start of chain {int(bad.nonzero()[0])}; "
                "start elsewhere (init_strategy or initial_params) or check the model there."
            )
        adapter = self._adapter.mass_matrix_adapter
        adapter.system = self._system
        self._adapter.configure(warmup_steps, mass_matrix_shape={}, find_reasonable_step_size_fn=self._find_reasonable_step_size)
        if self._adapter.adapt_step_size:
            self._adapter.reset_step_size_adaptation(z)

    def _check_start(self, z: dict[str, Tensor]) -> None:
        for name in [*self.manifolds, *self.isometries]:
            if name not in z:
                raise ValueError(f"manifolds, isometries: {name!r} is not a continuous latent site; those are {sorted(z)}.")
        for k, v in z.items():
            if v.shape[0] != self.chains:
                raise InvalidStartError(f"initial_params: {k!r} has {v.shape[0]} rows, expected one per chain ({self.chains}).")
            if k in self.manifolds and not bool(on(self.manifolds[k]).check(v).all()):
                raise InvalidStartError(
                    f"initial_params: {k!r} is not on {self.manifolds[k].name}; project it first with "
                    "pyro_manifold.geometry.geometry(manifold).project(value)."
                )

    @property
    def step_size(self) -> float:
        """The adapted step, at most the system's cap: on flat targets adaptation alone would send it to infinity."""
        size = self._adapter.step_size
        return size if self._state is None else min(size, self._system.step_cap())

    def _find_reasonable_step_size(self, z: dict[str, Tensor]) -> float:
        """Double or halve until the mean acceptance probability of one step crosses 0.8 (Hoffman & Gelman 2014, alg. 4)."""
        assert self._state is not None
        system, cap = self._system, self._system.step_cap()
        size = self.step_size

        def acceptance(size: float) -> float:
            state = self._state.clone()  # type: ignore[union-attr]
            state.w = torch.randn_like(state.w)
            step = torch.full_like(state.w[:, :1], size)
            error = geodesic_leapfrog(system, state, step).energy() - state.energy()
            self.num_gradients += self.chains
            return float((-error).exp().clamp(max=1).nan_to_num(0).mean())

        up = acceptance(size) > 0.8
        for _ in range(60):
            size = min(size * 2, cap) if up else size / 2
            if size >= cap or size <= self._min_stepsize or (acceptance(size) > 0.8) != up:
                break
        return size

    # --- sampling ----------------------------------------------------------------------------------------------------
    def _transition(self, state: State, step_size: float) -> Outcome:
        return hmc(self._system, state, step_size, self.trajectory_length)

    def _jump(self, state: State) -> State:
        """Metropolis with a named isometry per site: volume is preserved and the move is proposed both ways."""
        for name, f in self.isometries.items():
            z = {k: f(v) if k == name else v for k, v in state.z.items()}
            new = self._system.state(z, state.w)
            self.num_gradients += self.chains
            log_ratio = (state.potential - new.potential).nan_to_num(-torch.inf)
            state.put(torch.arange(self.chains, device=state.w.device), new, torch.rand_like(log_ratio).log() < log_ratio)
        return state

    def sample(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        state = self._state
        assert state is not None
        warm = self._t < self._warmup_steps
        with pyro.validation_enabled(False):
            out = self._transition(state, self.step_size)
            state = self._jump(out.state)
            if self._t % 50 == 49 and self.manifolds:  # take rounding drift off the manifold away
                state = self._system.state(self._system.project(state.z), state.w)
        self._state = state
        self.num_gradients += int(out.steps.sum())
        self._t += 1
        accept = out.accept_prob.mean()
        if warm:
            n = self._t
            self._adapter.step(self._t - 1, state.z, accept)
        else:
            n = self._t - self._warmup_steps
            self._divergences.extend([self._t - self._warmup_steps - 1] * int(out.diverging.sum()))
            self._accept_cnt += float(accept)
        self._mean_accept_prob += (float(accept) - self._mean_accept_prob) / n
        z = {k: v.clone() for k, v in state.z.items()}
        return z if self.chains > 1 else {k: v[0] for k, v in z.items()}

    def logging(self) -> OrderedDict:
        return OrderedDict([("step size", f"{self.step_size:.2e}"), ("acc. prob", f"{self._mean_accept_prob:.3f}")])

    def diagnostics(self) -> dict[str, Any]:
        return {
            "divergences": self._divergences,
            "acceptance rate": self._accept_cnt / max(1, self._t - self._warmup_steps),
            "gradients": self.num_gradients,
        }


class GeodesicNUTS(GeodesicHMC):
    r"""The No-U-Turn sampler on geodesic flows: multinomial trajectories that stop where they start to return.

    As :class:`GeodesicHMC`, with the arc length chosen by the U-turn criterion for velocities compared in one fixed space
    (ambient vectors on compact manifolds, transported frames on hyperbolic space), and Stan's additional sub-tree
    checks, which closed geodesics need.

    :param int max_tree_depth: at most ``2 ** max_tree_depth`` leapfrog steps a draw.

    Other parameters, errors and references: :class:`GeodesicHMC`; Betancourt 2017, app. A.

    >>> import geoopt
    >>> from pyro.infer import MCMC
    >>> import pyro_manifold.distributions as mdist
    >>> model = lambda: pyro.sample("x", mdist.ManifoldUniform(geoopt.Sphere(), 3))
    >>> mcmc = MCMC(GeodesicNUTS(model), num_samples=20, warmup_steps=20, disable_progbar=True)
    >>> mcmc.run()
    >>> mcmc.get_samples()["x"].norm(dim=-1).allclose(torch.ones(20))
    True
    """

    def __init__(
        self,
        model: Callable[..., Any] | None = None,
        potential_fn: Callable[[dict[str, Tensor]], Tensor] | None = None,
        *,
        max_tree_depth: int = 10,
        **kwargs: Any,
    ) -> None:
        if "trajectory_length" in kwargs:
            raise ValueError("trajectory_length: NUTS finds it; use GeodesicHMC to fix it, or max_tree_depth to bound it.")
        super().__init__(model, potential_fn, **kwargs)
        self.max_tree_depth = max_tree_depth

    def _transition(self, state: State, step_size: float) -> Outcome:
        return nuts(self._system, state, step_size, self.max_tree_depth)
