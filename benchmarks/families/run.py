"""Every family of image classifiers with every way to deploy it: what works, and the line that the others give.

    python benchmarks/families/run.py
    python benchmarks/families/run.py --family BEiT "Swin v2" --way "onnxruntime qat"

Each model is tiny and has random weights: what is tried is whether it exports, quantizes, opens in the runtime and
computes what PyTorch computes. Writes ``raw.csv``, whose rows are tried again only where they are asked for,
``result.md``, and the table of docs/families.md. All of it takes about an hour on one core, half of it for LiteRT. It
measures exporters and quantizers themselves, from inside.
"""

from __future__ import annotations

import argparse
import copy
import csv
import re
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch

from sousvit.data.memory import memory_set
from sousvit.errors import TrialError, UserError
from sousvit.machine import int8_saturates
from sousvit.objectives.runtimes.parity import check_parity
from sousvit.objectives.runtimes.runtime import open_session
from sousvit.spaces.builder import apply_steps
from sousvit.spaces.conformance import FlatTeacher, exported
from sousvit.spaces.context import Context
from sousvit.spaces.module_shape import shape_of
from sousvit.spaces.recipe import Recipe, Step
from sousvit.spaces.technique import DeployTechnique

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
from common.provenance import provenance, write_result
from families import CLASSES, FAMILIES, Family

HERE = Path(__file__).parent
WEIGHTS = "int7" if int8_saturates() else "int8"
#: Ways to deploy, by the headings of their columns: a technique (None is the model as it is) and a runtime.
WAYS: dict[str, tuple[Step | None, str]] = {
    "onnxruntime": (None, "onnxruntime"),
    "onnxruntime fp16": (Step.make("fp16"), "onnxruntime"),
    "onnxruntime int8_dynamic": (Step.make("int8_dynamic", weights=WEIGHTS), "onnxruntime"),
    "onnxruntime weight_only": (Step.make("weight_only"), "onnxruntime"),
    "onnxruntime static_int8": (Step.make("static_int8", weights=WEIGHTS), "onnxruntime"),
    "onnxruntime qat": (Step.make("qat", weights=WEIGHTS, epochs=2, num_views=1), "onnxruntime"),
    "openvino": (None, "openvino"),
    "openvino bf16": (Step.make("bf16"), "openvino"),
    "openvino weight_only": (Step.make("weight_only"), "openvino"),
    "openvino static_int8": (Step.make("static_int8", weights=WEIGHTS), "openvino"),
    "openvino ptq_int8": (Step.make("ptq_int8", samples=16), "openvino"),
    "torch": (None, "torch"),
    "litert": (None, "litert"),
    "litert litert_dynamic": (Step.make("litert_dynamic"), "litert"),
}
IMAGES = 24
#: The relative error from which on an artifact computes something else, also one that rounds: these models have random
#: weights, which forgive less than trained ones.
ROUNDED = 1.0
#: Where packages lie on this machine, which converters name in their messages.
INSTALLED = re.compile(r"\S*/site-packages/")
DOCUMENT = HERE.parents[1] / "docs" / "families.md"
BEGIN, END = "<!-- made by benchmarks/families/run.py -->\n", "<!-- end -->\n"


@dataclass(frozen=True)
class Outcome:
    """What became of one family deployed in one way.

    Attributes:
        error: relative error of the logits, of what PyTorch computes with the same rounding where it can; or "".
        line: why there is none.
        left_out: whether the technique says beforehand that it does not fit.
    """

    family: str
    way: str
    error: str = ""
    line: str = ""
    left_out: bool = False

    @property
    def works(self) -> bool:
        return not self.line


def attempt(name: str, way: str, folder: Path) -> Outcome:
    """Export, open and compare with PyTorch on eight images."""
    try:
        line = misfit(FAMILIES[name], way)
        if line is not None:
            return Outcome(name, way, line=line, left_out=True)
        error = relative_error(FAMILIES[name], way, folder)
    except (TrialError, UserError) as refused:
        return Outcome(name, way, line=INSTALLED.sub("", str(refused)))
    line = f"far from the PyTorch model: relative error {error:.2g}" if error > ROUNDED else ""
    return Outcome(name, way, f"{error:.1e}", line)


def misfit(family: Family, way: str) -> str | None:
    """Why a search leaves the technique out (one phrase), or None."""
    step, _ = WAYS[way]
    if step is None:
        return None
    return step.handler.misfit(shape_of(family.model(), family.name, (family.size, family.size), 3, CLASSES))


def relative_error(family: Family, way: str, folder: Path) -> float:
    """Of the deployed logits, as far as PyTorch can simulate the rounding.

    Raises:
        TrialError, UserError: the line that a user would read.
    """
    step, runtime = WAYS[way]
    recipe = Recipe(() if step is None else (step,), runtime)
    model, context = family.model(), context_for(family.size)
    if recipe.model_steps:
        model = apply_steps(model, recipe, replace(context, decisions={}))
    artifact = exported(model, recipe, context, folder / "artifact")
    if recipe.deploy_step is not None:
        handler = recipe.deploy_step.handler
        assert isinstance(handler, DeployTechnique)
        model = handler.prepare(copy.deepcopy(model), recipe.deploy_step.config, context)
    assert context.calibration is not None
    images = to_float(context.calibration.head(8).images()).numpy()
    with open_session(artifact, 1) as session:
        return check_parity(session, model, images, quantized=recipe.is_quantized).relative


def context_for(size: int) -> Context:
    """Images of noise to calibrate and train on, and a teacher without an opinion."""
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (IMAGES, 3, size, size), dtype=np.uint8))
    images = memory_set("noise", pixels, torch.arange(IMAGES) % CLASSES, "noise")
    train = images.head(16)
    teacher = FlatTeacher(len(train), CLASSES)
    return Context(to_float, calibration=images, train=train, teacher=teacher, fidelity=0.25)


def to_float(images: torch.Tensor) -> torch.Tensor:
    """uint8 ``[B, C, H, W]`` to [-2, 2)."""
    return images.float() / 64 - 2


def read(path: Path) -> dict[tuple[str, str], Outcome]:
    """The rows of an earlier table, by family and way."""
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        rows = [Outcome(**{**row, "left_out": row["left_out"] == "True"}) for row in csv.DictReader(file)]
    return {(row.family, row.way): row for row in rows if row.family in FAMILIES and row.way in WAYS}


def write(path: Path, outcomes: Iterable[Outcome]) -> None:
    with path.open("w", newline="") as file:
        rows = csv.DictWriter(file, [field.name for field in fields(Outcome)], lineterminator="\n")
        rows.writeheader()
        rows.writerows(map(asdict, outcomes))


def table(found: dict[tuple[str, str], Outcome]) -> str:
    """Markdown: a row a family, ``Y`` or the number of a line below; empty where it was not tried."""
    ways = [way for way in WAYS if any(way == tried for _, tried in found)]
    reasons: dict[str, int] = {}
    text = [f"| family | timm's | {' | '.join(ways)} |", "|---|---|" + "---|" * len(ways)]
    for family in (family for family in FAMILIES if any(family == tried for tried, _ in found)):
        cells = []
        for way in ways:
            one = found.get((family, way))
            number = 0 if one is None or one.works else reasons.setdefault(one.line, len(reasons) + 1)
            cells.append(
                "" if one is None else "Y" if one.works else f"({number})" if one.left_out else f"**{number}**"
            )
        text.append(f"| {family} | `{FAMILIES[family].name}` | {' | '.join(cells)} |")
    lines = [f"{number}. {line.replace('<', '&lt;')}" for line, number in reasons.items()]
    return "\n".join([*text, "", *lines]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", nargs="*", default=[], choices=FAMILIES, help="tried again")
    parser.add_argument("--way", nargs="*", default=[], choices=WAYS, help="tried again")
    parser.add_argument("--table", action="store_true", help="try nothing, write the tables of what was tried")
    given = parser.parse_args()
    torch.set_num_threads(1)
    found, asked = read(HERE / "raw.csv"), bool(given.family or given.way)
    for way in given.way or WAYS:
        for family in given.family or FAMILIES:
            if not given.table and (asked or (family, way) not in found):
                begun = time.monotonic()
                with tempfile.TemporaryDirectory() as folder:
                    found[family, way] = attempt(family, way, Path(folder))
                one = found[family, way]
                write(HERE / "raw.csv", found.values())
                print(f"{time.monotonic() - begun:5.1f} s {family} | {way} | {one.error} {one.line}", file=sys.stderr)
    worked = sum(one.works for one in found.values())
    left_out = sum(one.left_out for one in found.values())
    summary = f"{worked} of {len(found)} work, {left_out} are left out by their technique (numbers in brackets).\n"
    head = ["# Families", "", *provenance("python benchmarks/families/run.py")]
    write_result(HERE / "result.md", "\n".join([*head, summary, table(found)]))
    page = DOCUMENT.read_text()
    before, after = page.partition(BEGIN)[0], page.partition(END)[2]
    DOCUMENT.write_text(before + BEGIN + summary + "\n" + table(found) + END + after)


if __name__ == "__main__":
    main()
