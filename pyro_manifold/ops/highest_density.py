r"""The smallest regions that hold given shares of a probability.

.. math:: R_p = \{x : \log p(x) \ge t_p\}, \qquad \int_{R_p} p\,dA = p \int p\,dA
"""

from collections.abc import Sequence

from torch import Tensor

__all__ = ["highest_density_levels"]


def highest_density_levels(log_prob: Tensor, area: Tensor, probs: Sequence[float]) -> list[float]:
    """For each share in ``probs``, the log density that bounds the smallest region that holds it, from values in
    cells of given areas.

    :raises ValueError: for shares outside (0, 1).

    >>> log = torch.tensor([0.5, 0.3, 0.2]).log()
    >>> round(highest_density_levels(log, torch.ones(3), [0.7])[0], 3)  # log 0.3
    -1.204
    """
    if not probs or not all(0 < p < 1 for p in probs):
        raise ValueError(f"probs: got {tuple(probs)}, expected shares between 0 and 1, e.g. (0.5, 0.9).")
    log, order = log_prob.double().flatten().sort(descending=True)
    held = ((log - log[0]).exp() * area.double().flatten()[order]).cumsum(0)
    at = [int((held < p * held[-1]).sum()) for p in probs]
    return [float(log[k]) for k in at]
