"""Labelled images: sources (parquet, IDX, folders, torchvision), the three splits, and augmentation."""

from sousvit.common.data.source import ImageSet, Source
from sousvit.common.data.splits import Splits, require_test
from sousvit.common.specs import DataSpec

__all__ = ["DataSpec", "ImageSet", "Source", "Splits", "require_test"]
