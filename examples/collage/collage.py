"""Joins the transformed photographs into output/collage.png: a row for each transformation, a column for each photograph."""

import pathlib

from PIL import Image

SIZE = (640, 427)

rows = [sorted(pathlib.Path("inputs", kind).glob("*.png")) for kind in ("blur", "edge_enhance")]
whole = Image.new("RGB", (SIZE[0] * max(map(len, rows)), SIZE[1] * len(rows)))
for y, row in enumerate(rows):
    for x, path in enumerate(row):
        with Image.open(path) as picture:
            whole.paste(picture.resize(SIZE), (x * SIZE[0], y * SIZE[1]))
whole.save("output/collage.png")
print(f"{whole.width} x {whole.height} pixels of {sum(map(len, rows))} pictures")
