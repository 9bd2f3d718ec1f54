"""Seeded data sets: each function says where its numbers come from; only :func:`earth` downloads."""

from .branching import branching_diffusion
from .digits import digits
from .earth import earth, earth_split
from .split import train_test_split

__all__ = ["branching_diffusion", "digits", "earth", "earth_split", "train_test_split"]
