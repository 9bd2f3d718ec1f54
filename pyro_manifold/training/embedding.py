r"""Training of an embedding of the cube: a Wasserstein auto-encoder with a maximum mean discrepancy.

.. math::
    \min_{\phi, \psi}\; \mathbb E_{x}\,|\phi(\psi(x)) - x|^2 +
    \lambda\,\mathrm{MMD}^2\big(\psi_\#\,p_x,\ \mathrm{Uniform}[0, 1]^d\big)

The kernel is the mean of Gaussian ones of lengths 1/20 to 1/2.
"""

import math
from typing import Any

import torch
from torch import Tensor

from ..flows.learned_embedding import LearnedEmbedding
from ..geometry import geometry
from ..ops.arguments import checked
from ..ops.mmd import gaussian_mmd2
from .loop import Loop
from .phase import Phase
from .run import History
from .verdict import warned

__all__ = ["fit_embedding"]

_SCALES = (0.05, 0.1, 0.2, 0.5)


@checked(points=2, weight=0, epochs=0, seconds=0, lr=0)
def fit_embedding(
    embedding: LearnedEmbedding,
    data: Tensor | None = None,
    *,
    points: int = 5000,
    weight: float = 10.0,
    epochs: int | None = None,
    seconds: float = math.inf,
    lr: float = 5e-3,
    seed: int = 0,
    **loop: Any,
) -> History:
    r"""Train ``embedding`` in place and freeze it, so that models that use it leave it as it is.

    :param LearnedEmbedding embedding: :math:`\phi` with its encoder :math:`\psi`.
    :param Tensor data: points of the manifold, shape ``(rows,) + event``; uniform ones if omitted.
    :param int points: the number of uniform points.
    :param float weight: :math:`\lambda`.
    :param int epochs: passes over the points; None for as many as make 2000 batches, at least 10.
    :param float seconds: budget of time; what ends first ends the training.
    :param float lr: learning rate of AdamW, falling to zero along a cosine.
    :param int seed: of the uniform points and of the batches.
    :param loop: what else :func:`~pyro_manifold.training.fit` takes: ``batch_size`` (200 if omitted: the
        discrepancy is that of a batch), ``validation``, ``clock``, ``checkpoint``, ``fabric``, ``disable_progbar``.
    :return: losses of the phase ``"embedding"``.
    :raises ValueError: for points of another shape or off the manifold, for a manifold of infinite volume without
        data, for an embedding that is frozen already; and as :func:`~pyro_manifold.training.fit`.
    :warns TrainingWarning: as :func:`~pyro_manifold.training.fit`.

    References: Tolstikhin, Bousquet, Gelly and Schölkopf, *Wasserstein auto-encoders*, ICLR 2018, algorithm 2; Golikov
    and Kretov 2018, sec. 3.

    >>> import geoopt
    >>> phi = LearnedEmbedding(geoopt.Sphere(), 1, (16,))
    >>> history = fit_embedding(phi, points=500, epochs=10, disable_progbar=True)
    >>> history.losses["embedding"][-1] < history.start["embedding"], any(p.requires_grad for p in phi.parameters())
    (True, False)
    """
    parameters = [p for p in embedding.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError(
            "embedding: none of its parameters is to be trained; expected one that is not frozen. Call "
            "embedding.requires_grad_(True) to train it further."
        )
    geo, like = geometry(embedding.manifold), parameters[0]
    if data is None:
        if not geo.has_finite_volume:
            raise ValueError(f"data: {geo.unknown('uniform distribution')} Give points of it.")
        with torch.random.fork_rng([like.device] if like.device.type == "cuda" else []):
            torch.manual_seed(seed)
            data = geo.uniform_sample((points,), embedding.point_shape, dtype=like.dtype, device=like.device)
    elif data.shape[1:] != embedding.point_shape or not bool(geo.contains(data).all()):
        raise ValueError(
            f"data: got shape {tuple(data.shape)}; expected points of {embedding.manifold.name}, shape (rows, "
            f"{', '.join(map(str, embedding.point_shape))}), all of them on it. Project them: geometry(...).project."
        )

    def loss(x: Tensor) -> Tensor:
        code = embedding._inverse(x)
        error = (embedding._call(code) - x).flatten(1).square().sum(-1).mean()
        if len(x) < 2:  # the last row of a pass; a discrepancy takes two
            return error
        return error + weight * gaussian_mmd2(code, _even_points(code), _SCALES)

    phase = Phase("embedding", loss, parameters, lr=lr, epochs=epochs, seconds=seconds)
    whole = Loop(
        [phase],
        data,
        model=embedding,
        settings=dict(lr=lr, weight=weight),
        description="fit_embedding",
        seed=seed,
        **{"batch_size": 200, **loop},
    )
    history = warned(whole.run(), stacklevel=3)
    embedding.freeze()
    return history


def _even_points(code: Tensor) -> Tensor:
    """As many uniform points, spread more evenly than independent ones, so that the discrepancy is less noisy."""
    seed = int(torch.randint(1 << 31, ()))
    points = torch.quasirandom.SobolEngine(code.shape[-1], scramble=True, seed=seed).draw(len(code))
    return points.to(code)
