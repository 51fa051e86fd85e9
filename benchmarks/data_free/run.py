"""One recipe with and without data: calibrated only, recovered without data, recovered on real data, side by side.

    python benchmarks/data_free/run.py --data DIR
    python benchmarks/data_free/run.py --data DIR --model VIT.safetensors
    python benchmarks/data_free/run.py --data DIR --model examples/bccd/base.safetensors --steps 780

``DIR`` holds Fashion-MNIST's four IDX files, ``train.parquet`` and ``test.parquet`` (CIFAR-10), or BCCD's VOC folders;
the model is the embedded Fashion-MNIST base unless another one is named. Images are synthesised in every way that
``--methods`` lists. Real and synthesised recovery take the same number of steps with the same parameters; a tenth of
the real images, drawn at random (of BCCD its validation part), is left out as validation would be. Every artifact is
judged in ONNX Runtime on the test images. Writes ``raw_DATASET.json`` and ``result_DATASET.md`` (the table,
with command, machine, versions and date).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

import sousvit
from sousvit import Recipe, Step

sys.path.insert(0, str(Path(__file__).parents[1]))
from common.provenance import provenance, write_result

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "examples"
EXAMPLE = EXAMPLES / "fashion-mnist" / "base.safetensors"
#: How a detector is recovered, as in examples/bccd.
OF_DETECTOR = {"batch_size": 16, "augmentation": "zoom_turn", "feature_weight": 1.0, "learning_rate": 0.002}
REAL = "real"
METHODS = ("scenes", "inversion", "generator")
#: What the task's figure of merit is called.
HEADINGS = {"top1": "top-1 %", "map50": "mAP50 %"}
Interval = tuple[float, float, float]


@dataclass(frozen=True)
class Result:
    """One line of the table: a recipe, where its images came from, and what it predicts on the test images."""

    recipe: str
    way: str
    seconds: float
    found: Any


@dataclass(frozen=True)
class Way:
    """Where images come from: a workshop, the step that makes them where there are none, and how many they are."""

    workshop: sousvit.Workshop
    supply: tuple[Step, ...]
    images: int


def judged(
    given: argparse.Namespace, name: str, told: str, way: Way, steps: tuple[Step, ...], fidelity: float = 1.0
) -> Result:
    """One recipe on the images of ``way``, as its artifact predicts the test images."""
    begun = time.monotonic()
    recipe = Recipe((*way.supply, *steps), "onnxruntime")
    found = way.workshop.evaluate(recipe, "test", limit=given.limit_test, fidelity=fidelity)
    print(f"{name}, {told}: {percent(found)}", flush=True)
    return Result(name, told, time.monotonic() - begun, found)


def rows(given: argparse.Namespace, ways: Mapping[str, Way], how: Mapping[str, Any]) -> Iterator[Result]:
    """Every recipe on every kind of images; ``how`` models are recovered."""
    int8 = Step.make("static_int8", weights="int7" if int8_overflows() else "int8", clip="mse", smoothing="none")
    yield judged(given, "base", "fp32", ways[REAL], ())
    for told, way in ways.items():
        yield judged(given, "int8", f"calibrated, {told}", way, (int8,))
    yield judged(given, "pruned", "no images", ways[REAL], pruned(given, importance="magnitude", compensate=False))
    for name, last in (("pruned", ()), ("pruned + int8", (int8,))):
        for told, way in ways.items():
            yield judged(given, name, f"calibrated, {told}", way, (*pruned(given), *last))
        for told, way in ways.items():
            recovery, fidelity = recovery_of(given, way.images, how)
            yield judged(given, name, f"recovered, {told}", way, (*pruned(given), recovery, *last), fidelity)


def int8_overflows() -> bool:
    """Whether sums of int8 products can overflow: on CPUs without VNNI."""
    return not {"avx512_vnni", "avx_vnni"}.intersection(sousvit.machine_facts()["flags"])


def pruned(given: argparse.Namespace, **how: Any) -> tuple[Step, Step]:
    """The steps that prune."""
    return Step.make("prune_heads", keep=given.keep_heads, **how), Step.make("prune_mlp", keep=given.keep, **how)


def recovery_of(given: argparse.Namespace, images: int, how: Mapping[str, Any]) -> tuple[Step, float]:
    """The training, and the share of its whole epochs that makes ``given.steps`` steps of it."""
    told = {"num_views": given.views, "learning_rate": given.learning_rate, "soft_weight": given.soft_weight, **how}
    in_epoch = max(1, images // Step.make("distill", **told).config.batch_size)
    epochs = -(-given.steps // in_epoch)
    return Step.make("distill", **told, epochs=epochs), given.steps / (epochs * in_epoch)


def goals(found: list[Result], methods: list[str]) -> list[str]:
    """How far the goals are reached, in words."""
    by = {(row.recipe, row.way): row.found for row in found}
    lines = []
    for method in methods:
        drop = by["int8", f"calibrated, {method}"].merit_drop(by["int8", f"calibrated, {REAL}"])
        lines.append(f"int8 on {method}: {points(drop)} points below int8 on real images (goal: at most 0.5).")
        for name, starts in (
            ("pruned", ("no images", f"calibrated, {method}", f"calibrated, {REAL}")),
            ("pruned + int8", (f"calibrated, {method}", f"calibrated, {REAL}")),
        ):
            own, best = by[name, f"recovered, {method}"], by[name, f"recovered, {REAL}"]
            for start in starts:
                share = gap_closed(by[name, start], own, best)
                told = "none to close" if share is None else "{:.0%} [{:.0%}, {:.0%}]".format(*share)
                lines.append(
                    f"{name}, from {percent(by[name, start])} ({start}): {percent(own)} recovered on "
                    f"{method}, {percent(best)} on real images; gap closed: {told} (goal: 50%)."
                )
    return lines


def percent(found: Any) -> str:
    """The figure of merit."""
    return f"{100 * found.merit()[0]:.2f}"


def gap_closed(start: Any, own: Any, best: Any) -> Interval | None:
    """Which share of what real data recover ``own`` recovers, with its 95% bootstrap interval over images."""
    low, middle, high = (one.merit()[0] for one in (start, own, best))
    if high <= low:
        return None
    draws = zip(*(one.resampled_merit() for one in (start, own, best)), strict=True)
    shares = [(own - start) / (best - start) for start, own, best in draws if best > start]
    return (middle - low) / (high - low), *(float(end) for end in np.quantile(shares, (0.025, 0.975)))


def points(value: Interval) -> str:
    """A difference of shares in points."""
    return f"{100 * value[0]:+.2f} [{100 * value[1]:+.2f}, {100 * value[2]:+.2f}]"


def described(row: Result, base: Result) -> dict[str, Any]:
    """A result as plain values."""
    merit, drop = row.found.merit(), row.found.merit_drop(base.found)
    return {"recipe": row.recipe, "images": row.way, "merit": merit, "drop": drop, "seconds": row.seconds}


def table(raw: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = [
        *provenance(raw["command"], raw["machine"], raw["date"]),
        f"{raw['test_images']} test images, 95% intervals; the drop is paired with the base.",
        "",
        f"| recipe | images | {raw['heading']} | drop, points | seconds |",
        "|---|---|---:|---:|---:|",
    ]
    for row in raw["rows"]:
        merit, low, high = (100 * value for value in row["merit"])
        lines.append(
            f"| {row['recipe']} | {row['images']} | {merit:.2f} [{low:.2f}, {high:.2f}] | {points(row['drop'])} "
            f"| {row['seconds']:.0f} |"
        )
    return "\n".join([*lines, "", *(f"* {note}" for note in raw["notes"])]) + "\n"


def command(given: argparse.Namespace, parser: argparse.ArgumentParser) -> str:
    """What was asked, without the machine's own paths."""
    shown, parts = {"data": "DIR", "model": "VIT.safetensors"}, ["python benchmarks/data_free/run.py"]
    for name, value in vars(given).items():
        if value != parser.get_default(name):
            text = " ".join(map(str, value)) if isinstance(value, list) else value
            parts.append(f"--{name.replace('_', '-')} {shown.get(name, text)}")
    return " ".join(parts)


def data_spec(root: Path, limit_train: int | None) -> tuple[str, sousvit.Data]:
    """The data set's name and its files in ``root``.

    Raises:
        UserError: neither kind of files is there.
    """
    if (root / "ImageSets").is_dir():
        files = yaml.safe_load((EXAMPLES / "bccd" / "budget.yaml").read_text())["data"]
        return "bccd", sousvit.Data.model_validate({**files, "limit_train": limit_train}).resolved(root)
    if all((root / f"{part}.parquet").is_file() for part in ("train", "test")):
        name, files = "cifar10", {"format": "parquet", "train": "train.parquet", "test": "test.parquet"}
    else:
        train, test = (sorted(root.glob(pattern)) for pattern in ("train*images*", "t[1e]*images*"))
        if not (train and test):
            rule = "the folder holds train and test as parquet or IDX files, or VOC's folders"
            raise sousvit.UserError(rule, f"neither in {root}", "correct --data")
        name, files = "fashion_mnist", {"format": "idx", "train": train[0].name, "test": test[0].name}
    spec = {**files, "validation": 0.1, "limit_train": limit_train}
    return name, sousvit.Data.model_validate(spec).resolved(root)


def without_images(data: sousvit.Data) -> dict[str, Any]:
    """The same test images, and no others: what a recipe looks at it synthesises."""
    kept = data.model_dump(include={"format", "test", "classes", "images"}, exclude_none=True)
    unused = {"validation": 16, "synthesis": {"images": 16}}  # every recipe here brings its own
    return {**kept, "train": "none", **unused}


def arguments() -> argparse.ArgumentParser:
    """What may be asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=EXAMPLE)
    parser.add_argument("--limit-train", type=int, default=None, help="real training images")
    parser.add_argument("--limit-test", type=int, default=None)
    parser.add_argument("--keep", type=float, default=0.5, help="share of MLP units")
    parser.add_argument("--keep-heads", type=float, default=1 / 3, help="share of heads")
    parser.add_argument("--steps", type=int, default=320, help="of recovery, 128 images each (a detector's: 16)")
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--soft-weight", type=float, default=0.7, help="of the base's answers; labels have the rest")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--images", type=int, default=2048, help="synthesised images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE, help="folder of the results")
    return parser


def main() -> int:
    """Synthesise, build, judge, write."""
    parser = arguments()
    given = parser.parse_args()
    name, data = data_spec(given.data.resolve(), given.limit_train)
    real = sousvit.Workshop(given.model, train=data, seed=given.seed)
    none = sousvit.Workshop(given.model, train=without_images(data), seed=given.seed)
    images = len(real.images("train")[1])
    ways = {REAL: Way(real, (), images)}
    left = Recipe(pruned(given)).reshape(real.shape)
    notes = [
        f"Pruned: {left.params() / real.shape.params():.0%} of the parameters and "
        f"{left.macs() / real.shape.macs():.0%} of the MACs are left. Recovery: {given.steps} steps; {images} real "
        f"images, {given.images} synthesised."
    ]
    for method in given.methods:
        supply = Step.make("synthesize", method=method, images=given.images)
        ways[method], begun = Way(none, (supply,), given.images), time.monotonic()
        none.model(Recipe((supply, *pruned(given))))  # makes the images, and looks at some
        notes.append(f"{given.images} images synthesised by {method} in {time.monotonic() - begun:.0f} s.")
        print(notes[-1], flush=True)
    found = list(rows(given, ways, OF_DETECTOR if name == "bccd" else {}))
    raw = {
        "command": command(given, parser),
        "date": time.strftime("%Y-%m-%d"),
        "machine": sousvit.machine_facts(),
        "settings": {key: value for key, value in vars(given).items() if key not in ("data", "model", "out")},
        "heading": HEADINGS[next(iter(found[0].found.figures()))],
        "test_images": len(real.images("test", given.limit_test)[1]),
        "rows": [described(row, found[0]) for row in found],
        "notes": [*notes, *goals(found, given.methods)],
    }
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / f"raw_{name}.json").write_text(json.dumps(raw, indent=1) + "\n")
    write_result(given.out / f"result_{name}.md", table(raw))
    print(table(raw))
    return 0


if __name__ == "__main__":
    sys.exit(main())
