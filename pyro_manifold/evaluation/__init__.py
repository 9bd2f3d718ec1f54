"""Figures of merit: how far two sets of draws are apart, how well a score tells one from another, how far an
embedding is from preserving volume."""

from .embedding import EmbeddingReport, embedding_report
from .metrics import grid_mmd2, mmd2, ood_auc, roc_auc
from .samples import connected_components, energy_distance

__all__ = [
    "EmbeddingReport",
    "connected_components",
    "embedding_report",
    "energy_distance",
    "grid_mmd2",
    "mmd2",
    "ood_auc",
    "roc_auc",
]
