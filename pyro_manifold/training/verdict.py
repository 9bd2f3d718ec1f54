"""What a finished phase of training has to say for itself."""

import math
from collections.abc import Sequence

__all__ = ["TrainingWarning", "verdict"]


class TrainingWarning(UserWarning):
    """Training that did not get anywhere, or ended worse than it had been; what to change is in the message.

    >>> import warnings
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore", TrainingWarning)  # where few passes are meant
    """


def verdict(phase: str, start: float, losses: Sequence[float], margin: float = 0.0) -> list[str]:
    """Sentences about the validation losses of a phase: ``start`` before its first pass, ``losses`` after
    each.

    :param float margin: a rise above the start that is no matter, such as that of a density which was right
        from the start.

    >>> verdict("D", 1.0, [0.8, 0.5])
    []
    >>> print(verdict("D", 1.0, [1.2, 3.0])[0][:72])
    phase D: no pass improved on the start (loss 1 before, 1.2 at best): the
    """
    if not losses or losses[-1] <= start + margin:
        return []
    best = min((v for v in losses if math.isfinite(v)), default=math.inf)
    if not best < start:
        text = f"no pass improved on the start (loss {start:.4g} before, {best:.4g} at best): "
        text += "the weights it began with are kept."
        return [f"phase {phase}: {text} Lower lr."]
    text = f"the validation loss ends above its start ({start:.4g} before, {losses[-1]:.4g} after, {best:.4g} at best):"
    return [
        f"phase {phase}: {text} it diverges, or overfits; the best weights are kept. Lower lr, or give more "
        f"rows."
    ]
