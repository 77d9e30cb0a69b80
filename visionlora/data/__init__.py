"""Data sets: data.yaml to images with boxes, checked; VOC and COCO in, COCO out. No torch, Ultralytics or network."""

from visionlora.data.coco import to_coco
from visionlora.data.coco_fields import read_coco
from visionlora.data.coco_file import load_coco
from visionlora.data.content import content_hash, find_shared_files, find_shared_images
from visionlora.data.dataset import (
    Dataset,
    LabelledImage,
    Segmentation,
    check_keypoints,
    image_paths,
    load_dataset,
    read_labelled,
)
from visionlora.data.description import KeypointLayout, read_description
from visionlora.data.doubts import warn_of_doubtful_data
from visionlora.data.labels import format_labels, label_path
from visionlora.data.splitting import SplitData, split_data
from visionlora.data.voc import voc_boxes

__all__ = [
    "Dataset",
    "KeypointLayout",
    "LabelledImage",
    "Segmentation",
    "SplitData",
    "check_keypoints",
    "content_hash",
    "find_shared_files",
    "find_shared_images",
    "format_labels",
    "image_paths",
    "label_path",
    "load_coco",
    "load_dataset",
    "read_coco",
    "read_description",
    "read_labelled",
    "split_data",
    "to_coco",
    "voc_boxes",
    "warn_of_doubtful_data",
]
