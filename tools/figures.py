"""Make the figures stored in notebooks small: 256 colours instead of millions, a third of the size.

Run: python tools/figures.py nbs/tutorials/the_paper.ipynb …
"""
import base64
import io
import json
import sys
from pathlib import Path

from PIL import Image

from silk_nb.annotations import atomic_write


def smaller(png: bytes) -> bytes:
    """The same picture with a palette of 256 colours; as it was where that is no smaller."""
    picture = Image.open(io.BytesIO(png))
    if picture.mode == "P":
        return png
    with_palette, made = picture.convert("RGB").quantize(256), io.BytesIO()
    with_palette.save(made, "PNG", optimize=True, dpi=picture.info.get("dpi", (100, 100)))
    return min(png, made.getvalue(), key=len)


def shrink(path: Path) -> None:
    """Rewrite the PNG outputs of one notebook, and nothing else."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                png = base64.b64decode(output["data"]["image/png"])
                output["data"]["image/png"] = base64.b64encode(smaller(png)).decode()
    with atomic_write(path) as part:
        part.write_text(json.dumps(notebook, ensure_ascii=False, indent=1) + "\n",
                        encoding="utf-8")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        shrink(Path(name))
