"""YAML files that are no budgets, changed: each is read as its command reads it, or refused in one line."""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from sousvit.objectives.objective import OBJECTIVES
from sousvit.objectives.targets.profiles import load_target
from sousvit.registry import restored
from sousvit.search.judging.build import RecipeFile, read_data, require_buildable
from sousvit.search.replay.table import Table
from sousvit.spaces.space import read_space
from sousvit.spaces.training.base import read_training
from tests.campaign.budgets import KEYS, LEGAL, SCALARS
from tests.campaign.files import write_idx_pair, write_recorded
from tests.campaign.outcome import Outcome, chance_of, fault_of
from tests.campaign.run_files import MUTATIONS
from tests.hostile import mutated

#: Seconds of the processor; a recorded table is read with its rows.
MOST_SECONDS = 2.0
KEY = rb"[A-Za-z_0-9]+(?=:)"
VALUE = rb"(?<=[:,\[] )[^\s,\[\]{}:][^,\[\]{}:\n]*|[\[{][^\[\]{}\n]*[\]}]"
MODEL = """\
model:
  name: vit_tiny_patch16_224
  args: {img_size: 8, patch_size: 4, embed_dim: 32, depth: 2, num_heads: 2, num_classes: 3}
  mean: [0.5, 0.5, 0.5]
  std: [0.25, 0.25, 0.25]
"""
DATA = """\
data:
  format: idx
  train: train-images.idx.gz
  test: train-images.idx.gz
  validation: {last: 2}
  calibration: 4
"""
RECIPE = """\
# accuracy_drop 0.0041, latency_ratio 0.41
recipe:
  runtime: onnxruntime
  steps:
  - {technique: prune_mlp, keep: 0.5, importance: activation, allocation: uniform}
  - {technique: distill, epochs: 3, learning_rate: 0.001, soft_weight: 0.7, num_views: 2}
  - {technique: int8_dynamic}
fidelity: 0.5
seed: 3
"""
TRAINING = """\
training:
  epochs: 8
  learning_rate: 0.01
  batch_size: 128
  label_smoothing: 0.1
  augmentation: flip
"""
TARGET = """\
device: stand-in
runtime: [onnxruntime, openvino]
threads: 1
batch: 1
cores: 1
memory: 128 MB
timeout: 60
summary: one core and 128 MB of this machine
"""
SPACE = """\
summary: a few techniques
techniques:
  prune_mlp: {keep: [0.5, 0.75], importance: [activation], allocation: [uniform]}
  prune_depth: {}
  distill: {epochs: [3], learning_rate: [0.001], soft_weight: [0.7], num_views: [2]}
  student: {model: [residual], width: [32], depth: [1]}
  int8_dynamic: {}
"""


@dataclass(frozen=True)
class Form:
    """A YAML file as people write it, and what its commands do with it before they load anything."""

    text: str
    read: Callable[[Path], Any]


def read_recipe(path: Path) -> None:
    """As ``apply`` does."""
    file = RecipeFile.read(path)
    require_buildable(file.recipe, path.with_name("out"))
    assert 0 <= file.fidelity <= 1 and file.seed >= 0
    file.model()
    file.data()


def read_inputs(path: Path) -> None:
    """As ``apply --model FILE --data FILE`` does."""
    RecipeFile.read(path.with_name("recipe.yaml")).model(str(path))
    read_data(path)


def read_table(path: Path) -> None:
    """As ``replay`` does."""
    with restored(OBJECTIVES):
        table = Table.read(path)
        table.points()
        assert table.ladder and table.directions


FORMS: dict[str, Form] = {
    "recipe": Form(RECIPE + MODEL + DATA, read_recipe),
    "model and data": Form(MODEL + DATA, read_inputs),
    "training": Form(MODEL + DATA + TRAINING, read_training),
    "target": Form(TARGET, load_target),
    "space": Form(SPACE, lambda path: read_space(str(path))),
    "recorded table": Form("", read_table),
}


def attacks(numbers: range, seed: int) -> Iterator[Outcome]:
    """A file of each form in turns; whole ones are read before."""
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        whole = _written(folder)
        for name, text in whole.items():
            FORMS[name].read(_file(folder, text))
        for number in numbers:
            name = list(FORMS)[number % len(FORMS)]
            text = changed(whole[name], chance_of(seed, number))
            yield Outcome(f"YAML, {name}", _finding(FORMS[name], _file(folder, text), text))
            for extra in folder.glob("out*"):
                shutil.rmtree(extra)


def _written(folder: Path) -> dict[str, bytes]:
    """The text of each form; what they name lies beside them."""
    write_idx_pair(folder)
    table = write_recorded("csv")(folder).read_bytes()
    (folder / "recipe.yaml").write_text(RECIPE)
    return {name: form.text.encode() or table for name, form in FORMS.items()}


def _file(folder: Path, text: bytes) -> Path:
    path = folder / "changed.yaml"
    path.write_bytes(text)
    return path


def _finding(form: Form, path: Path, text: bytes) -> str:
    begun = time.process_time()
    try:
        form.read(path)
        fault = ""
    except Exception as error:
        fault = fault_of(error)
    seconds = time.process_time() - begun
    fault = fault or (f"it took {seconds:.1f} s" if seconds > MOST_SECONDS else "")
    return f"{fault}: {text!r}" if fault else ""


def changed(text: bytes, chance: Random) -> bytes:
    """The text after one to three changes: bytes, lines, values, keys."""
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        text = chance.choice((_other_bytes, _other_lines, _other_value, _other_value, _other_key, _new_line))(
            text, chance
        )
    return text


def _other_bytes(text: bytes, chance: Random) -> bytes:
    return mutated(text, chance)[1]


def _other_lines(text: bytes, chance: Random) -> bytes:
    return chance.choice(list(MUTATIONS.values()))(text, chance) if text.strip() else text


def _other_value(text: bytes, chance: Random) -> bytes:
    """Another value in the place of one that follows a colon, a comma or a bracket, or of a whole pair of brackets."""
    return _replaced(VALUE, (*SCALARS, *LEGAL), text, chance)


def _other_key(text: bytes, chance: Random) -> bytes:
    return _replaced(KEY, (*KEYS, *_keys(text)), text, chance)


def _keys(text: bytes) -> list[str]:
    return [found.decode() for found in re.findall(KEY, text)]


def _replaced(pattern: bytes, others: tuple[str, ...], text: bytes, chance: Random) -> bytes:
    places = list(re.finditer(pattern, text))
    if not places:
        return text
    place = chance.choice(places)
    return text[: place.start()] + chance.choice(others).encode() + text[place.end() :]


def _new_line(text: bytes, chance: Random) -> bytes:
    lines = text.splitlines(keepends=True)
    indent = " " * chance.choice((0, 0, 2, 4))
    line = f"{indent}{chance.choice((*KEYS, *_keys(text)))}: {chance.choice((*SCALARS, *LEGAL))}\n"
    lines.insert(chance.randint(0, len(lines)), line.encode())
    return b"".join(lines)
