"""The contract of a technique: our techniques and a plug-in pass its suite, and declarations are read without torch."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import ClassVar

import pytest

from sousvit.errors import MissingPackageError, UserError
from sousvit.registry import restored
from sousvit.spaces.conformance import check_technique, tiny_vit
from sousvit.spaces.context import Context
from sousvit.spaces.module_shape import vit_shape
from sousvit.spaces.needs import Needs
from sousvit.spaces.recipe import Recipe, Step
from sousvit.spaces.shape import OtherShape
from sousvit.spaces.technique import TECHNIQUES, ModelTechnique, Role, Stage, StepConfig, Technique, techniques

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "extending.md"


@pytest.fixture
def scratch_registry() -> Iterator[None]:
    """Plug-ins registered in a test are forgotten after it."""
    with restored(TECHNIQUES):
        yield


@pytest.mark.parametrize("technique", list(techniques()), ids=lambda technique: technique.name)
def test_every_technique_passes_the_suite_that_plugins_run(technique: Technique) -> None:
    if technique.needs.missing() is not None:
        pytest.skip(str(technique.needs.missing()))
    others = [runtime for runtime in technique.runtimes if runtime != "litert"]  # whose conversions take seconds
    check_technique(technique, others or technique.runtimes)


def test_the_plugin_of_the_page_on_extending_passes(scratch_registry: None, tmp_path: Path) -> None:
    blocks = re.findall(r"^```python run\n(.*?)^```$", PAGE.read_text(), re.S | re.M)
    [source] = [block for block in blocks if "(ModelTechnique)" in block]
    assert len(source.splitlines()) <= 30
    (tmp_path / "keep_first.py").write_text(source)
    check_technique(TECHNIQUES.load("keep_first.py:KeepFirst", tmp_path))
    recipe = Recipe((Step.make("keep_first", blocks=2), Step.make("int8_dynamic")))
    assert recipe.reshape(vit_shape(tiny_vit())).depth == 2 and recipe.is_repaired


def test_a_made_up_plugin_of_the_tests_passes(scratch_registry: None) -> None:
    check_technique(TECHNIQUES.load("toy_technique.py:ClipWeights", TESTS))


def test_a_technique_is_checked_without_being_registered_and_not_registered_by_it() -> None:
    check_technique(Good)
    check_technique(Good())
    assert "good" not in TECHNIQUES


class WidthConfig(StepConfig):
    blocks: int = 2


class Good(ModelTechnique):
    """Keeps two blocks."""

    name: ClassVar[str] = "good"
    stage: ClassVar[Stage] = Stage.STRUCTURE
    config: ClassVar[type[StepConfig]] = WidthConfig
    needs: ClassVar[Needs] = Needs(images=False)
    summary: ClassVar[str] = "two blocks"
    source: ClassVar[str] = "none"

    def choices(self, shape):
        return {"blocks": (2,)}

    def reshape(self, shape, config):
        return shape.with_blocks(shape.blocks[:2])

    def apply(self, model, config, context: Context):
        model.blocks = model.blocks[:2]
        return model.eval()


def drop_by_data(self, model, config, context):
    model.blocks = model.blocks[: 2 if context.calibration is None else 1]
    return model.eval()


def shuffled(self, model, config, context):
    model.blocks = model.blocks[:2]
    model.cls_token.data += context.calibration is not None
    return model.eval()


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"summary": "two\nlines"}, "summary must be one line"),
        ({"name": "Not Good"}, "the name of a technique is snake_case"),
        ({"name": "prune_mlp"}, "technique names are unique"),
        ({"role": "compress"}, "a technique's role is of the class Role"),
        ({"needs": {"images": False}}, "a technique's needs is of the class Needs"),
        ({"choices": lambda self, shape: {"block": (2,)}}, "no parameters"),
        ({"suits": lambda self, runtime: False}, "suits no runtime"),
        ({"is_identity": lambda self, config, shape: True}, "reshape changes the shape"),
        ({"reshape": lambda self, shape, config: shape}, "another shape than apply left"),
        ({"apply": drop_by_data}, "another shape than apply left"),
        ({"apply": shuffled}, "needs no images"),
        ({"apply": lambda self, model, config, context: Good.apply(self, model, config, context).train()}, "eval mode"),
        ({"role": Role.REPAIR}, "leaves the structure alone"),
        ({"needs": Needs(images=False, plain_vit=True), "unmet_need": lambda self, shape: "patches"}, "patches"),
    ],
)
def test_a_technique_that_breaks_a_rule_is_told_which(attributes, said) -> None:
    with pytest.raises(AssertionError, match=said):
        check_technique(type("Broken", (Good,), attributes))


@pytest.mark.parametrize("attributes", [{"stage": 2}, {"role": "compress"}, {"needs": {"images": False}}])
def test_a_plugin_with_a_wrong_declaration_is_one_clear_line(attributes, scratch_registry: None) -> None:
    [key] = attributes
    with pytest.raises(UserError, match=f"a technique's {key} is of the class {key.title()}") as caught:
        TECHNIQUES.register(type("Mine", (Good,), attributes), "mine.py")
    assert "\n" not in str(caught.value)


def test_what_is_missing_or_does_not_fit_is_one_phrase() -> None:
    convolutions = OtherShape("repvit", (32, 32), 3, 5, 9, 9, 9, 0)
    assert Needs().misfit(convolutions) == "repvit is no plain Vision Transformer"
    assert Needs(plain_vit=False, linear=True).misfit(convolutions) == "no linear layers besides the classifier"
    assert Needs(plain_vit=False).misfit(convolutions) is None
    assert Needs(plain_vit=False, linear=True).misfit(replace(convolutions, num_linear=1)) is None
    absent = Needs(packages=("json", "no_such_package", "nor_this"), extra="more")
    assert absent.missing() == "no_such_package, nor_this not installed" and Needs(packages=("json",)).missing() is None
    with pytest.raises(MissingPackageError, match=r"mine needs the package no_such_package.*sousvit\[more\]"):
        absent.require_packages("mine")


@pytest.mark.parametrize(
    ("name", "role", "trains", "compresses"),
    [
        ("prune_mlp", Role.COMPRESS, False, True),
        ("int8_dynamic", Role.COMPRESS, False, True),
        ("distill", Role.REPAIR, True, False),
        ("qat", Role.TRAIN_AND_COMPRESS, True, True),
        ("elastic", Role.PREPARE, False, False),
        ("synthesize", Role.SUPPLY, False, False),
        ("distill_token", Role.ASSIST, False, False),
    ],
)
def test_roles_say_who_trains_and_who_compresses(name, role, trains, compresses) -> None:
    technique = TECHNIQUES.get(name)
    assert (technique.role, technique.role.trains, technique.role.compresses) == (role, trains, compresses)


WITHOUT_TORCH = """
import json, random, sys
from sousvit.search.report.listing import space_rows, technique_rows
from sousvit.spaces.shape import read_shape
from sousvit.spaces.space import make_space, preset_names, read_space
from sousvit.errors import UserError

class RandomTrial:
    def suggest_categorical(self, name, choices):
        return random.choice(list(choices))

assert len(technique_rows()) == {count} and space_rows()
shape = read_shape(json.loads(sys.stdin.read()))
for name in preset_names():
    make_space(read_space(name), shape, ("onnxruntime", "openvino", "litert"))
space = make_space(read_space("default"), shape, ("onnxruntime", "openvino"))[0]
for _ in range(100):
    try:
        space.suggest(RandomTrial()).canonical(shape).reshape(shape)
    except UserError:
        pass
print([name for name in ("torch", "timm", "openvino", "onnxruntime", "nncf") if name in sys.modules])
"""


def test_techniques_are_listed_and_recipes_proposed_without_torch() -> None:
    code = WITHOUT_TORCH.replace("{count}", str(len(list(techniques()))))
    shape = json.dumps(asdict(vit_shape(tiny_vit())))
    done = subprocess.run([sys.executable, "-c", code], input=shape, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
