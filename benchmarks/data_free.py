"""One recipe three ways: calibrated only, recovered without data, recovered on real data; accuracy side by side.

    python benchmarks/data_free.py --data-root DIR
    python benchmarks/data_free.py --data-root DIR --model VIT.safetensors --name data_free_cifar10

``DIR`` holds Fashion-MNIST's IDX files, or ``train.parquet`` and ``test.parquet`` (CIFAR-10); the model is the embedded
Fashion-MNIST base unless another one is named. Real and synthesised recovery take the same number of steps with the
same parameters. Every artifact is judged in ONNX Runtime on the test images. Writes ``results/<name>.md`` (the table,
with command, machine, versions and date) and ``.csv`` (raw).
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from on_cifar10 import RESULTS

from sousvit.common.cache import TensorCache
from sousvit.common.cpu import int8_saturates
from sousvit.common.data import DataSpec, ImageSet, Splits
from sousvit.common.device import available_cores
from sousvit.common.model import LoadedModel, load
from sousvit.common.specs import ModelSpec
from sousvit.objectives.runtimes.runtime import open_session
from sousvit.objectives.targets.machine import machine_facts
from sousvit.objectives.tasks.classification import Evaluation, evaluate, interval, paired_difference
from sousvit.spaces.builder import ModelBuilder
from sousvit.spaces.export import make_artifact
from sousvit.spaces.recipe import Recipe, Step
from sousvit.spaces.synthesis.config import SynthesisConfig
from sousvit.spaces.synthesis.supply import Supply
from sousvit.spaces.teacher import Teacher
from sousvit.spaces.technique import Context

EXAMPLE = Path(__file__).parents[1] / "examples" / "fashion-mnist" / "base.safetensors"
RUNTIME = "onnxruntime"
INT8 = Step.make("static_int8", weights="int7" if int8_saturates() else "int8", clip="mse", smoothing="none")


@dataclass(frozen=True)
class Result:
    """One line of the table."""

    recipe: str
    way: str
    top1: float
    top1_low: float
    top1_high: float
    drop: float
    drop_low: float
    drop_high: float
    seconds: float


class Bench:
    """Builds recipes and judges their artifacts on the test images."""

    def __init__(self, base: LoadedModel, test: ImageSet, folder: Path) -> None:
        self._base, self._test, self._folder = base, test, folder
        self._cache = TensorCache(folder)  # a recovered model is trained once, for both its artifacts
        self._reference = self._evaluated(Recipe((), RUNTIME), Context(base.normalise))

    def base_row(self) -> Result:
        """The uncompressed base."""
        return self._row("base", "fp32", self._reference, 0.0)

    def judged(self, name: str, way: str, recipe: Recipe, context: Context) -> Result:
        """One recipe on the images of ``context``."""
        begun = time.monotonic()
        result = self._row(name, way, self._evaluated(recipe, context), time.monotonic() - begun)
        print(f"{name}, {way}: top-1 {100 * result.top1:.2f}, drop {100 * result.drop:+.2f}", flush=True)
        return result

    def _evaluated(self, recipe: Recipe, context: Context) -> Evaluation:
        base = self._base
        model = ModelBuilder(base, context, self._cache).build(recipe)
        shape = (1, base.channels, *base.size)
        folder = self._folder / "artifact"
        artifact = make_artifact(model, shape, base.mean, base.std, RUNTIME, recipe.deploy_step, context, folder)
        with open_session(artifact, available_cores()) as session:
            return evaluate(session, self._test, base.normalise)

    def _row(self, name: str, way: str, found: Evaluation, seconds: float) -> Result:
        drop = paired_difference(self._reference, found)
        return Result(name, way, found.top1, *interval(found), *drop, seconds)


def rows(given: argparse.Namespace, bench: Bench, real: Context, made: Context) -> Iterator[Result]:
    """Every recipe every way."""
    yield bench.base_row()
    for way, context in (("calibrated, synthesised", made), ("calibrated, real", real)):
        yield bench.judged("int8", way, Recipe((INT8,), RUNTIME), context)
    pruned, bare = (
        (Step.make("prune_mlp", keep=given.keep, **how), Step.make("prune_heads", keep=given.keep_heads, **how))
        for how in ({}, {"importance": "magnitude", "compensate": False})
    )
    yield bench.judged("pruned", "no images", Recipe(bare, RUNTIME), real)
    for name, last in (("pruned", ()), ("pruned + int8", (INT8,))):
        for source, context in (("synthesised", made), ("real", real)):
            yield bench.judged(name, f"calibrated, {source}", Recipe((*pruned, *last), RUNTIME), context)
        for source, context in (("synthesised", made), ("real", real)):
            assert context.train is not None
            epochs = max(1, round(given.passes / len(context.train)))
            recovery = Step.make("distill", epochs=epochs, num_views=given.views, learning_rate=given.learning_rate)
            yield bench.judged(name, f"recovered, {source}", Recipe((*pruned, recovery, *last), RUNTIME), context)


def goals(found: list[Result]) -> list[str]:
    """How far the goals are reached, in words."""
    top1 = {(row.recipe, row.way): 100 * row.top1 for row in found}
    int8 = top1["int8", "calibrated, real"] - top1["int8", "calibrated, synthesised"]
    lines = [f"int8 calibrated on synthesised images: {int8:.2f} points below real ones (goal: at most 0.5)."]
    for name in ("pruned", "pruned + int8"):
        best = top1[name, "recovered, real"]
        own = top1[name, "recovered, synthesised"]
        for start in ("no images", "calibrated, synthesised", "calibrated, real"):
            if (name, start) in top1:
                gap = best - top1[name, start]
                share = f"{100 * (own - top1[name, start]) / gap:.0f}%" if gap > 0 else "no gap"
                lines.append(f"{name}: from {top1[name, start]:.2f} ({start}) to {own:.2f} recovered without data, "
                             f"{best:.2f} on real data: {share} of that gap closed (goal: 50%).")  # fmt: skip
    return lines


def table(found: list[Result], given: argparse.Namespace, notes: list[str]) -> str:
    """The result as Markdown."""
    facts = machine_facts()
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items() if version)
    place = f"{facts['cpu']} ({', '.join(facts['flags'])}), {facts['cores']} cores"
    lines = [
        f"Command: `{_command(given)}`; {time.strftime('%Y-%m-%d')}; {place}; {versions}.",
        "",
        "Test images, 95% intervals; the drop is paired with the base.",
        "",
        "| recipe | images | top-1 % | drop, points | seconds |",
        "|---|---|---:|---:|---:|",
    ]
    for row in found:
        top1 = f"{100 * row.top1:.2f} [{100 * row.top1_low:.2f}, {100 * row.top1_high:.2f}]"
        drop = f"{100 * row.drop:+.2f} [{100 * row.drop_low:+.2f}, {100 * row.drop_high:+.2f}]"
        lines.append(f"| {row.recipe} | {row.way} | {top1} | {drop} | {row.seconds:.0f} |")
    return "\n".join([*lines, "", *(f"* {note}" for note in notes)]) + "\n"


def _command(given: argparse.Namespace) -> str:
    shown = {"data_root": "DIR", "model": "VIT.safetensors"}
    parts = []
    for name, value in vars(given).items():
        if value != PARSER.get_default(name):
            parts.append(f"--{name.replace('_', '-')} {shown.get(name, value)}")
    return " ".join(["python benchmarks/data_free.py", *parts])


def data_spec(root: Path, limit_train: int | None) -> DataSpec:
    """Fashion-MNIST's IDX files or CIFAR-10's parquet files in ``root``; the last tenth is no training data."""
    files = [sorted(root.glob(pattern)) for pattern in ("train*images*", "t*k-images*", "test-images*")]
    if (root / "train.parquet").is_file():
        names: dict[str, Any] = {"format": "parquet", "train": "train.parquet", "test": "test.parquet"}
    else:
        train, *tests = files
        names = {"format": "idx", "train": train[0].name, "test": next(found[0].name for found in tests if found)}
    return DataSpec(**names, validation=0.1, limit_train=limit_train).resolved(root)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=EXAMPLE)
    parser.add_argument("--limit-train", type=int, default=None, help="real training images")
    parser.add_argument("--limit-test", type=int, default=None)
    parser.add_argument("--keep", type=float, default=0.5, help="share of MLP units")
    parser.add_argument("--keep-heads", type=float, default=1 / 3, help="share of heads")
    parser.add_argument("--passes", type=int, default=40_000, help="images that recovery reads, repeats included")
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--method", default="scenes")
    parser.add_argument("--images", type=int, default=2048, help="synthesised images")
    parser.add_argument("--steps", type=int, default=None, help="of synthesis")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="data_free")
    parser.add_argument("--cache", type=Path, default=None, help="keeps synthesised images between calls")
    return parser


PARSER = _parser()


def main() -> int:
    """Synthesise, build, judge, write."""
    given = PARSER.parse_args()
    base = load(ModelSpec(checkpoint=str(given.model.resolve())).resolved(Path()))
    splits = Splits(data_spec(given.data_root.resolve(), given.limit_train), base.size, base.channels)
    test = splits.open_test()
    test = test if given.limit_test is None else test.spread(given.limit_test)
    real = Context(base.normalise, splits.calibration(), splits.train, Teacher(base, splits.train), seed=given.seed)
    config = SynthesisConfig(method=given.method, images=given.images, steps=given.steps)
    begun = time.monotonic()
    cache = None if given.cache is None else TensorCache(given.cache)
    supplied = Supply(base, given.seed, cache=cache)(config)
    taken = time.monotonic() - begun
    print(f"{given.images} images synthesised in {taken:.0f} s", flush=True)
    made = replace(real, calibration=supplied.calibration, train=supplied.train, teacher=supplied.teacher)
    folder = Path(tempfile.mkdtemp())
    try:
        found = list(rows(given, Bench(base, test, folder), real, made))
    finally:
        shutil.rmtree(folder)
    notes = [f"{given.images} images synthesised by {given.method} in {taken:.0f} s.", *goals(found)]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{given.name}.md").write_text(table(found, given, notes))
    pd.DataFrame([asdict(row) for row in found]).to_csv(RESULTS / f"{given.name}.csv", index=False)
    print("\n".join(notes))
    return 0


if __name__ == "__main__":
    sys.exit(main())
