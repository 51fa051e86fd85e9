from __future__ import annotations

from typing import Any

import pytest

from sousvit.errors import UserError
from sousvit.objectives.eer import VIT_B16, EfficientErrorRate, efficient_error_rate
from sousvit.objectives.objective import Stage

TERMS = ("params", "bits", "flops", "size")


def model(params: float, gmacs: float, bits: float) -> dict[str, float]:
    return {"params": params, "bits": bits, "flops": gmacs, "size": params * bits / 8}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (model(86.57, 17.58, 32), 1.000),
        (model(86.57, 17.58, 8), 0.625),
        (model(22.05, 4.61, 32), 0.443),
        (model(5.72, 1.26, 32), 0.301),
        (model(22.05, 4.61, 8), 0.208),
    ],
    ids=["vit_b16", "deit_b_int8", "deit_s", "deit_ti", "deit_s_int8"],
)
def test_self_check_values(values: dict[str, float], expected: float) -> None:
    assert efficient_error_rate(values, VIT_B16, TERMS) == pytest.approx(expected, abs=0.002)


def test_the_base_has_one(subject: Any) -> None:
    assert EfficientErrorRate().measure(subject.base).value == pytest.approx(1.0)
    assert EfficientErrorRate(terms=TERMS).measure(subject).value < 1.0


def test_without_the_error_it_needs_no_training() -> None:
    assert EfficientErrorRate(terms=TERMS).stage is Stage.ARTIFACT
    assert EfficientErrorRate().stage is Stage.TRAINED


def test_vit_b16_as_reference(subject: Any) -> None:
    assert 0 < EfficientErrorRate(TERMS, "vit_b16").measure(subject).value < 1
    with pytest.raises(UserError, match="no known error"):
        EfficientErrorRate(reference="vit_b16")


@pytest.mark.parametrize("terms", [(), ("energy",), ("size", "size")])
def test_wrong_terms(terms: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match="EER terms"):
        EfficientErrorRate(terms=terms)


def test_missing_values_and_zero_references() -> None:
    with pytest.raises(UserError, match="needs a value"):
        efficient_error_rate({"size": 1.0}, VIT_B16, TERMS)
    with pytest.raises(UserError, match="positive"):
        efficient_error_rate({"size": 1.0}, {"size": 0.0}, ("size",))
