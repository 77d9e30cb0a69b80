"""The models and their data that the tests of reports have too."""

from tests.reporting.conftest import data, models, onnx_model, own_cache, short_pauses

__all__ = ["data", "models", "onnx_model", "own_cache", "short_pauses"]
