"""The README's pictures, from the screenshots that the browser tests took: few colours, small files.

    make screenshots

runs the tests that take them, then this. Pillow comes with Matplotlib.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
TAKEN, KEPT = ROOT / "build" / "screenshots", ROOT / "results" / "reference" / "screenshots"
NAMES = ("explorer", "explorer_dark", "decision", "report")
COLOURS, TALLEST = 96, 1400


def main() -> int:
    missing = [name for name in NAMES if not (TAKEN / f"{name}.png").exists()]
    if missing:
        print(f"error: {TAKEN} lacks {', '.join(missing)}: the tests that take them were skipped or failed; run: make browser")
        return 1
    KEPT.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        with Image.open(TAKEN / f"{name}.png") as picture:
            top = picture.convert("RGB").crop((0, 0, picture.width, min(picture.height, TALLEST)))
        file = KEPT / f"{name}.png"
        top.quantize(COLOURS, dither=Image.Dither.NONE).save(file, optimize=True)
        print(f"{file.relative_to(ROOT)}  {file.stat().st_size / 1024:.0f} KiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
