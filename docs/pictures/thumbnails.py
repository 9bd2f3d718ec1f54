"""Small pictures for the gallery of tutorials: pieces of the tutorials' own pictures, 480 x 320 pixels.

python docs/pictures/thumbnails.py
"""

from pathlib import Path

from PIL import Image

TUTORIALS = Path(__file__).parents[1] / "tutorials"
SIZE = (480, 320)
# tutorial: picture, and the piece of it, as fractions left, top, right, bottom
PIECES = {
    "quickstart": ("quickstart.png", (0.2, 0.0, 0.8, 0.8)),
    "directions": ("directions.png", (0.33, 0.0, 0.66, 1.0)),
    "rotations": ("rotations.png", (0.1, 0.1, 0.9, 1.0)),
    "torsions": ("torsions.png", (0.0, 0.0, 1.0, 1.0)),
    "covariances": ("covariances.png", (0.0, 0.15, 0.5, 0.9)),
    "loadings": ("loadings.png", (0.0, 0.0, 0.59, 1.0)),
    "own_manifold": ("own_manifold.png", (0.0, 0.0, 1.0, 1.0)),
    "learn_a_manifold": ("learn_a_manifold_charts.png", (0.0, 0.0, 1.0, 1.0)),
    "lhc_parameters": ("lhc_parameters.png", (0.0, 0.0, 1.0, 1.0)),
    "cluster_directions": ("../howto/cluster_directions.png", (0.5, 0.0, 0.905, 1.0)),
    "density_on_the_globe": ("earthquakes.png", (0.08, 0.03, 0.88, 0.5)),
    "tree_in_the_disk": ("tree.png", (0.0, 0.0, 0.48, 1.0)),
    "vae_on_a_sphere": ("vae_on_a_sphere.png", (0.0, 0.0, 0.68, 1.0)),
    "manifold_in_pieces": ("manifold_in_pieces_density.png", (0.05, 0.06, 0.43, 1.0)),
    "tensors_into_odfs": ("tensors_into_odfs_scan.png", (0.52, 0.08, 1.0, 1.0)),
}


def thumbnail(picture: Path, piece: tuple[float, float, float, float]) -> Image.Image:
    """The piece, scaled to fit, in the middle of a white card."""
    with Image.open(picture) as image:
        w, h = image.size
        part = image.convert("RGB").crop(
            (int(piece[0] * w), int(piece[1] * h), int(piece[2] * w), int(piece[3] * h))
        )
    part.thumbnail(SIZE, Image.Resampling.LANCZOS)
    card = Image.new("RGB", SIZE, "white")
    card.paste(part, ((SIZE[0] - part.width) // 2, (SIZE[1] - part.height) // 2))
    return card


if __name__ == "__main__":
    (TUTORIALS / "thumbs").mkdir(exist_ok=True)
    for name, (file, piece) in PIECES.items():
        card = thumbnail(TUTORIALS / file, piece)
        card.quantize(128).save(TUTORIALS / "thumbs" / f"{name}.png", optimize=True)
