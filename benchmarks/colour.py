"""How fast is the colour descriptor? Ratio to a loop over scikit-image, at 224 px.

Run: python benchmarks/colour.py
"""
import math
import statistics
import time

import numpy as np
import torch
from skimage.color import rgb2hsv

from silk_nb.colour import colour_descriptor


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


def seconds(function, images) -> float:
    start = time.perf_counter()
    function(images)
    return time.perf_counter() - start


if __name__ == "__main__":
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (64, 3, 224, 224), generator=generator, dtype=torch.uint8)
    seconds(colour_descriptor, images), seconds(loop, images[:4])  # warm up
    pairs = [(seconds(colour_descriptor, images), seconds(loop, images)) for _ in range(5)]
    ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"colour descriptor of {len(images)} images of 224 px: silk_nb {1e3 * ours:.0f} ms, "
          f"scikit-image loop {1e3 * theirs:.0f} ms, ratio {theirs / ours:.1f}")
