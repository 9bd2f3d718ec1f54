"""Figures of merit: how far two sets of draws are apart, how well a score tells one from another, how far an
embedding is from preserving volume, how well points stand for the nodes of a graph."""

from .classifier import TwoSampleAccuracy, classifier_two_sample
from .embedding import EmbeddingReport, embedding_report
from .frechet import frechet_distance
from .graphs import distortion, graph_map
from .metrics import grid_mmd2, mmd2, ood_auc, roc_auc
from .samples import connected_components, energy_distance

__all__ = [
    "EmbeddingReport",
    "TwoSampleAccuracy",
    "classifier_two_sample",
    "connected_components",
    "distortion",
    "embedding_report",
    "energy_distance",
    "frechet_distance",
    "graph_map",
    "grid_mmd2",
    "mmd2",
    "ood_auc",
    "roc_auc",
]
