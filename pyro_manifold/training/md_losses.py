r"""What the two phases of M/D training minimise, over the rows of a batch.

.. math::
    \text{M:}\quad & \tfrac{2\delta^2}{d}\big(\sqrt{1 + r^2/\delta^2} - 1\big), \quad r = |x - g(g^{-1}(x))|
        \text{ in units of the rows' spread} \qquad (r^2/d \text{ for } \delta = \infty), \\
    & r = |W^{-p}(x - g(g^{-1}(x)))| \text{ while whitening}, \quad
        W^2 = \text{covariance of } x \text{ over its largest eigenvalue}, \\
    \text{D:}\quad & -\log p_h(u \mid \theta_0) + \alpha\,q - \beta \sum_j s_j \log \hat s_j, \quad
        q = |\nabla_\theta \log p_h(u \mid \theta_0) - t|^2 \qquad (\text{with } \delta_t:\;
        2\delta_t^2(\sqrt{1 + q/\delta_t^2} - 1)), \\
    & s_j = \frac{p(x, z \mid \theta_j)}{\sum_i p(x, z \mid \theta_i)}, \qquad
    \hat s_j = \frac{p_h(u \mid \theta_j)}{\sum_i p_h(u \mid \theta_i)}, \qquad i, j = 0, \dots, m

t is the joint score; :math:`s_j` come of joint ratios to m further theta, drawn independently from the
distribution of :math:`\theta_0`: x is a draw of any of them with equal probability: then the expectation of
:math:`s_j` given x is the true share, and the cross-entropy (for m = 1 that of ALICE) is least there.
References: [1] Brehmer et al., *Mining gold from implicit models*, PNAS 2020, eq. 12 (SCANDAL). [2] Stoye et
al., *Likelihood-free inference with an improved cross-entropy estimator*, arXiv 1808.00973.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..models.manifold_flow import ManifoldFlow
from ..transforms.injective import principal_axes

__all__ = ["density_loss", "reconstruction_loss", "spread", "whitener"]


def reconstruction_loss(
    flow: ManifoldFlow,
    weight: float,
    huber_delta: float = math.inf,
    whiten: Callable[[Tensor, float], Tensor] | None = None,
    unit: float = 1.0,
) -> Callable[..., Tensor]:
    """Squared error of coordinates over ``unit`` squared, from distances of about ``huber_delta`` on growing as the
    distance does, not its square; times ``weight``. What comes after x is not looked at, but the ``power`` p
    of ``whiten``."""

    def loss(x: Tensor, *_: Any, power: float = 0.0) -> Tensor:
        error = (flow.transform.project(x) - x) / unit
        square = (whiten(error, power) if whiten is not None and power > 0 else error).square().mean(-1)
        return weight * pseudo_huber(square, (huber_delta / unit) ** 2 / x.shape[-1]).mean()

    return loss


def pseudo_huber(square: Tensor, scale: float) -> Tensor:
    """``square`` where it is far below ``scale``, growing as its root far above."""
    return square if scale == math.inf else 2 * scale * ((1 + square / scale).sqrt() - 1)


def whitener(x: Tensor, floor: float = 0.01) -> Callable[[Tensor, float], Tensor]:
    """Errors along the principal axes of the rows ``x``, those of little variance enlarged: divided by the
    power p of the standard deviation, as a share of the largest and at least ``floor``."""
    _, axes, scale = principal_axes(x)
    share = (scale / scale[0]).clamp_min(floor)
    return lambda error, power: error @ (axes * share**-power)


def density_loss(
    log_prob: Callable[..., Tensor], score_weight: float, ratio_weight: float, score_delta: float = math.inf
) -> Callable[..., Tensor]:
    """Loss of rows x, context and, where given, joint scores, further contexts (rows, m, k) and log ratios to
    them (rows, m)."""

    def loss(
        x: Tensor,
        context: Tensor | None,
        score: Tensor | None = None,
        other: Tensor | None = None,
        log_ratio: Tensor | None = None,
    ) -> Tensor:
        if context is None or (score is None and other is None):
            return -log_prob(x, context).mean()
        out: Any = 0.0
        with torch.enable_grad():
            theta = context.detach().requires_grad_(score is not None)
            lp = log_prob(x, theta if other is None else torch.cat([theta.unsqueeze(0), other.movedim(1, 0)]))
            first = lp if other is None else lp[0]
            if score is not None:
                (own,) = torch.autograd.grad(first.sum(), theta, create_graph=True)
                out = score_weight * pseudo_huber((own - score).square().sum(-1), score_delta**2).mean()
        if log_ratio is not None:
            share = torch.cat([log_ratio.new_zeros(len(x), 1), -log_ratio], 1).softmax(1)
            out = out - ratio_weight * (share * lp.log_softmax(0).mT).sum(1).mean()
        return out - first.mean()

    return loss


def spread(x: Tensor) -> float:
    """Root mean variance of the coordinates of the rows ``x``."""
    centred = (x - x.mean(0)).double()
    widest = centred.abs().amax()
    return float(widest * (centred / widest).square().mean().sqrt())  # nothing is squared before it is scaled
