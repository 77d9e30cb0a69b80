"""A camera trap: how many animals of which species are in each picture of a folder, as CSV.

    python camera_trap.py --model model.int8.onnx --folder /media/card --out counts.csv
    python camera_trap.py --model model.int8.onnx --folder incoming --out counts.csv --watch

A row has picture, time (of the file's last change), species and count; a picture without an animal has one row with no
species. With --watch it stays at the folder, and every row is on the disk as soon as the picture is done.
"""

from __future__ import annotations

import argparse
import csv
from collections import Counter
from datetime import datetime
from pathlib import Path

import visionlora as vl

COLUMNS = ("picture", "time", "species", "count")


def cell(text: str) -> str:
    """Return a text that a spreadsheet shows and does not compute, with what cannot be printed as escapes."""
    text = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def main() -> None:
    """Count the animals."""
    parser = argparse.ArgumentParser(allow_abbrev=False, description="Species counts of a folder of pictures as CSV.")
    parser.add_argument("--model", required=True)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--watch", action="store_true", help="stay and take what comes in, until SIGTERM")
    options = parser.parse_args()
    totals: Counter[str] = Counter()
    with open(options.out, "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(COLUMNS)
        for frame, found in vl.Detector(options.model).stream(options.folder, watch=options.watch):
            picture = Path(frame.source)
            time = datetime.fromtimestamp(picture.stat().st_mtime).isoformat(timespec="seconds")
            counts = Counter(found.labels)
            totals += counts
            for species, count in sorted(counts.items()) or [("", 0)]:
                rows.writerow((cell(picture.name), time, cell(species), count))
            file.flush()
    print(", ".join(f"{count} {species}" for species, count in totals.most_common()) or "no animals")


if __name__ == "__main__":
    main()
