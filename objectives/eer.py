"""Efficient Error Rate (arXiv 2309.02031): one figure for error and cost, relative to a reference model.

Confirmed from the paper's abstract: EER normalises and compares what affects a device at inference time, namely
number of parameters, bits, FLOPs and model size. *Our interpretation*, because the exact formula was not found: the
mean of the ratios to the reference over declared terms, ``EER = mean_i(M_i / R_i)``; lower is better, the
reference has 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from sousvit.errors import UserError
from sousvit.objectives.objective import Direction, Measurement, Objective, Stage, Subject

TERMS = ("error", "params", "bits", "flops", "size")
#: ViT-B/16 at 224 px in fp32: M parameters, bits, GMACs, MB.
VIT_B16: Mapping[str, float] = {"params": 86.57, "bits": 32.0, "flops": 17.58, "size": 346.3}


def efficient_error_rate(
    values: Mapping[str, float], reference: Mapping[str, float] = VIT_B16, terms: Sequence[str] = TERMS
) -> float:
    """``mean_i(values[i] / reference[i])`` over ``terms``; both in the same units.

    Raises:
        UserError: no or unknown terms, a term without a value, or a reference that is not positive.
    """
    _check_terms(terms)
    for term in terms:
        if term not in values or term not in reference:
            raise UserError("every EER term needs a value and a reference", term, "leave the term out or give both")
        if not reference[term] > 0:
            raise UserError("an EER reference must be positive", f"{term} {reference[term]}", "leave the term out")
    return sum(values[term] / reference[term] for term in terms) / len(terms)


class EfficientErrorRate(Objective):
    """Mean ratio to the run's base (in ONNX Runtime fp32), or to ViT-B/16 in fp32.

    Args:
        terms: from error (1 - top-1, of a detector 1 - mAP50), params, bits (average bits of a weight in the file),
            flops (MACs), size.
        reference: ``base`` or ``vit_b16``; the latter has no error on the user's data.
        name: to register variants beside the default.

    A base without a single error would divide by zero; its error counts as half an image (or object) then.
    """

    name: ClassVar[str] = "eer"
    unit: ClassVar[str] = "ratio"
    direction: ClassVar[Direction] = "minimize"
    stage: ClassVar[Stage] = Stage.TRAINED
    summary: ClassVar[str] = "Efficient Error Rate: mean ratio of error, params, bits, flops, size to the base"

    def __init__(
        self, terms: Sequence[str] = TERMS, reference: Literal["base", "vit_b16"] = "base", name: str = "eer"
    ) -> None:
        _check_terms(terms)
        if reference == "vit_b16" and "error" in terms:
            raise UserError("ViT-B/16 has no known error on these data", list(terms), "leave out error, or use base")
        self.terms, self.reference = tuple(terms), reference
        self.name = name  # type: ignore[misc]
        self.stage = Stage.TRAINED if "error" in terms else Stage.ARTIFACT  # type: ignore[misc]
        self.needs_labels = "error" in terms  # type: ignore[misc]

    def measure(self, subject: Subject) -> Measurement:
        values = {term: _value(subject, term) for term in self.terms}
        if self.reference == "vit_b16":
            return Measurement(efficient_error_rate(values, VIT_B16, self.terms))
        reference = {term: _value(subject.base, term) for term in self.terms}
        if "error" in reference:
            reference["error"] = max(reference["error"], subject.base.evaluation.least_error)
        return Measurement(efficient_error_rate(values, reference, self.terms))


def _check_terms(terms: Sequence[str]) -> None:
    wrong = [term for term in terms if term not in TERMS]
    if wrong or not terms or len(set(terms)) != len(terms):
        raise UserError(f"EER terms are chosen once each from {', '.join(TERMS)}", list(terms), "correct them")


def _value(subject: Subject, term: str) -> float:
    """The value of a term in the units of ``VIT_B16``; the error as a share."""
    from sousvit.spaces.module_shape import macs_of

    if term == "error":
        return subject.evaluation.error
    if term == "params":
        return sum(parameter.numel() for parameter in subject.model.parameters()) / 1e6
    if term == "bits":
        return subject.weight_bits
    if term == "flops":
        return macs_of(subject.model, subject.input_shape[1:]) / 1e9
    return subject.artifact.size_bytes / 1e6
