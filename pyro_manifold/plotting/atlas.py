"""Pictures of atlases: draws in the plane or in space, coloured by chart."""

from typing import Any

import torch

from ._axes import axes_or_new, styled

__all__ = ["atlas_draws"]


def atlas_draws(atlas: Any, ax: Any = None, *, draws: int = 3000, **style: Any) -> Any:
    """Scatter draws of an :class:`~pyro_manifold.distributions.Atlas` in two or three dimensions; each chart has a
    colour.

    :param atlas: the distribution, or anything with ``sample_with_chart``; ``flow.condition()`` of a
        :class:`~pyro_manifold.models.VQFlow`.
    :param ax: in three dimensions, axes with ``projection="3d"``.
    :param int draws: their number.
    :param style: keyword arguments for matplotlib's ``scatter``.
    :raises ValueError: for points in more dimensions.

    >>> from pyro_manifold.distributions import Atlas, Pushforward
    >>> from pyro_manifold.transforms import Pad
    >>> normal = torch.distributions.Normal(torch.zeros(1), 1.0)
    >>> line = Pushforward(torch.distributions.Independent(normal, 1), Pad(1, 2))
    >>> ax = atlas_draws(Atlas(torch.ones(1), [line]), draws=10)
    """
    (d,) = atlas.event_shape
    if d not in (2, 3):
        raise ValueError(
            f"atlas: got points in {d} dimensions; expected 2 or 3. Project draws yourself: atlas.sample((n,))."
        )
    if ax is None:
        ax = axes_or_new(None, layout="constrained", subplot_kw={"projection": "3d"} if d == 3 else {})
    with torch.no_grad():
        x, chart = atlas.sample_with_chart((draws,))
    options = styled("points", style, s=3, linewidths=0, cmap="tab20")
    if not {"c", "color", "facecolor"} & set(options):
        options["c"] = (chart % 20).cpu().numpy()
        options.setdefault("vmin", 0)
        options.setdefault("vmax", 19)
    ax.scatter(*x.mT.cpu().numpy(), **options)
    ax.set_aspect("equal")
    return ax
