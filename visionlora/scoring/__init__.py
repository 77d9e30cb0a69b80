"""The ruler: what a model finds on labelled pictures, scored by pycocotools, with intervals and times.

No torch, no detector family, no report.
"""

from visionlora.scoring.budget import Budget, Check, Verdict, check_budget
from visionlora.scoring.coco import ClassScores, Scores, coco_scores, mean_precision
from visionlora.scoring.model_scores import ClassChange, Difference, ModelScores, difference, judge
from visionlora.scoring.split import DataUsed, EvaluationSplit, load_split
from visionlora.scoring.timing import Timing, time_networks

__all__ = [
    "Budget",
    "Check",
    "ClassChange",
    "ClassScores",
    "DataUsed",
    "Difference",
    "EvaluationSplit",
    "ModelScores",
    "Scores",
    "Timing",
    "Verdict",
    "check_budget",
    "coco_scores",
    "difference",
    "judge",
    "load_split",
    "mean_precision",
    "time_networks",
]
