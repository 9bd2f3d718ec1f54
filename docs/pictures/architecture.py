"""The picture of docs/explanation/architecture.md: ``python docs/pictures/architecture.py`` draws it anew."""

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

OUT = Path(__file__).parents[1] / "explanation" / "architecture.png"

LAYERS = [  # from the bottom up: name, what it holds
    ("ops", "tensor functions: Bessel, windings, autograd operators"),
    ("geometry", "one file per manifold: exp, log, frames, volumes"),
    ("constraints", "on(manifold), image(map)"),
    ("transforms", "ExpMap, charts, isometries, injective maps; the one cache"),
    ("distributions", "one file per family: base, pushed through a map"),
    ("nn", "layers of vectors and points, tangent fields"),
    ("flows", "learned maps of vectors and of given manifolds, ODEs"),
    ("infer", "guides, geodesic HMC and NUTS, reparametrisers, SBC"),
    ("models", "PoincareVAE, ManifoldFlow, ManifoldMixture"),
    ("training", "one loop; likelihood, flow matching, M/D, charts"),
]
LEAVES = [
    ("demo", 9),
    ("plotting", 8),
    ("contrib.lhc", 7),
    ("testing", 6),
    ("datasets", 5),
    ("evaluation", 4),
]
STEPS = [  # where the path of a log_prob goes: layer, what happens there
    (4, "1  WrappedNormal(ball, loc, scale).log_prob(x)"),
    (3, "2  v = ExpMap(ball, loc).inv(x)      remembered if x is its own draw"),
    (1, "3  log_frame(loc, x), log_det_exp(loc, v)"),
    (0, "4  formulas in closed form, gradients too"),
    (4, "5  N(v; 0, scale) - log|det d exp|, summed over windings"),
]
BLUE, RED, GREY = "#4477aa", "#cc3311", "#bbbbbb"
HEIGHT, GAP = 0.8, 0.2


def box(ax, x, y, width, name, text="", color=BLUE):
    patch = FancyBboxPatch(
        (x, y), width, HEIGHT, boxstyle="round,pad=0.02", facecolor="white", edgecolor=color
    )
    ax.add_patch(patch)
    ax.text(x + 0.12, y + HEIGHT / 2, name, va="center", weight="bold", color=color, fontsize=10)
    ax.text(x + 1.75, y + HEIGHT / 2, text, va="center", color="#333333", fontsize=8.5)


def main() -> None:
    figure = Figure(figsize=(13, 7.6), layout="constrained")
    ax = figure.subplots()
    for i, (name, text) in enumerate(LAYERS):
        box(ax, 0, i * (HEIGHT + GAP), 6.6, name, text)
    for name, at in LEAVES:
        box(ax, 7.1, at * (HEIGHT + GAP), 1.6, name, color="#777777")
    ax.text(0, -0.55, "a layer imports from those below it only", fontsize=9, color=BLUE)
    ax.text(7.1, -0.55, "leaves: no layer imports them", fontsize=9, color="#777777")
    ys = [layer * (HEIGHT + GAP) + HEIGHT / 2 for layer, _ in STEPS]
    ys[0] += 0.18
    ys[-1] -= 0.18
    for (_, text), y in zip(STEPS, ys, strict=True):
        ax.text(9.55, y, text, va="center", fontsize=9, color=RED)
    for a, b in zip(ys, ys[1:], strict=False):
        down = a > b
        x = 9.4 if down else 9.2
        arrow = dict(arrowstyle="-|>", mutation_scale=12, color=RED, linewidth=1.3)
        curve = f"arc3,rad={0.25 if down else -0.25}"
        ax.add_patch(FancyArrowPatch((x, a), (x, b), connectionstyle=curve, **arrow))
    ax.text(9.0, 5.7, "the path of a log_prob", fontsize=11, weight="bold", color=RED)
    ax.set_xlim(-0.1, 14.6)
    ax.set_ylim(-0.8, len(LAYERS) * (HEIGHT + GAP))
    ax.axis("off")
    figure.savefig(OUT, dpi=110)


if __name__ == "__main__":
    main()
