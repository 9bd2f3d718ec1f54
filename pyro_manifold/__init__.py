"""A Pyro plugin for probabilistic models on manifolds."""
