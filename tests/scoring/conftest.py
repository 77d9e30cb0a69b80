"""The pictures, the detector that finds them, and the report, which the tests of reports have too."""

from tests.reporting.conftest import colour_network, images, names, own_cache, perfect, report, short_pauses

__all__ = ["colour_network", "images", "names", "own_cache", "perfect", "report", "short_pauses"]
