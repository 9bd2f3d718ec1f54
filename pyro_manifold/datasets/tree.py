r"""A real tree that every Python has, distances in trees, and where to put the nodes of a tree before fitting them.

.. math:: D_{ij} = \text{number of edges on the path from } i \text{ to } j
"""

import builtins
import math
from collections.abc import Sequence

import geoopt
import torch
from torch import Tensor

from ..geometry import geometry
from ..ops.arguments import checked

__all__ = ["exception_tree", "sarkar_embedding", "tree_distances", "tree_layout"]


def exception_tree() -> tuple[list[str], list[int]]:
    """The built-in exceptions of the running Python: names, and for each the number of the class that it derives from.

    The root is ``BaseException``, number 0, its own parent; parents come before children. Python 3.11 has 67 of them,
    other versions a few more or less. Classes that derive from several built-in exceptions count for the first.

    >>> names, parents = exception_tree()
    >>> names[0], names[parents[names.index("KeyError")]]
    ('BaseException', 'LookupError')
    """
    classes = [c for c in vars(builtins).values() if isinstance(c, type) and issubclass(c, BaseException)]
    known = sorted(set(classes), key=lambda c: (len(c.__mro__), c.__name__))
    number = {c: i for i, c in enumerate(known)}
    parents = [next((number[b] for b in c.__mro__[1:] if b in number), 0) for c in known]
    return [c.__name__ for c in known], parents


def _check(parents: Sequence[int]) -> None:
    bad = [i for i, p in enumerate(parents) if not (0 <= p < i or i == p == 0)]
    if not len(parents) or bad:
        raise ValueError(
            f"parents: got {list(parents)[:8]}{'...' if len(parents) > 8 else ''}; expected for each node the number "
            "of an earlier one, its parent, and 0 for the root, number 0. Sort the nodes by depth."
        )


@checked
def tree_distances(parents: Sequence[int]) -> Tensor:
    """The number of edges between any two nodes, shape ``(n, n)``.

    :param parents: for each node the number of its parent, an earlier one; the root is number 0, with parent 0.
    :raises ValueError: for anything else.

    >>> tree_distances([0, 0, 0, 1])
    tensor([[0., 1., 1., 2.],
            [1., 0., 2., 1.],
            [1., 2., 0., 3.],
            [2., 1., 3., 0.]])
    """
    _check(parents)
    n = len(parents)
    distance = torch.zeros(n, n)
    for i in range(1, n):  # by way of the parent
        distance[i, :i] = distance[:i, i] = distance[parents[i], :i] + 1
    return distance


@checked
def tree_layout(parents: Sequence[int], edge: float = 1.0) -> Tensor:
    r"""The nodes of a tree in the flat plane, in sectors: a start for fitting them there, shape ``(n, 2)``.

    .. math:: x_i = \ell\,\mathrm{depth}_i\,(\cos a_i, \sin a_i), \qquad a_i \text{ the middle of the node's sector}

    The circle is divided among the branches in proportion to their numbers of leaves, recursively.

    :param parents: as for :func:`tree_distances`.
    :param float edge: :math:`\ell`, the length of an edge.

    >>> tree_layout([0, 0, 0, 0, 0])[1:].norm(dim=-1).round()
    tensor([1., 1., 1., 1.])
    """
    _check(parents)
    n = len(parents)
    leaves = [0] * n
    for i in reversed(range(n)):
        leaves[i] = max(leaves[i], 1)
        if i:
            leaves[parents[i]] += leaves[i]
    begin, depth, used = [0.0] * n, [0] * n, [0.0] * n
    for i in range(1, n):
        p = parents[i]
        depth[i], begin[i] = depth[p] + 1, begin[p] + used[p]
        used[p] += leaves[i]
    share = 2 * math.pi / leaves[0]
    angle = torch.tensor([share * (b + 0.5 * k) for b, k in zip(begin, leaves, strict=True)])
    radius = edge * torch.tensor(depth, dtype=angle.dtype)
    return radius.unsqueeze(-1) * torch.stack([angle.cos(), angle.sin()], -1)


@checked
def sarkar_embedding(
    manifold: geoopt.Manifold,
    parents: Sequence[int],
    edge: float = 1.0,
    *,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    r"""The nodes of a tree in the hyperbolic plane, each at distance :math:`\ell` from its parent and its children in
    directions at equal angles: a start for fitting them, and nearly a solution where edges are long.

    .. math:: z_c = \exp_{z_p}\!\big(\ell\,(\cos a_k, \sin a_k)\big), \qquad
        a_k = \arg\log_{z_p}(\text{parent of } p) + \frac{2\pi k}{\deg p}

    The distance of two nodes falls short of :math:`\ell D` by at most a constant that grows with the logarithm of the
    degrees, so the relative error falls like :math:`1/\ell`. But the farthest node is :math:`\ell\,\mathrm{depth}` from
    the origin, and coordinates hold only so much, those in float64 far more than those in float32.

    :param geoopt.Manifold manifold: of dimension 2, such as ``geoopt.Lorentz()`` or ``geoopt.PoincareBall()``.
    :param parents: as for :func:`tree_distances`.
    :param float edge: :math:`\ell`.
    :param dtype: of the points.
    :return: shape ``(n,) + event``.
    :raises ValueError: where the points are so far out that an edge is wrong by more than 1 %.

    Reference: Sarkar, *Low distortion Delaunay embedding of trees in hyperbolic plane*, Graph Drawing 2011.

    >>> z = sarkar_embedding(geoopt.PoincareBall(), [0, 0, 0, 1], edge=1.0)
    >>> geometry(geoopt.PoincareBall()).dist(z[1], z[3])
    tensor(1.0000, dtype=torch.float64)
    """
    _check(parents)
    geo = geometry(manifold)
    z = geo.origin(2, dtype=dtype).repeat(len(parents), *[1] * geo.event_dim)
    children: list[list[int]] = [[] for _ in parents]
    for c, p in enumerate(parents[1:], start=1):
        children[p].append(c)
    for p, below in enumerate(children):
        back, first = 0.0, 0
        if p:
            u = geo.log_frame(z[p], z[parents[p]])
            back, first = float(torch.atan2(u[1], u[0])), 1
        for k, c in enumerate(below, start=first):
            angle = torch.tensor(back + 2 * math.pi * k / (len(below) + first), dtype=dtype)
            z[c] = geo.exp_frame(z[p], edge * torch.stack([angle.cos(), angle.sin()]))
    error = (geo.dist(z[1:], z[list(parents[1:])]) / edge - 1).abs()
    if not bool((error < 0.01).all()):  # a NaN too
        raise ValueError(
            f"edge: got {edge}, with which some points are so far from the origin that {dtype} does not hold them on "
            f"{manifold.name}; expected edges of correct length. Give shorter edges, float64, or geoopt.Lorentz()."
        )
    return z
