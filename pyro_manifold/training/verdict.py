"""What is wrong with the validation losses of a finished phase of training."""

import math
import warnings
from collections.abc import Sequence

from .run import History

__all__ = ["TrainingWarning", "verdict", "warned"]

PATIENCE = 5  # passes without a lower loss that say nothing yet


class TrainingWarning(UserWarning):
    """Training that did not improve, or ended worse than it had been; the message says what to change.

    >>> import warnings
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore", TrainingWarning)  # where few passes are meant
    """


def warned(history: History, stacklevel: int) -> History:
    """``history``, after its warnings were given: ``stacklevel=2`` names the caller of the function that calls this
    one, as in ``warnings.warn``."""
    for message in history.warnings:
        warnings.warn(message, TrainingWarning, stacklevel=stacklevel + 1)
    return history


def verdict(phase: str, start: float, losses: Sequence[float], margin: float = 0.0) -> list[str]:
    """Sentences about the validation losses of a phase: ``start`` before its first pass, ``losses`` after
    each.

    :param float margin: a rise above the start that does not matter, such as that of a density which was
        right from the start.

    >>> verdict("D", 1.0, [0.8, 0.5])
    []
    >>> print(verdict("D", 1.0, [1.2, 3.0])[0][:72])
    phase D: no pass improved on the start (loss 1 before, 1.2 at best): the
    >>> print(verdict("D", 1.0, [0.2, 0.3, 0.4, 0.5, 0.6, 0.7])[0][:63])
    phase D: the validation loss has not fallen for 5 of 6 passes (
    """
    if not losses:
        return []
    best = min((v for v in losses if math.isfinite(v)), default=math.inf)
    seen = f"{start:.4g} before, {best:.4g} at best, {losses[-1]:.4g} after"
    since = 0 if best == math.inf else len(losses) - 1 - list(losses).index(best)
    if not losses[-1] <= start + margin:
        if not best < start:
            return [
                f"phase {phase}: no pass improved on the start (loss {start:.4g} before, {best:.4g} at best): "
                "the weights it began with are kept. Lower lr."
            ]
        text = f"diverging: the validation loss ends above its start ({seen})"
    elif since >= PATIENCE and losses[-1] - best > max(margin, 0.1 * (start - best)):
        text = f"the validation loss has not fallen for {since} of {len(losses)} passes ({seen})"
    else:
        return []
    return [f"phase {phase}: {text}. The best weights are kept. Lower lr, or give more rows."]
