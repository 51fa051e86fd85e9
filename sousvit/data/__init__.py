"""Images and their labels: sources (parquet, IDX, folders, torchvision, VOC, COCO), the three splits, augmentation."""

from sousvit.data.source import ImageSet, Source
from sousvit.data.splits import Splits, look_at_test, require_test
from sousvit.specs import DataSpec

__all__ = ["DataSpec", "ImageSet", "Source", "Splits", "look_at_test", "require_test"]
