"""An inspection line: a camera over a conveyor, and one reject signal for each faulty part.

    python inspection_line.py --model model.int8.onnx --camera rtsp://10.0.0.7/line3 --region 200 0 440 480

A part is faulty once a fault is in `--on` frames in a row, so that a flicker rejects nothing; the next part begins
after `--off` frames without one, so that none is rejected twice. SIGTERM ends it.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass

import visionlora as vl


@dataclass
class Debounce:
    """Says once that something is there: after `on` frames with it, and again only after `off` frames without."""

    on: int
    off: int
    seen: int = 0
    missed: int = 0
    active: bool = False

    def fires(self, present: bool) -> bool:
        """Take the next frame; return whether this is the moment."""
        self.seen, self.missed = (self.seen + 1, 0) if present else (0, self.missed + 1)
        if self.active:
            self.active = self.missed < self.off
            return False
        self.active = self.seen >= self.on
        return self.active


def reject(source: str, index: int, faults: vl.Detections) -> None:
    """Tell the line: put the relay, the PLC or the message queue in here."""
    print(json.dumps({"reject": faults.top(1).labels[0], "camera": source, "frame": index}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False, description="One reject signal for each faulty part.")
    parser.add_argument("--model", required=True)
    parser.add_argument("--camera", required=True, help="number, rtsp:// address, or a recording")
    parser.add_argument("--region", type=float, nargs=4, help="left top right bottom in pixels: where parts count")
    parser.add_argument("--on", type=int, default=3)
    parser.add_argument("--off", type=int, default=5)
    options = parser.parse_args()
    debounce = Debounce(options.on, options.off)
    for frame, found in vl.Detector(options.model).stream(options.camera):
        faults = found.within(options.region) if options.region else found
        if debounce.fires(len(faults) > 0):
            reject(frame.source, frame.index, faults)


if __name__ == "__main__":
    main()
