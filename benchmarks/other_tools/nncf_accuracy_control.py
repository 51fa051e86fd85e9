"""NNCF's quantization with accuracy control: int8 by OpenVINO, layers put back to float until the drop is allowed.

    python benchmarks/other_tools/nncf_accuracy_control.py --data DIR --model VIT.safetensors --minutes 15 --out OUT

NNCF has no time limit: a run that is not through when its minutes are over is killed and answers nothing.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

import sousvit

sys.path.insert(0, str(Path(__file__).parents[1]))
from common.workbench import ARTIFACT, MAX_DROP, Answer, Workbench, arguments, drive

#: NNCF's default.
CALIBRATION = 300


def work(given: argparse.Namespace) -> Answer:
    bench = Workbench.open(given)
    os.environ |= {"CI": "true", "NNCF_CI": "1"}  # both packages report their use to a web service otherwise
    import nncf
    import openvino

    nncf.set_log_level(logging.INFO)
    images, labels = bench.validation()
    items = [(image[None], int(label)) for image, label in zip(images.numpy(), labels, strict=True)]
    calibration = bench.calibration(CALIBRATION)
    judged: list[float] = []

    def validate(model: Any, some: Iterable[tuple[np.ndarray, int]]) -> tuple[float, list[float]]:
        request = model.create_infer_request()
        correct = [float(request.infer({0: image})[0].argmax() == label) for image, label in some]
        if len(correct) == len(items):
            judged.append(sum(correct) / len(correct))
        return sum(correct) / len(correct), correct

    quantized = nncf.quantize_with_accuracy_control(
        openvino.Core().read_model(bench.exported.path),
        calibration_dataset=nncf.Dataset([image[None] for image in calibration]),
        validation_dataset=nncf.Dataset(items, lambda item: item[0]),
        validation_fn=validate,
        max_drop=MAX_DROP,
        drop_type=nncf.DropType.ABSOLUTE,
        subset_size=CALIBRATION,
        model_type=nncf.ModelType.TRANSFORMER,
        advanced_quantization_parameters=_for_this_cpu(),
    )
    folder = given.out / ARTIFACT
    folder.mkdir()
    openvino.save_model(quantized, folder / "model.xml", compress_to_fp16=False)
    bench.describe(folder, "openvino", "model.xml")
    fix = "overflow_fix=ENABLE: int8 sums overflow on this CPU" if int8_overflows() else "overflow_fix=DISABLE"
    return Answer(
        asked={"max_drop": MAX_DROP, "drop_type": "ABSOLUTE", "model_type": "TRANSFORMER", "calibration": CALIBRATION},
        answered={"validation_top1_base": judged[0], "validation_top1": judged[1:], "validations": len(judged)},
        notes=[fix],
    )


def int8_overflows() -> bool:
    """Whether sums of int8 products can overflow: on CPUs without VNNI."""
    return not {"avx512_vnni", "avx_vnni"}.intersection(sousvit.machine_facts()["flags"])


def _for_this_cpu() -> Any:
    """NNCF's documentation asks for the reduced weight range on CPUs without VNNI."""
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix

    return AdvancedQuantizationParameters(overflow_fix=OverflowFix.ENABLE if int8_overflows() else OverflowFix.DISABLE)


if __name__ == "__main__":
    given = arguments(__doc__).parse_args()
    sys.exit(drive("NNCF accuracy control", work, given, ("nncf", "openvino")))
