"""Glyphs of tensors and of orientation distribution functions: where they are, how large, and what is refused."""

import numpy as np
import pytest
import torch

from pyro_manifold.datasets import half_icosphere, tensor_odf
from pyro_manifold.plotting import odf_glyphs, tensor_glyphs

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")


def extent(ax: object) -> np.ndarray:
    """Width and height of everything drawn."""
    corners = np.concatenate([p.vertices for p in ax.collections[0].get_paths()])  # type: ignore[attr-defined]
    return corners.max(0) - corners.min(0)


def test_tensor_glyphs() -> None:
    """An ellipsoid whose axes are 4 : 2 seen from above; voxels outside of the mask are empty."""
    d = torch.diag(torch.tensor([2.0, 1.0, 4.0])).expand(1, 2, 3, 3)
    ax = tensor_glyphs(d, mask=torch.tensor([[True, False]]), size=1.0, title="tensors")
    assert extent(ax) == pytest.approx([0.5, 0.25], abs=0.02)
    assert ax.get_title(loc="left") == "tensors" and ax.get_xlim()[1] == pytest.approx(1.6)
    assert tensor_glyphs(d, ax) is ax and len(ax.collections) == 2
    assert extent(tensor_glyphs(d, size=1.0))[0] == pytest.approx(1.5, abs=0.02)
    matplotlib.pyplot.close("all")


def test_odf_glyphs() -> None:
    """One fibre along the first axis: a lobe each way, longer than wide."""
    axes = half_icosphere(4)
    odf = tensor_odf(torch.diag(torch.tensor([1.7, 0.3, 0.3])), axes).expand(2, 1, -1)
    ax = odf_glyphs(odf, axes, size=1.0)
    width, height = extent(ax)
    assert width == pytest.approx(1.0, abs=0.05) and 1.1 < height < 1.6  # two voxels
    matplotlib.pyplot.close("all")


def test_errors() -> None:
    with pytest.raises(ValueError, match="tensors: got shape"):
        tensor_glyphs(torch.eye(3))
    with pytest.raises(ValueError, match="odf: got shape .*expected \\(height, width, 21\\)"):
        odf_glyphs(torch.ones(2, 2, 5), half_icosphere(2))
