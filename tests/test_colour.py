"""The colour descriptor against scikit-image, and the correlation against numpy."""
import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from skimage.color import rgb2hsv

from silk_nb import colour
from silk_nb.colour import (
    DescriptorTable,
    colour_correlation,
    colour_descriptor,
    plot_colour_descriptor,
)


def slow_cells(image, r):
    """x and y of every pixel by scikit-image in float64, before rounding down."""
    hsv = rgb2hsv(image.permute(1, 2, 0).numpy())
    angle, s = 2 * math.pi * hsv[..., 0], hsv[..., 1]
    return r / 2 * (1 + s * np.cos(angle)), r / 2 * (1 + s * np.sin(angle))


@pytest.mark.parametrize("r", [1, 2, 5, 8])
def test_equals_scikit_image_but_for_cell_borders(r):
    images = torch.randint(0, 256, (4, 3, 60, 50), dtype=torch.uint8)
    images[3] = images[3] // 200 * 200  # strong colours
    for image, ours in zip(images, colour_descriptor(images, r), strict=True):
        x, y = slow_cells(image, r)
        cells = [np.clip(np.floor(v), 0, r - 1).astype(int) for v in (x, y)]
        slow = np.bincount((cells[0] * r + cells[1]).ravel(), minlength=r * r)
        near = sum((np.abs(v - np.round(v)) < 1e-5).sum() for v in (x, y))
        assert ours.sum() == 3000
        assert np.abs(ours.numpy() - slow).sum() <= 2 * near


@pytest.mark.parametrize("r", [1, 2, 5, 17])
def test_the_table_counts_the_same(r):
    table = DescriptorTable(r)
    images = torch.randint(0, 256, (5, 3, 61, 47), dtype=torch.uint8)
    images[3] = images[3] // 200 * 200
    images[4] = images[4, :1]  # grey
    wanted = colour_descriptor(images, r)
    for given in (images, images.contiguous(memory_format=torch.channels_last)):
        found = table(given)
        assert found.dtype == torch.float32 and torch.equal(found, wanted)
    assert table(images[:0]).shape == (0, r * r)
    with pytest.raises(TypeError, match="uint8"):
        table(images.float())


@pytest.mark.parametrize("r", [0, 2.0, True])
def test_a_table_of_no_resolution(r):
    with pytest.raises(ValueError, match="resolution"):
        DescriptorTable(r)


def test_every_rgb_corner_falls_into_its_cell():
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0), (9, 9, 9), (255, 255, 255)]
    images = torch.tensor(colours, dtype=torch.uint8).view(-1, 3, 1, 1)
    found = colour_descriptor(images).argmax(1).tolist()
    assert found == [4 * 5 + 2, 1 * 5 + 4, 1 * 5 + 0, 12, 12, 12]


def test_images_do_not_touch_each_other_and_brightness_is_ignored():
    images = torch.randint(0, 120, (9, 3, 20, 20), dtype=torch.uint8)
    together = colour_descriptor(images)
    apart = torch.cat([colour_descriptor(image[None]) for image in images])
    assert torch.equal(together, apart)
    assert torch.equal(colour_descriptor(images * 2), together)
    assert colour_descriptor(images[:0]).shape == (0, 25)


def test_correlation_is_pearson():
    descriptors = torch.randint(0, 90, (7, 25)).float()
    rho = colour_correlation(descriptors)
    np.testing.assert_allclose(rho, np.corrcoef(descriptors.numpy()), atol=1e-6)
    assert torch.equal(rho, rho.T) and torch.equal(rho.diagonal(), torch.ones(7))


def test_uniform_descriptors():
    mixed = torch.stack([torch.full((25,), 7.0), torch.arange(25.0), torch.full((25,), 3.0)])
    assert colour_correlation(mixed).tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]


def test_the_batch_mean_makes_any_two_images_opposites():
    two = torch.randint(0, 90, (2, 25)).float()
    assert colour_correlation(two, centre="batch")[0, 1] == pytest.approx(-1)
    three = torch.cat([two, torch.randint(0, 90, (1, 25)).float()])
    centred = three.numpy() - three.numpy().mean(0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    np.testing.assert_allclose(colour_correlation(three, centre="batch"), unit @ unit.T, atol=1e-6)


def test_small_batches():
    assert colour_correlation(torch.zeros(0, 25)).shape == (0, 0)
    assert colour_correlation(torch.rand(1, 25)).tolist() == [[1]]
    assert colour_correlation(torch.rand(1, 25), centre="batch").tolist() == [[1]]


@pytest.mark.parametrize(("images", "error", "text"), [
    (np.zeros((1, 3, 4, 4), np.uint8), TypeError, "ndarray"),
    (torch.rand(1, 3, 4, 4), TypeError, "uint8"),
    (torch.zeros(3, 4, 4, dtype=torch.uint8), ValueError, "N×3×H×W"),
    (torch.zeros(1, 4, 4, 3, dtype=torch.uint8), ValueError, "N×3×H×W"),
    (torch.zeros(1, 3, 0, 4, dtype=torch.uint8), ValueError, "no pixels"),
])
def test_only_uint8_batches(images, error, text):
    with pytest.raises(error, match=text):
        colour_descriptor(images)


def test_other_faults():
    image = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    with pytest.raises(ValueError, match="resolution"):
        colour_descriptor(image, 0)
    with pytest.raises(ValueError, match="centre"):
        colour_correlation(torch.rand(2, 25), centre="both")
    with pytest.raises(ValueError, match="N×r²"):
        colour_correlation(torch.rand(25))
    with pytest.raises(ValueError, match="r² entries"):
        plot_colour_descriptor(torch.rand(24))


def test_shares_are_written_so_that_they_can_be_read():
    def luminance(colour):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
                  for c in to_rgb(colour)]
        return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    for percent in range(1, 101):
        ax = plot_colour_descriptor(torch.tensor([percent, 100 - percent, 0, 0]))
        picture, text = ax.images[0], ax.texts[0]
        assert text.get_text() == str(percent)
        low, high = sorted(map(luminance, (picture.cmap(picture.norm(percent)), text.get_color())))
        assert (high + 0.05) / (low + 0.05) > 4.5, percent  # WCAG 2.1, level AA
        plt.close(ax.figure)


def test_where_no_compiled_code_can_be_kept_it_is_compiled_all_the_same(monkeypatch):
    plain = colour.njit

    def refusing(**flags):
        if flags.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return plain(**flags)

    monkeypatch.setattr(colour, "njit", refusing)
    doubled = colour.compiled(lambda x: 2 * x)
    assert doubled(4) == 8 and doubled.nopython_signatures
