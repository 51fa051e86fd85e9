"""A plug-in objective: top-1 of the class that the model knows worst.

In a budget: ``plugins: {objectives: [worst_class.py:WorstClassAccuracy]}``, and then ``worst_class_accuracy`` in
limits or in what to optimise (also as ``worst_class_accuracy_drop``).
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from sousvit.objectives.objective import Direction, Measurement, Objective, Stage, Subject


class WorstClassAccuracy(Objective):
    """Lowest per-class share of correct predictions on the judging split."""

    name: ClassVar[str] = "worst_class_accuracy"
    unit: ClassVar[str] = "share"
    direction: ClassVar[Direction] = "maximize"
    stage: ClassVar[Stage] = Stage.TRAINED
    summary: ClassVar[str] = "top-1 of the worst class"
    needs_labels: ClassVar[bool] = True

    def measure(self, subject: Subject) -> Measurement:
        """Classes without images in the split do not count."""
        evaluation = subject.evaluation
        labels, correct = evaluation.labels, evaluation.correct
        return Measurement(min(float(correct[labels == label].mean()) for label in np.unique(labels)))
