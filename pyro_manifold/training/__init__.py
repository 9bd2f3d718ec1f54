"""Training: what fits models to data, and what any training needs (checkpoints, verdicts on losses)."""

from ..ops.checkpoint import CheckpointError, digest, load_checkpoint, save_checkpoint, structure
from .charts import fit_charts
from .dimension import DimensionScan, scan_dimension
from .embedding import fit_embedding
from .flow_matching import fit_flow_matching
from .likelihood import fit_likelihood
from .loop import fit
from .manifold_density import fit_md
from .phase import Phase
from .reverse_kl import fit_reverse_kl
from .run import History
from .verdict import TrainingWarning, verdict
from .vq_flow import fit_vq

__all__ = [
    "CheckpointError",
    "DimensionScan",
    "History",
    "Phase",
    "TrainingWarning",
    "digest",
    "fit",
    "fit_charts",
    "fit_embedding",
    "fit_flow_matching",
    "fit_likelihood",
    "fit_md",
    "fit_reverse_kl",
    "fit_vq",
    "load_checkpoint",
    "save_checkpoint",
    "scan_dimension",
    "structure",
    "verdict",
]
