"""Training an adapter: settings checked, phases run one after another, a folder that can be resumed."""

from visionlora.training.planning import PlannedRun, TrainingPlan, plan
from visionlora.training.training import TrainedAdapter, train

__all__ = [
    "PlannedRun",
    "TrainedAdapter",
    "TrainingPlan",
    "plan",
    "train",
]
