"""A Pyro plugin for probabilistic models on manifolds: one base distribution, one map that knows its volume
change."""

__version__ = "0.1.0"
