"""The one registry that every generic test walks. To test a new class on everything, add one line to a file here.

``geometries``, ``transforms``, ``distributions`` and ``modules`` are checked by ``tests/test_cases.py``; samplers and guides
(``inference``) and reparametrisers (``reparametrisers``) by the tests of that name in ``tests/infer``; ``arguments`` lists a good
call of everything exported. A case that a check cannot hold for names the check in ``skip`` with the reason.
"""

from .base import DistributionCase, GeometryCase, ModuleCase, TransformCase, tensors
from .distributions import DISTRIBUTIONS
from .geometries import GEOMETRIES, INFERENCE_GEOMETRIES, log_euclidean
from .modules import MODULES, conditional_pushforward
from .transforms import TRANSFORMS, circle, injective_flow, learned, two_circles

__all__ = [
    "DISTRIBUTIONS",
    "GEOMETRIES",
    "INFERENCE_GEOMETRIES",
    "MODULES",
    "TRANSFORMS",
    "DistributionCase",
    "GeometryCase",
    "ModuleCase",
    "TransformCase",
    "circle",
    "conditional_pushforward",
    "injective_flow",
    "learned",
    "log_euclidean",
    "tensors",
    "two_circles",
]
