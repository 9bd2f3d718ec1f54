"""A Pyro plugin for probabilistic models on manifolds: one base law, one map that knows its volume change."""

__version__ = "0.1.0"
