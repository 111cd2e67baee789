"""Write README.md from nbs/index.ipynb, or check that it is up to date. Works without quarto.

Run: python tools/readme.py [--check]
"""
import base64
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def directives(source: str) -> dict[str, str]:
    """The `#| key: value` lines of a cell."""
    lines = (line[2:].strip() for line in source.splitlines() if line.startswith("#|"))
    return {key.strip(): value.strip().strip('"')
            for key, _, value in (line.partition(":") for line in lines)}


def render(notebook: dict) -> tuple[str, dict[str, bytes]]:
    """README text, and the figures that it shows: path -> PNG."""
    parts, figures = [], {}
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        marks = directives(source)
        if cell["cell_type"] == "markdown":
            # a page of the site is a notebook of the repository
            parts.append(re.sub(r"\]\((?!https?:)([^()\s]+\.ipynb)\)", r"](nbs/\1)", source))
        elif "hide" not in marks:
            shown = [line for line in source.splitlines() if not line.startswith("#|")]
            parts.append("```python\n" + "\n".join(shown) + "\n```")
            for output in cell["outputs"]:
                if output["output_type"] == "stream":
                    parts.append("```\n" + "".join(output["text"]).rstrip() + "\n```")
                elif "image/png" in output.get("data", {}):
                    path = f"index_files/{marks['label']}.png"
                    figures[path] = base64.b64decode(output["data"]["image/png"])
                    parts.append(f"![{marks['fig-alt']}]({path})\n\n*{marks['fig-cap']}*")
    return "\n\n".join(parts) + "\n", figures


def main() -> int:
    notebook = json.loads((ROOT / "nbs" / "index.ipynb").read_text(encoding="utf-8"))
    text, figures = render(notebook)
    wanted = {"README.md": text.encode(), **figures}
    stale = [path for path, content in wanted.items()
             if not (ROOT / path).is_file() or (ROOT / path).read_bytes() != content]
    if "--check" in sys.argv[1:]:
        if stale:
            print(f"not those of nbs/index.ipynb: {', '.join(stale)}; run python tools/readme.py")
        return bool(stale)
    for path in stale:
        (ROOT / path).parent.mkdir(exist_ok=True)
        (ROOT / path).write_bytes(wanted[path])
    return 0


if __name__ == "__main__":
    sys.exit(main())
