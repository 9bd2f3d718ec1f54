"""The pictures of :mod:`pyro_manifold.demo`."""

from pathlib import Path

import pyro
import torch
from torch import Tensor

from ..geometry import geometry
from ..models import PoincareVAE
from ..plotting import geodesic, image_grid, latent_axes, latent_scatter, to_plane

try:
    from matplotlib.figure import Figure  # drawn without pyplot: no window, no global state
except ImportError as error:
    raise ImportError("the demo's pictures need matplotlib: pip install matplotlib") from error

__all__ = ["draw"]


@torch.no_grad()
def draw(
    models: dict[str, PoincareVAE], x: Tensor, label: Tensor, out: Path, curvature: float, seed: int
) -> list[Path]:
    """Latent spaces of the test digits ``x``, samples from the prior, and a walk along a geodesic; returns
    the files."""
    pyro.set_rng_seed(seed)
    ends = torch.stack([(label == digit).nonzero()[0, 0] for digit in (0, 7)])
    titles = {"N-VAE": "N-VAE: the plane", "P-VAE": f"P-VAE: the Poincaré disk, curvature $-{curvature:g}$"}

    latent = Figure(figsize=(12.5, 5.6), layout="constrained")
    samples = Figure(figsize=(12, 4.4), layout="constrained")
    walks = Figure(figsize=(10, 2.6), layout="constrained")
    panels = samples.subplots(1, 3)
    side = x.shape[1]
    image_grid(
        _images(x[:64]), panels[0], title=f"test digits ({round(side**0.5)} x {round(side**0.5)}, binary)"
    )
    for i, (name, vae) in enumerate(models.items()):
        geo, z = geometry(vae.manifold), vae.encode(x).loc
        ax = latent.add_subplot(1, 2, i + 1)
        latent_axes(vae.manifold, ax, spacing=0.5 if name == "P-VAE" else 1.0)
        latent_scatter(vae.manifold, z, label, ax, title="digit")
        p, q = z[ends]
        geodesic(vae.manifold, p, q, ax, linewidth=2, zorder=4, marker="o", markevery=[0, 100], markersize=6)
        ax.set_title(f"{titles[name]}\n(black: the geodesic of interpolation.png)", fontsize=11)
        if name == "N-VAE":
            ax.get_legend().remove()  # type: ignore[union-attr]
            reach = 1.05 * to_plane(vae.manifold, z).abs().max().item()
            ax.set(xlim=(-reach, reach), ylim=(-reach, reach))
        image_grid(
            _images(vae.decode(vae.prior.sample((64,))).mean),
            panels[i + 1],
            title=f"{name}: means at prior draws",
        )
        _, means = vae.interpolate(x[ends[0]], x[ends[1]], steps=13)
        length = float(geo.dist(p, q))
        image_grid(
            _images(means), walks.add_subplot(2, 1, i + 1), columns=13,
            title=f"{name}: along a geodesic of length {length:.1f}",
        )  # fmt: skip
    files = {"latent.png": latent, "samples.png": samples, "interpolation.png": walks}
    for file, figure in files.items():
        figure.savefig(out / file, dpi=120)
    return [out / file for file in files]


def _images(x: Tensor) -> Tensor:
    return x.reshape(-1, 8, 8)
