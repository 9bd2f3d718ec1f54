"""The demo of the README: two auto-encoders for handwritten digits, compared. Run it with
``python -m pyro_manifold.demo``."""
