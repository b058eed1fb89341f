"""Transforms each photograph of inputs/download_images/ into output/: transform_images.py blur, or edge_enhance."""

import pathlib
import sys

from PIL import Image, ImageFilter

FILTERS = {"blur": ImageFilter.GaussianBlur(6), "edge_enhance": ImageFilter.EDGE_ENHANCE_MORE}

kind = sys.argv[1]
for path in sorted(pathlib.Path("inputs/download_images").glob("*.jpg")):
    with Image.open(path) as photo:
        photo.convert("RGB").filter(FILTERS[kind]).save(pathlib.Path("output") / f"{path.stem}.png")
    print(f"{kind} {path.name}")
