"""Mean average precision of boxes by COCO's rules (faster-coco-eval), and its bootstrap over images.

Matching boxes to objects is done once per image; a resample of the images only accumulates the matches again, which
takes milliseconds, so intervals are affordable in every trial.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from sousvit.errors import MissingPackageError

if TYPE_CHECKING:
    from sousvit.data.detection import Objects
    from sousvit.models.detector import Detections

#: Resamples of the images behind an interval. All evaluations of a split draw the same ones, so differences are paired.
RESAMPLES = 500
MAP, MAP50 = "map", "map50"


class MeanAveragePrecision:
    """COCO's AP averaged over classes: ``map`` over IoU thresholds 0.5 to 0.95, ``map50`` at 0.5; 100 boxes an image.

    Args:
        found: boxes, labels and scores of each image.
        wanted: the objects of each image.
        size: (height, width) of the images in pixels.
        num_classes: labels are smaller than it.

    Raises:
        MissingPackageError: faster-coco-eval is not installed.
    """

    def __init__(
        self, found: Sequence[Detections], wanted: Sequence[Objects], size: tuple[int, int], num_classes: int
    ) -> None:
        assert len(found) == len(wanted)
        self.found, self.num_images = found, len(wanted)
        self._size, self._num_classes = size, num_classes
        self._evaluator = _matched(found, wanted, size, num_classes)
        self._matches: list[Any] = list(self._evaluator._evalImgs_cpp)  # [class][image]

    def against(self, wanted: Sequence[Objects]) -> MeanAveragePrecision:
        """The same predictions, compared with other objects."""
        return MeanAveragePrecision(self.found, wanted, self._size, self._num_classes)

    def figures(self, images: np.ndarray | None = None) -> tuple[float, float]:
        """(map, map50) on ``images`` (positions, may repeat; all by default). Classes without objects do not count."""
        picked = np.arange(self.num_images) if images is None else images
        self._evaluator._evalImgs_cpp = [
            self._matches[label * self.num_images + image] for label in range(self._num_classes) for image in picked
        ]
        self._evaluator.accumulate()
        precision = np.asarray(self._evaluator.eval["precision"])  # [IoU, recall, class, 1, 1], -1 without objects
        return _mean(precision), _mean(precision[:1])

    @cached_property
    def whole(self) -> dict[str, float]:
        """Both figures on all images."""
        return dict(zip((MAP, MAP50), self.figures(), strict=True))

    @cached_property
    def resampled(self) -> dict[str, np.ndarray]:
        """Both figures on ``RESAMPLES`` bootstrap samples of the images, ``[RESAMPLES]`` each."""
        generator = np.random.default_rng(0)
        drawn = [self.figures(generator.integers(0, self.num_images, self.num_images)) for _ in range(RESAMPLES)]
        return dict(zip((MAP, MAP50), np.array(drawn).T, strict=True))


def _mean(precision: np.ndarray) -> float:
    known = precision[precision > -1]
    return float(known.mean()) if known.size else 0.0


def _matched(found: Sequence[Detections], wanted: Sequence[Objects], size: tuple[int, int], num_classes: int) -> Any:
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise MissingPackageError("faster-coco-eval", "mean average precision", "detection") from error
    truth = COCO(
        {
            "images": [{"id": image, "height": size[0], "width": size[1]} for image in range(len(wanted))],
            "categories": [{"id": label, "name": str(label)} for label in range(num_classes)],
            "annotations": _numbered(_entries([one.as_target() for one in wanted])),
        }
    )
    answers = COCO({**truth.dataset, "annotations": _numbered(_entries(found))})
    evaluator = COCOeval_faster(
        truth, answers, "bbox", print_function=logging.getLogger(__name__).debug, extra_calc=False, separate_eval=True
    )
    evaluator.params.areaRng, evaluator.params.areaRngLbl, evaluator.params.maxDets = [[0, 1e10]], ["all"], [100]
    evaluator.params.imgIds, evaluator.params.catIds = list(range(len(wanted))), list(range(num_classes))
    evaluator.evaluate()
    return evaluator


def _numbered(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"id": number, "iscrowd": 0, **entry} for number, entry in enumerate(entries, start=1)]


def _entries(images: Sequence[Detections]) -> list[dict[str, Any]]:
    """COCO's annotations of boxes by image, with their scores where there are any."""
    entries = []
    for image, parts in enumerate(images):
        boxes, labels = parts["boxes"].double().tolist(), parts["labels"].tolist()
        scores = parts["scores"].tolist() if "scores" in parts else [None] * len(labels)
        for (x1, y1, x2, y2), label, score in zip(boxes, labels, scores, strict=True):
            width, height = x2 - x1, y2 - y1
            entry = {"image_id": image, "category_id": label, "bbox": [x1, y1, width, height], "area": width * height}
            entries.append(entry if score is None else {**entry, "score": score})
    return entries
