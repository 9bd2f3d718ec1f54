"""Seeded data sets: each function says where its numbers come from; nothing is downloaded."""

from .branching import branching_diffusion
from .digits import digits
from .split import train_test_split

__all__ = ["branching_diffusion", "digits", "train_test_split"]
