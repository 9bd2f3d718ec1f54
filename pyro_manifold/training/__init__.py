"""What training needs, whatever is trained: checkpoints, and verdicts on its losses."""

from .checkpoint import CheckpointError, digest, load_checkpoint, save_checkpoint, structure
from .verdict import TrainingWarning, verdict

__all__ = ["CheckpointError", "TrainingWarning", "digest", "load_checkpoint", "save_checkpoint", "structure", "verdict"]
