from __future__ import annotations

import numpy as np
import pytest
import torch

from sousvit.data.detection import Objects
from sousvit.models.mean_ap import RESAMPLES, MeanAveragePrecision

BOXES = torch.tensor([[0.0, 0, 20, 20], [30, 0, 50, 20], [0, 30, 20, 50]])
LABELS = torch.tensor([0, 1, 0])
IMAGE = (64, 64)


def detections(boxes=BOXES, labels=LABELS, scores=(0.9, 0.8, 0.7)):
    return {"boxes": boxes, "labels": labels, "scores": torch.tensor(scores[: len(labels)])}


NOTHING = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long), "scores": torch.zeros(0)}
TRUTH = Objects(BOXES, LABELS)


def measured(found, wanted, classes=2):
    return MeanAveragePrecision(found, wanted, IMAGE, classes).whole


def test_all_found_is_one_and_nothing_found_is_nought():
    assert measured([detections()], [TRUTH]) == {"map": 1.0, "map50": 1.0}
    assert measured([NOTHING, NOTHING], [TRUTH, TRUTH]) == {"map": 0.0, "map50": 0.0}


def test_a_shift_costs_the_strict_thresholds_only():
    shifted = detections(BOXES + torch.tensor([2.0, 0, 2, 0]))  # IoU 18 / 22 = 0.818: 7 of 10 thresholds
    assert measured([shifted], [TRUTH]) == pytest.approx({"map": 0.7, "map50": 1.0})


def test_average_precision_by_hand():
    """One class, two objects: hit, miss, hit in the order of scores. Recall 0.5 at precision 1, recall 1 at 2/3."""
    wanted = [Objects(BOXES[:2], torch.tensor([0, 0]))]
    found = [detections(torch.stack([BOXES[0], BOXES[2], BOXES[1]]), torch.tensor([0, 0, 0]))]
    expected = (51 * 1 + 50 * 2 / 3) / 101  # COCO reads precision at 101 recalls
    assert measured(found, wanted, 1)["map50"] == pytest.approx(expected)


def test_false_alarms_on_empty_images_count_and_absent_classes_do_not():
    empty = Objects(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
    alarm = detections(BOXES[:1], LABELS[:1], (0.95,))
    lower = measured([detections(), alarm], [TRUTH, empty])["map50"]
    assert 0.5 < lower < 1.0
    assert measured([detections(), NOTHING], [TRUTH, empty], classes=5)["map50"] == 1.0


def test_resamples_are_of_images_and_the_same_for_everyone():
    generator = torch.Generator().manual_seed(0)
    found = [detections() if torch.rand((), generator=generator) < 0.6 else NOTHING for _ in range(40)]
    one = MeanAveragePrecision(found, [TRUTH] * 40, IMAGE, 2)
    again = MeanAveragePrecision(found, [TRUTH] * 40, IMAGE, 2)
    assert one.resampled["map50"].shape == (RESAMPLES,)
    assert np.array_equal(one.resampled["map50"], again.resampled["map50"])
    share = sum(len(entry["labels"]) > 0 for entry in found) / 40
    assert one.whole["map50"] == pytest.approx(share, abs=0.01), "every box is right, so recall decides"
    assert one.resampled["map50"].std() == pytest.approx((share * (1 - share) / 40) ** 0.5, rel=0.15)
    assert one.whole == again.whole, "resampling leaves the whole untouched"
