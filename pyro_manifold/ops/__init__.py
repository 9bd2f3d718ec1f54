"""Pure tensor functions: no manifolds, no Pyro."""
