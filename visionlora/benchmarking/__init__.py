"""How long models of any runtime take for a picture, and how much memory: one process a model, in turns."""

from __future__ import annotations

from visionlora.benchmarking.benchmark import bench
from visionlora.benchmarking.results import Benchmark, Measured, Spread

__all__ = ["Benchmark", "Measured", "Spread", "bench"]
