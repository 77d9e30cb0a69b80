"""Everything that knows Ultralytics: checkpoints, class outputs, layout, the torch network, the trainer.

The only room that imports ultralytics, isolated: without its habits of installing packages, posting events and asking
who is online, and with settings of its own.
"""

from visionlora.isolation import isolating_ultralytics

with isolating_ultralytics():
    import ultralytics.utils  # noqa: F401

from visionlora.detectors.ultralytics.checkpoint import load_base, pack_checkpoint, sample_pictures
from visionlora.detectors.ultralytics.classes import set_classes
from visionlora.detectors.ultralytics.folding import folded_base
from visionlora.detectors.ultralytics.layout import adapted, plan_detector, set_activations
from visionlora.detectors.ultralytics.network import RawDetector

__all__ = [
    "RawDetector",
    "adapted",
    "folded_base",
    "load_base",
    "pack_checkpoint",
    "plan_detector",
    "sample_pictures",
    "set_activations",
    "set_classes",
]
