"""The targets of ``bench_mcmc.py`` as a user of NumPyro or BlackJAX would write them: (n, v -> point, log density of v in
R^n). Normalised Gaussian vectors on spheres, as quaternions for rotations, Q of a Gaussian matrix for frames, the
exponential map at the origin for hyperbolic space, Cholesky factors with log diagonals for SPD matrices."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

Density = tuple[int, Callable[[Any], tuple[Any, Any]]]


def sphere(n: int, potential: Callable) -> Density:
    def f(v):
        x = v / jnp.sqrt((v * v).sum())
        return x, -potential(x) - 0.5 * (v * v).sum()

    return n, f


def matrix_of(q):
    """Rotation of a unit quaternion."""
    w, x, y, z = q
    return jnp.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def rotation(potential: Callable) -> Density:
    def f(v):
        x = matrix_of(v / jnp.sqrt((v * v).sum()))
        return x, -potential(x) - 0.5 * (v * v).sum()

    return 4, f


def frame(n: int, p: int, potential: Callable) -> Density:
    def f(v):
        q, r = jnp.linalg.qr(v.reshape(n, p))
        x = q * jnp.sign(jnp.diagonal(r))
        return x, -potential(x) - 0.5 * (v * v).sum()

    return n * p, f


def wrapped_normal(d: int, radius: float, scale: float) -> Density:
    """By the law of cosines for half distances, which cancels nothing."""
    unit = np.ones(d) / d**0.5

    def f(v):
        r = jnp.sqrt((v * v).sum())
        u = v / r
        half = 0.25 * ((u - unit) ** 2).sum()  # sin^2 of half the angle
        s = jnp.sinh((r - radius) / 2) ** 2 + jnp.sinh(r) * jnp.sinh(radius) * half
        t = 2 * jnp.arcsinh(jnp.sqrt(s))
        log_p = -0.5 * (t / scale) ** 2 - (d - 1) * jnp.log(jnp.sinh(t) / t)
        return jnp.concatenate([jnp.cosh(r)[None], jnp.sinh(r) * u]), log_p + (d - 1) * jnp.log(
            jnp.sinh(r) / r
        )

    return d, f


def wishart(nu: int, precision: np.ndarray) -> Density:
    i, j = np.tril_indices(3)

    def f(v):
        factor = jnp.zeros((3, 3)).at[i, j].set(v)
        d = jnp.diagonal(factor)
        factor = factor + jnp.diag(jnp.exp(d) - d)
        x = factor @ factor.T
        # density det^{(nu - 4)/2} e^{-tr/2} dx, and dx = 2^3 prod L_ii^(5 - i) dv for i = 1, 2, 3
        return x, (nu - 4) * d.sum() - 0.5 * (precision * x).sum() + (np.array([4.0, 3.0, 2.0]) * d).sum()

    return 6, f
