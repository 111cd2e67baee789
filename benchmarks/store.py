"""Does the input side keep up? The store against decoding each time, and extraction against the
bare network. Ratios within one run, the median of several rounds.

Run: python benchmarks/store.py [FOLDER OF IMAGES] [--backbones mobilenet_v2 …]
"""
import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch
from common import compare, parser_of, report, seconds
from torch.utils.data import DataLoader, Dataset

from silk_nb.features import (
    PRECISIONS,
    Batch,
    ImageData,
    ahead,
    extract_features,
    load_pixels,
    normalise,
)
from silk_nb.model import Backbone, load_backbone
from silk_nb.store import StoredData, build_store
from silk_nb.synthetic import make_silk

CLOTHING = Path(__file__).resolve().parents[2] / "shared" / "data" / "clothing" / "images"
SIZE, BATCH, CHUNK = 224, 60, 8
LONG = 20.0  # seconds that a network may take for its images; a slow one is given fewer of them
LOOK = {"mean": (0.5,) * 3, "std": (0.5,) * 3}


def find_images(folder: Path, count: int, work: Path) -> list[Path]:
    """Files of a folder, or made-up silk where it is not there."""
    if folder.is_dir():
        return sorted(path for path in folder.iterdir() if path.is_file())[:count]
    make_silk(work / "silk", images=count, size=512, quiet=True)
    return sorted((work / "silk").rglob("*.jpg"))[:count]


def drain(batches: Iterable) -> None:
    """Use every batch up."""
    for _ in batches:
        pass


class ByIndices(Dataset):
    """The store as torch's DataLoader wants it: an item is a batch."""

    def __init__(self, data: StoredData, chosen: list) -> None:
        self.data, self.chosen = data, chosen

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, at: int) -> Batch:
        return self.data.batch(self.chosen[at])


def input_side(images: list[Path], work: Path, rounds: int) -> list[dict]:
    """Batches ready for the network: decoded, and from the store in several ways."""
    labels = torch.zeros(len(images), dtype=torch.int64)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    chosen = list(order.split(BATCH))
    plain = ImageData(images, labels, size=SIZE, **LOOK)
    building = seconds(lambda: build_store(images, SIZE, cache=work / "cache", quiet=True))
    store = build_store(images, SIZE, cache=work / "cache", quiet=True)
    data = StoredData(store, labels, workers=2, **LOOK)
    strong = StoredData(store, labels, augment="strong", workers=2, **LOOK)
    loader = DataLoader(ByIndices(data, chosen), batch_size=None, num_workers=2,
                        persistent_workers=True)
    taken = compare({
        "decoded each time": lambda: drain(plain.batches(chosen)),
        "store, one after the other": lambda: drain(map(data.batch, chosen)),
        "store, two threads ahead": lambda: drain(data.batches(chosen)),
        "store, two worker processes of torch's DataLoader": lambda: drain(loader),
        "store, two threads, augmentation strong": lambda: drain(strong.batches(chosen, epoch=0)),
    }, rounds)
    rows = [{"way": name, "ms per image": 1000 * value / len(images),
             "times as fast as decoding": taken["decoded each time"] / value}
            for name, value in taken.items()]
    return [*rows, {
        "way": "the store is built, once", "ms per image": 1000 * building / len(images)}]


def bare(backbone: Backbone, tensors: list[torch.Tensor], precision: str) -> None:
    """The network alone on normalised tensors, as many threads of one core as torch may use."""
    half = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")

    def apply(images: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode(), half:
            return backbone(images)

    drain(ahead(apply, tensors, workers=torch.get_num_threads()))


def extraction(images: list[Path], backbone: Backbone, rounds: int) -> list[dict]:
    """Files to features and colour descriptors, as a share of the rate of the bare network."""
    backbone.eval()

    def tensor(first: int) -> torch.Tensor:
        pixels = load_pixels(images[first:first + CHUNK], backbone.input_size)
        return normalise(pixels, backbone.mean, backbone.std)

    one = min(seconds(lambda: bare(backbone, [tensor(0)] * 4, "float32")) for _ in range(2)) / 4
    images, rows = images[:max(4, int(LONG / one)) * CHUNK], []
    tensors = [tensor(n) for n in range(0, len(images), CHUNK)]
    for precision in PRECISIONS:
        taken = compare({
            "bare": lambda precision=precision: bare(backbone, tensors, precision),
            "all": lambda precision=precision: extract_features(
                images, backbone, precision=precision, quiet=True)}, rounds)
        alone, whole = (1000 * taken[name] / len(images) for name in ("bare", "all"))
        rows.append({"network": f"{backbone.name}, {backbone.input_size} px",
                     "images": len(images), "precision": precision, "bare ms per image": alone,
                     "extraction ms per image": whole, "share of bare %": 100 * alone / whole})
    return rows


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=CLOTHING)
    parser.add_argument("--images", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--backbones", nargs="+", default=["mobilenet_v2", "resnet152"])
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        images, shares = find_images(chosen.folder, chosen.images, Path(work)), []
        batches = input_side(images, Path(work), chosen.rounds)
        for name in chosen.backbones:  # the time does not depend on the weights
            shares += extraction(images, load_backbone(name, None, seed=0), chosen.rounds)
    report(chosen.json, batches_of_images=batches, extraction=shares)


if __name__ == "__main__":
    main()
