"""The ruler: what a model finds on labelled pictures, scored by pycocotools, with intervals and times.

No torch, no detector family, no report. Other rooms take what they need from here, never from a module inside.
"""

from visionlora.scoring.bootstrap import Change, Draws, Interval, paired_draws, score_draws
from visionlora.scoring.budget import BUDGET_LIMITS, Budget, Check, Verdict, check_budget, option_of
from visionlora.scoring.classification import Mistake, classification_scores, top_accuracy
from visionlora.scoring.coco import (
    NEXT_TO_NOTHING,
    ClassCount,
    ClassScores,
    Scores,
    coco_scores,
    mean_precision,
    score_and_match,
)
from visionlora.scoring.detect_split import SplitDetections, find_objects, shared_classes
from visionlora.scoring.matches import IOU_THRESHOLDS, RECALLS, Matches, precision_at_recalls
from visionlora.scoring.model_scores import ClassChange, Difference, ModelScores, difference, judge
from visionlora.scoring.operating import MATCHING_IOU, Confusion, OperatingPoint, Outcome, outcome_of
from visionlora.scoring.score_calibration import Calibration
from visionlora.scoring.split import DataUsed, EvaluationSplit, check_split, load_split
from visionlora.scoring.thresholds import Keep, Refit, refit_thresholds
from visionlora.scoring.timing import Timing, busy_seconds, time_networks, timing_of

__all__ = [
    "BUDGET_LIMITS",
    "IOU_THRESHOLDS",
    "MATCHING_IOU",
    "NEXT_TO_NOTHING",
    "RECALLS",
    "Budget",
    "Calibration",
    "Change",
    "Check",
    "ClassChange",
    "ClassCount",
    "ClassScores",
    "Confusion",
    "DataUsed",
    "Difference",
    "Draws",
    "EvaluationSplit",
    "Interval",
    "Keep",
    "Matches",
    "Mistake",
    "ModelScores",
    "OperatingPoint",
    "Outcome",
    "Refit",
    "Scores",
    "SplitDetections",
    "Timing",
    "Verdict",
    "busy_seconds",
    "check_budget",
    "check_split",
    "classification_scores",
    "coco_scores",
    "difference",
    "find_objects",
    "judge",
    "load_split",
    "mean_precision",
    "option_of",
    "outcome_of",
    "paired_draws",
    "precision_at_recalls",
    "refit_thresholds",
    "score_and_match",
    "score_draws",
    "shared_classes",
    "time_networks",
    "timing_of",
    "top_accuracy",
]
