r"""The 40 observables of an event, their inverse, and the volume of the 14-dimensional surface they lie on.

.. math::
    x(y) = \big(E, p_x, p_y, p_z, p_T, \eta\big)_{a_1, a_2, j_1, j_2} \oplus
           \big(E, p_x, p_y, p_z, p_T, m, \eta, \Delta\eta\big)_{a_1+a_2,\; j_1+j_2}, \qquad
    \log\mathrm{vol}(y) = \tfrac12\log\det\Big(\frac{\partial x}{\partial y}^{\!\top}\frac{\partial
    x}{\partial y}\Big)

y lists the momenta of the photons (3 + 3 numbers) and the four-momenta of the jets (4 + 4), each pair sorted
by transverse momentum, in GeV. The order is that of the reference (arXiv:2003.13913, its 40-dimensional set);
:math:`\Delta\eta` is the first minus the second. Every observable is standardised by fixed constants (rounded
from 500 000 events with theta from N(0, I_2)); volumes and densities are those of the *standardised* image,
which is what a model trained on x sees.
"""

import torch
from torch import Tensor

from .phase_space import four_vectors, pseudorapidity

__all__ = [
    "NAMES",
    "closure",
    "inverse",
    "log_volume",
    "observables",
    "raw_observables",
    "standardise",
    "unstandardise",
]

_SINGLE, _PAIR = ("e", "px", "py", "pz", "pt", "eta"), ("e", "px", "py", "pz", "pt", "m", "eta", "deltaeta")
NAMES = [f"{o}_{p}" for p in ("a1", "a2", "j1", "j2") for o in _SINGLE] + [
    f"{o}_{p}" for p in ("aa", "jj") for o in _PAIR
]
_MEAN = (
    402, 0, 0, 0, 263, 0,
    155, 0, 0, 0, 96.8, 0,
    927, 0, 0, 0, 314, 0,
    757, 0, 0, 0, 83.0, 0,
    557, 0, 0, 0, 331, 125, 0, 0,
    1684, 0, 0, 0, 333, 1256, 0, 0,
)  # fmt: skip
_STD = (
    369, 261, 261, 401, 259, 1.08,
    157, 101, 101, 168, 106, 1.13,
    737, 325, 325, 1091, 335, 2.08,
    685, 79.7, 79.7, 1015, 76.2, 2.90,
    466, 339, 339, 531, 347, 2.00, 1.34, 0.946,
    1015, 339, 339, 1090, 346, 930, 2.17, 4.57,
)  # fmt: skip
_Y_IN_X = [1, 2, 3, 7, 8, 9, 12, 13, 14, 15, 18, 19, 20, 21]

# The reference's fixed weights of the 26 constraints (CLOSURE_TEST_WEIGHTS), in the order of `closure`.
_WEIGHTS = (
    0.00573312, 0.0193736, 0.00560185, 0.0132463, 0.00514927, 0.00528593,  # pT
    0.751120, 0.683745, 0.479496, 0.354116, 0.694440, 0.458107,  # eta
    0.00338315, 0.00899004, 0.00294437, 0.00115098,  # on shell
    0.00270670, 0.00101820, 0.00376239, 0.00373527, 0.00377451, 0.00372355, 0.00189952, 0.000785023,  # sums
    1.10838, 0.472021,  # delta eta
)  # fmt: skip


def raw_observables(y: Tensor) -> Tensor:
    """Observables in GeV and units of pseudorapidity: (..., 14) to (..., 40)."""
    a1, a2, j1, j2 = four_vectors(y)
    rows, etas = [], []
    for p in (a1, a2, j1, j2):
        etas.append(pseudorapidity(p))
        rows += [p[0], p[1], p[2], p[3], torch.hypot(p[1], p[2]), etas[-1]]
    for p, gap in ((a1 + a2, etas[0] - etas[1]), (j1 + j2, etas[2] - etas[3])):
        mass = (p[0].square() - p[1:].square().sum(0)).sqrt()
        rows += [p[0], p[1], p[2], p[3], torch.hypot(p[1], p[2]), mass, pseudorapidity(p), gap]
    return torch.stack(rows, -1)


def standardise(raw: Tensor) -> Tensor:
    """(raw - mean) / std, by the fixed constants of this simulator."""
    return (raw - raw.new_tensor(_MEAN)) / raw.new_tensor(_STD)


def unstandardise(x: Tensor) -> Tensor:
    """Back to GeV: inverse of :func:`standardise`."""
    return x * x.new_tensor(_STD) + x.new_tensor(_MEAN)


def observables(y: Tensor) -> Tensor:
    """Standardised observables: (..., 14) to (..., 40).

    :raises ValueError: for another last axis.
    """
    if y.shape[-1:] != (14,):
        raise ValueError(
            f"y: got shape {tuple(y.shape)}; expected a last axis of 14 momenta: a1, a2 (3 each), j1, j2 (4 "
            f"each)."
        )
    return standardise(raw_observables(y))


def inverse(x: Tensor) -> Tensor:
    """The y whose momenta x states: (..., 40) to (..., 14); a left inverse of :func:`observables` on all of
    R^40.

    :raises ValueError: for another last axis.
    """
    if x.shape[-1:] != (40,):
        raise ValueError(f"x: got shape {tuple(x.shape)}; expected a last axis of 40 observables.")
    return unstandardise(x)[..., _Y_IN_X]


def jacobian(y: Tensor) -> Tensor:
    """dx/dy, (..., 40, 14), of the standardised observables; forward mode, all events at once."""
    basis = torch.eye(14, dtype=y.dtype, device=y.device)

    def push(direction: Tensor) -> Tensor:
        return torch.func.jvp(observables, (y,), (direction.expand_as(y),))[1]

    return torch.func.vmap(push, out_dims=-1)(basis)


def log_volume(y: Tensor) -> Tensor:
    """Half the log determinant of (dx/dy)^T (dx/dy), by QR: the squared condition number never arises."""
    return torch.linalg.qr(jacobian(y), mode="r").R.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)


def closure(x: Tensor, *, standardised: bool = True) -> Tensor:
    r"""Weighted violations of the 26 = 40 - 14 constraints that every event satisfies.

    .. math:: c_i(x) = \min(10,\, w_i\,|\mathrm{violation}_i|)

    6 of pT(px, py), 6 of eta(p), 4 on-shell (photons and the two pairs), 8 four-momentum sums and 2 of
    \|delta eta\|. The weights are the reference's own, and so is the cap; its "sample closure" is the mean
    over constraints and events.

    :param x: (..., 40), standardised as by :func:`observables`, or in GeV with ``standardised=False``.
    :return: (..., 26).
    """
    raw = unstandardise(x) if standardised else x
    f = dict(zip(NAMES, raw.unbind(-1), strict=True))
    pairs = {"aa": ("a1", "a2"), "jj": ("j1", "j2")}
    particles = ("a1", "a2", "j1", "j2", "aa", "jj")

    def momentum(p: str) -> tuple[Tensor, Tensor, Tensor]:
        return f[f"px_{p}"], f[f"py_{p}"], f[f"pz_{p}"]

    out = []
    for p in particles:
        px, py, _ = momentum(p)
        out.append(f[f"pt_{p}"] - torch.hypot(px, py))
    for p in particles:
        px, py, pz = momentum(p)
        out.append(f[f"eta_{p}"] - torch.asinh(pz / torch.hypot(px, py)))
    for p in ("a1", "a2", "aa", "jj"):
        mass = f.get(f"m_{p}", torch.zeros(()))
        out.append(f[f"e_{p}"] - sum((c.square() for c in momentum(p)), start=mass**2).sqrt())
    for o in ("e", "px", "py", "pz"):
        out += [f[f"{o}_{p}"] - f[f"{o}_{a}"] - f[f"{o}_{b}"] for p, (a, b) in pairs.items()]
    out += [f[f"deltaeta_{p}"].abs() - (f[f"eta_{a}"] - f[f"eta_{b}"]).abs() for p, (a, b) in pairs.items()]
    return (torch.stack(out, -1).abs() * raw.new_tensor(_WEIGHTS)).clamp_max(10.0)
