"""Data sets: data.yaml to images with boxes, checked; VOC and COCO in, COCO out. No torch, Ultralytics or network."""

from visionlora.data.class_folders import class_of, misplaced
from visionlora.data.coco import to_coco
from visionlora.data.coco_fields import read_coco
from visionlora.data.coco_file import collect_coco, load_coco
from visionlora.data.content import content_hash, find_shared_files, find_shared_images
from visionlora.data.dataset import (
    Dataset,
    LabelledImage,
    Segmentation,
    check_keypoints,
    checked_size,
    labels_of,
    read_labelled,
)
from visionlora.data.description import SPLITS, Description, KeypointLayout, read_description
from visionlora.data.doubts import warn_of_doubtful_data
from visionlora.data.labels import Labels, format_labels, label_path
from visionlora.data.listing import list_pictures
from visionlora.data.loading import image_paths, load_dataset, picture_paths
from visionlora.data.problems import shown
from visionlora.data.splitting import SplitData, split_data
from visionlora.data.voc import voc_boxes

__all__ = [
    "SPLITS",
    "Dataset",
    "Description",
    "KeypointLayout",
    "LabelledImage",
    "Labels",
    "Segmentation",
    "SplitData",
    "check_keypoints",
    "checked_size",
    "class_of",
    "collect_coco",
    "content_hash",
    "find_shared_files",
    "find_shared_images",
    "format_labels",
    "image_paths",
    "label_path",
    "labels_of",
    "list_pictures",
    "load_coco",
    "load_dataset",
    "misplaced",
    "picture_paths",
    "read_coco",
    "read_description",
    "read_labelled",
    "shown",
    "split_data",
    "to_coco",
    "voc_boxes",
    "warn_of_doubtful_data",
]
