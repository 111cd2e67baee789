"""How fast is the colour descriptor? Ratio to a loop over scikit-image, at 224 px.

Run: python benchmarks/colour.py
"""
import math

import numpy as np
import torch
from common import compare, parser_of, report
from skimage.color import rgb2hsv

from silk_nb.colour import DescriptorTable, colour_descriptor


def loop(images: torch.Tensor, r: int = 5) -> np.ndarray:
    """The descriptor image by image with scikit-image."""
    rows = []
    for image in images:
        hsv = rgb2hsv(image.permute(1, 2, 0).numpy())
        angle, s = 2 * math.pi * hsv[..., 0], hsv[..., 1]
        x, y = (np.clip(np.floor(r / 2 * (1 + s * f(angle))), 0, r - 1).astype(int)
                for f in (np.cos, np.sin))
        rows.append(np.bincount((x * r + y).ravel(), minlength=r * r))
    return np.stack(rows)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (args.images, 3, 224, 224), generator=generator,
                           dtype=torch.uint8)
    table = DescriptorTable(5)
    taken = compare({"scikit-image, a loop": lambda: loop(images),
                     "silk_nb, computed": lambda: colour_descriptor(images),
                     "silk_nb, from a table of all colours": lambda: table(images)}, args.rounds)
    report(args.json, colour_descriptors=[
        {"way": way, "ms per image": 1e3 * value / args.images,
         "times as fast as the loop": taken["scikit-image, a loop"] / value}
        for way, value in taken.items()])


if __name__ == "__main__":
    main()
