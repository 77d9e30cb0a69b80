"""Everything that knows torchvision's detectors: checkpoints, class outputs, layout, the torch network, the trainer.

The only room that imports torchvision's detection models. They come under the BSD licence, without Ultralytics.
"""
