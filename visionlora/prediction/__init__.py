"""Running a model of any kind on pictures, a video or a camera, and writing what it finds."""

from visionlora.prediction.predicting import Prediction, predict
from visionlora.runtime.pictures import find_images

__all__ = ["Prediction", "find_images", "predict"]
