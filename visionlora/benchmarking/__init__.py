"""How long models of any runtime take for a picture, and how much memory: one process a model, in turns.

What measures is loaded when it is first asked for: the processes that are measured pass here too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from visionlora.benchmarking.benchmark import bench
    from visionlora.benchmarking.results import Benchmark, Measured, Spread

__all__ = ["Benchmark", "Measured", "Spread", "bench"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from visionlora.benchmarking import benchmark

    return getattr(benchmark, name)
