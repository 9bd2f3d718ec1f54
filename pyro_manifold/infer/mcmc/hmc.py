"""Geodesic HMC as a kernel of Pyro's ``MCMC``."""

import math
import multiprocessing
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import geoopt
import pyro
from pyro.infer.autoguide.initialization import init_to_uniform
from pyro.infer.mcmc import HMC
from torch import Tensor

from ...geometry import geometry
from .adapters import ArcAdapter, ScaleAdapter, StepAdapter
from .constrained import ProjectedMotion
from .errors import InvalidStartError, StepSizeError
from .integrators import first_step_size
from .options import Isometry, check_options, isometries_of
from .potential import ChainBatch
from .start import check_start, find_start, prepare
from .systems import State, System
from .transitions import Outcome, hmc, isometry_jump

__all__ = ["GeodesicHMC"]

PATIENCE = 100  # transitions that may all diverge before we say so


class GeodesicHMC(HMC):
    r"""Hamiltonian Monte Carlo whose manifold sites move along geodesics, mixed with ordinary sites.

    .. math:: H(z, w) = -\log p(z, x) + \tfrac12|w|^2, \qquad \text{kick, exact geodesic flow, kick}

    Sites whose support is a manifold (``on(manifold)``, Pyro's ``constraints.sphere``) are sampled as points, with respect to
    Riemannian volume and without charts; the others as Pyro does, through ``biject_to``. Each manifold site has one scale and
    the ordinary ones share a diagonal or dense mass, learned in warm-up on Pyro's schedule. The arc length of a trajectory is
    uniform on ``trajectory_length`` times [1/2, 3/2]; by default warm-up learns the one with most effective draws per
    gradient, which on spheres is two to three times as many as NUTS makes.

    :param model: a Pyro model, or give ``potential_fn``.
    :param potential_fn: minus log density of a dict of values (one chain), for which ``initial_params`` (points on the manifold
        for the sites in ``manifolds``) and ``manifolds`` must be given.
    :param dict manifolds: site name -> geoopt manifold; only with ``potential_fn``.
    :param int chains: chains that this kernel advances together, one batched gradient for all; run it with
        :class:`~pyro_manifold.infer.VectorizedMCMC`. (Pyro's ``MCMC(num_chains=...)`` runs separate processes: the model must
        pickle, and a script needs its ``if __name__ == "__main__":`` guard where processes are spawned.)
    :param float step_size: initial step size.
    :param float trajectory_length: arc length in units of the learned scales; ``None`` to learn it.
    :param bool full_mass: dense mass for the ordinary sites.
    :param dict isometries: site name -> ``"antipode"``, ``"quaternion sign"`` or an isometry of that site's manifold that is
        its own inverse; after each trajectory one of the point and its image is drawn (for one point of a site in a plate),
        which lets axial and other two-mode targets mix. It costs one gradient.
    :param float target_accept_prob: for the adaptation of the step size.
    :param init_strategy: as in Pyro; its values are points for manifold sites.
    :param str vectorize: how chains share a gradient: ``"auto"``, ``"plates"``, ``"vmap"`` or ``"loop"``.
    :raises InvalidStartError: for a start off the manifold or without finite potential.
    :raises StepSizeError: when every trajectory diverges.
    :raises ValueError: for unsupported options (``jit_compile``) or supports, or names that are not sites.

    ``initial_params`` (Pyro's argument of ``MCMC``) are unconstrained values for ordinary sites and points for manifold sites.

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
    potential_fn: Any
    _initial_params: Any

    def __init__(
        self,
        model: Callable[..., Any] | None = None,
        potential_fn: Callable[[dict[str, Tensor]], Tensor] | None = None,
        *,
        manifolds: Mapping[str, geoopt.Manifold] | None = None,
        chains: int = 1,
        step_size: float = 0.5,
        trajectory_length: float | None = None,
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
        check_options(
            model=model, potential_fn=potential_fn, manifolds=manifolds, chains=chains, step_size=step_size,
            trajectory_length=trajectory_length, full_mass=full_mass, target_accept_prob=target_accept_prob, vectorize=vectorize,
            jit_compile=jit_compile,
        )  # fmt: skip
        super().__init__(
            model, potential_fn, step_size, trajectory_length=1.0, adapt_step_size=adapt_step_size,
            adapt_mass_matrix=adapt_mass_matrix, full_mass=full_mass, target_accept_prob=target_accept_prob,
            init_strategy=init_strategy, max_plate_nesting=max_plate_nesting,
        )  # fmt: skip
        self.chains, self.vectorize, self.isometries = chains, vectorize, isometries_of(isometries)
        self.manifolds = dict(manifolds or {})
        self._adapter.mass_matrix_adapter = ScaleAdapter(dense=full_mass)
        if adapt_step_size:
            self._adapter._step_size_adapt_scheme = StepAdapter()
        self._arc = ArcAdapter(trajectory_length)

    # --- start -------------------------------------------------------------------------------------------------------
    @property
    def initial_params(self) -> Any:
        return self._initial_params

    @initial_params.setter
    def initial_params(self, params: Any) -> None:
        self._initial_params = params
        self._starts.append(params)

    def _own_start(self) -> Any:
        """The start of this chain: Pyro hands one kernel those of all chains before its processes, named 0, 1, ..., start."""
        starts = [p for p in self._starts if p is not None]
        worker = multiprocessing.current_process().name
        if multiprocessing.parent_process() is not None and worker.isdigit() and int(worker) < len(starts):
            return starts[int(worker)]
        return starts[-1] if starts else None

    def _reset(self) -> None:
        super()._reset()
        self._starts: list[Any] = []
        self._state: State | None = None
        self._system: Any = None
        self.num_gradients = self.warmup_gradients = self._lost = 0
        if getattr(self, "model", None) is not None:  # Pyro takes a kernel with a potential to be one without a model
            self.potential_fn = None

    def setup(self, warmup_steps: int, *args: Any, **kwargs: Any) -> None:
        given = self._own_start()
        self._reset()  # an interrupted run leaves no trace
        self._warmup_steps = warmup_steps
        if self.model is not None:
            made = prepare(self.model, args, kwargs, self._init_strategy, self._max_plate_nesting)
            if made.enumerated and self.vectorize == "auto":
                self.vectorize = "loop"
            self._potential, self.transforms, self.manifolds = made.potential, made.transforms, made.manifolds
            given = given or find_start(made, self.chains, args, kwargs)
        else:
            self._potential, self.transforms = self.potential_fn, {}
            if not given:
                raise InvalidStartError("initial_params: missing; give MCMC(initial_params={site: value}) with potential_fn.")
        self._initial_params = given
        z = {k: v.detach().clone() for k, v in given.items()}
        if self.chains == 1:
            z = {k: v.unsqueeze(0) for k, v in z.items()}
        check_start(z, self.chains, self.manifolds, self.isometries)
        geometries = {k: geometry(m) for k, m in self.manifolds.items()}
        batch = ChainBatch(self._potential, z, self.vectorize)
        self._system = System(batch, geometries, {k: v.shape[1:] for k, v in z.items()})
        for s in self._system.sites:
            if s.motion is not None:
                s.motion.centre(z[s.name])
        with pyro.validation_enabled(False):
            self._state = self._system.state(z)
        bad = ~(self._state.potential.isfinite() & self._state.grad.isfinite().all(-1))
        if bool(bad.any()):
            raise InvalidStartError(
                f"the log density or its gradient is not finite at the start of chain {int(bad.nonzero()[0])}; "
                "start elsewhere (init_strategy or initial_params) or check the model there."
            )
        self._arc.reset()
        self._adapter.mass_matrix_adapter.system = self._system
        self._adapter.configure(warmup_steps, mass_matrix_shape={}, find_reasonable_step_size_fn=self._find_reasonable_step_size)
        if self._adapter.adapt_step_size and warmup_steps:
            self._adapter.reset_step_size_adaptation(z)

    @property
    def step_size(self) -> float:
        """The adapted step, at most the system's cap: on flat targets adaptation alone would send it to infinity."""
        size = self._adapter.step_size
        return size if self._system is None else min(size, self._system.step_cap())

    @property
    def trajectory_length(self) -> float:
        """Mean arc length, in units of the learned scales."""
        return self._arc.length

    @trajectory_length.setter
    def trajectory_length(self, value: float) -> None:  # Pyro's constructor sets one
        pass

    def _find_reasonable_step_size(self, z: dict[str, Tensor]) -> float:
        assert self._state is not None
        size, trials = first_step_size(self._system, self._state, self.step_size, (self._min_stepsize, self._max_stepsize))
        self.num_gradients += trials * self.chains
        return size

    # --- sampling ----------------------------------------------------------------------------------------------------
    def _transition(self, state: State, step_size: float) -> Outcome:
        warm = self._t < self._warmup_steps
        record = self._arc.recorder(self._system, step_size) if warm and self._arc.adapt else None
        return hmc(self._system, state, step_size, self._arc.count(step_size, warm), record)

    def _adapt(self, state: State, accept: Tensor) -> None:
        adapter, before = self._adapter, dict(self._system.scale)
        window, step = adapter._current_window if self._adapter.adaptation_schedule else 0, self.step_size
        flat = self._system.flat_scale
        adapter.step(self._t - 1, state.z, accept)
        if self._t == self._warmup_steps or (self._adapter.adaptation_schedule and adapter._current_window != window):
            logs = [(math.log(before[s.name] / self._system.scale[s.name]), s.dim) for s in self._system.sites if s.geometry]
            if self._system.flat:
                old, new = (x if x is None or x.dim() == 1 else x.diagonal() for x in (flat, self._system.flat_scale))
                ratio = 0.0 if new is None else float((new.log() if old is None else (new / old).log()).mean())
                logs.append((-ratio, self._system.flat))
            stretch = math.exp(sum(a * b for a, b in logs) / sum(b for _, b in logs))
            self._arc.choose(self.step_size if stretch == 1.0 else step * stretch, stretch)

    def sample(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        state = self._state
        assert state is not None
        if self.potential_fn is None:
            self.potential_fn = self._potential
        with pyro.validation_enabled(False):
            out = self._transition(state, self.step_size)
            state = out.state
            for name, f in self.isometries.items():
                state = isometry_jump(self._system, state, name, f)
                self.num_gradients += self.chains
            if self._t % 50 == 49 and self.manifolds:  # take rounding drift off the manifold away
                state = self._system.state(self._system.project(state.z))
                self.num_gradients += self.chains
        self._state = state
        self.num_gradients += int(out.steps.sum())
        self._t += 1
        self._watch(out)
        accept = out.accept_prob.mean()
        if self._t <= self._warmup_steps:
            n = self._t
            self._adapt(state, accept)
            self.warmup_gradients = self.num_gradients
            if self._t == self._warmup_steps:
                for s in self._system.sites:
                    if isinstance(s.motion, ProjectedMotion):
                        s.motion.refused = dict.fromkeys(s.motion.refused, 0)
        else:
            n = self._t - self._warmup_steps
            self._divergences.extend((n - 1, int(c)) for c in out.diverging.nonzero())
            self._accept_cnt += float(accept)
        self._mean_accept_prob += (float(accept) - self._mean_accept_prob) / n
        return {k: v.clone() if self.chains > 1 else v[0].clone() for k, v in state.z.items()}

    def _watch(self, out: Outcome) -> None:
        self._lost = self._lost + 1 if bool((out.diverging | (out.accept_prob == 0)).all()) else 0
        if self._lost >= PATIENCE:
            raise StepSizeError(
                f"every trajectory of the last {PATIENCE} transitions diverged or was refused at step size {self.step_size:.2e}; "
                "give a smaller step_size or adapt_step_size=True with more warm-up, and check that the log density is "
                "continuous where the chain is (on an unbounded site, a non-centred reparametriser may be what it needs)."
            )

    def logging(self) -> OrderedDict:
        return OrderedDict([("step size", f"{self.step_size:.2e}"), ("acc. prob", f"{self._mean_accept_prob:.3f}")])

    def diagnostics(self) -> dict[str, Any]:
        """``divergences`` (draws), acceptance and gradients; for sites on implicit manifolds ``refused steps`` since warm-up."""
        if self._system is None:
            raise RuntimeError("diagnostics: this kernel has been cleaned up after its run; ask mcmc.diagnostics().")
        refused = {s.name: dict(s.motion.refused) for s in self._system.sites if isinstance(s.motion, ProjectedMotion)}
        by_chain = [[draw for draw, chain in self._divergences if chain == i] for i in range(self.chains)]
        return {
            "divergences": [draw for draw, _ in self._divergences],
            **({"divergences by chain": by_chain} if self.chains > 1 else {}),
            "acceptance rate": self._accept_cnt / max(1, self._t - self._warmup_steps),
            "gradients": self.num_gradients,
            "warmup gradients": self.warmup_gradients,
            **({"refused steps": refused} if refused else {}),
        }
