"""Students of convolutions: networks of any size that fit any image, in the base's place."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from sousvit.data import Splits
from sousvit.errors import UserError
from sousvit.models.load import load
from sousvit.spaces.builder import ModelBuilder
from sousvit.spaces.context import Context, Start
from sousvit.spaces.module_shape import shape_of, vit_shape
from sousvit.spaces.recipe import Recipe, Step
from sousvit.spaces.sources import checkpoints, located
from sousvit.spaces.space import make_space, read_space
from sousvit.spaces.technique import get_technique
from sousvit.spaces.techniques.recovery.distill import MOST_EPOCHS, SPEED_UP, DistillConfig
from sousvit.spaces.techniques.students.convolutional import FAMILIES, Network
from sousvit.spaces.techniques.students.named import build
from sousvit.spaces.training.loop import fit
from sousvit.spaces.training.plan import TrainingPlan
from sousvit.spaces.training.teacher import Teacher

IMAGES = [(8, 8), (15, 31), (28, 28), (32, 32), (64, 48), (160, 224), (320, 256)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("image", IMAGES, ids=str)
def test_a_network_costs_what_is_counted_and_ends_in_a_small_map(family, image):
    for width, depth, channels in ((8, 1, 3), (16, 2, 1)):
        network = Network(family, width, depth, image, channels, 7)
        built = network.build().eval()
        assert network.shape() == shape_of(built, network.shape().name, image, channels, 7)
        last = built.forward_features(torch.zeros(1, channels, *image)).shape[2:]
        assert 4 <= min(last) <= 8 and network.stride * min(last) >= min(image)


def test_widths_span_the_costs_up_to_the_base():
    base = vit_shape(timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=4, num_classes=10))
    student = get_technique("student")
    choices = student.choices(base)
    costs = [
        student.reshape(base, student.config(model="residual", width=width)).macs() / base.macs()
        for width in choices["width"]
    ]
    assert costs == sorted(costs) and costs[0] < 1 / 100 and 1 / 4 < costs[-1] <= 1
    assert all(high / low < 5 for low, high in pairwise(costs))
    assert set(FAMILIES) < set(choices["model"])


def test_images_that_are_too_small_are_one_clear_line(make_vit):
    shape = vit_shape(make_vit(img_size=4, patch_size=2))
    assert not set(FAMILIES) & set(get_technique("student").choices(shape)["model"])
    with pytest.raises(UserError, match=r"images of at least 8 px; received 4x4 px"):
        Recipe((Step.make("student", model="residual"), Step.make("distill"))).reshape(shape)


@pytest.mark.parametrize("wrong", [{"width": 12}, {"width": 0}, {"depth": 0}, {"model": "resnet_of_mine"}])
def test_wrong_parameters_are_refused(wrong):
    with pytest.raises(UserError):
        Step.make("student", **{"model": "residual", **wrong})


def test_parameters_without_effect_make_no_second_recipe(make_vit):
    shape = vit_shape(make_vit(img_size=32))
    tail = Step.make("distill")
    plain = [Recipe((Step.make("student", model="vit_64x4", width=width), tail)) for width in (None, 8, 16)]
    assert len({recipe.canonical(shape) for recipe in plain}) == 1
    named = [
        Recipe((Step.make("student", model="residual", **given), tail)) for given in ({}, {"width": 24, "depth": 1})
    ]
    assert len({recipe.canonical(shape) for recipe in named}) == 1
    assert Recipe((Step.make("student"), tail)).canonical(shape) == Recipe()


DEPLOYED = {
    "onnxruntime": ("fp16", "static_int8"),
    "openvino": ("ptq_int8", "bf16", "weight_only"),
    "litert": ("litert_dynamic",),
    "torch": (),
}


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_student_trains_and_every_deployment_agrees(
    family, agree, apply_recipe, training_context, make_vit, tmp_path
):
    base = make_vit(img_size=32, embed_dim=64, num_heads=4)
    shape, context = vit_shape(base), replace(training_context(base), start=Start.RANDOM)
    steps = (Step.make("student", model=family, width=16), Step.make("distill", epochs=4))
    model = apply_recipe(base, Recipe(steps), context)
    assert not hasattr(next(iter(model.modules())), "is_merged")
    for runtime, deploys in DEPLOYED.items():
        for number, deploy in enumerate((None, *deploys)):
            recipe = Recipe((*steps, *([] if deploy is None else [Step.make(deploy)])), runtime)
            if deploy is not None and get_technique(deploy).needs.linear:
                with pytest.raises(UserError, match="no linear layers"):
                    recipe.reshape(shape)
                continue
            recipe.reshape(shape)
            agree(model, recipe, context, tmp_path / f"{runtime}{number}")


def test_a_base_that_is_no_plain_vision_transformer_has_students_too(make_context):
    base = timm.create_model("repvit_m0_9", num_classes=5, embed_dim=(16, 24, 32, 48), depth=(1, 1, 1, 1)).eval()
    shape = shape_of(base, "repvit_m0_9", (32, 32), 3, 5)
    _, left_out = make_space(read_space("default"), shape, ("onnxruntime",))
    assert "student" not in left_out and "prune_mlp" in left_out
    step = Step.make("student", model="hybrid", width=8)
    context = make_context(base, 8, (32, 32))
    model = get_technique("student").apply(base, step.config, context)
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 5)
    with pytest.raises(UserError, match="has its base's patches"):
        Recipe((Step.make("student", model="vit_64x4"), Step.make("distill"))).reshape(shape)


def test_a_module_of_a_users_own_that_says_no_number_of_classes_has_students_too(make_context):
    base = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 5)).eval()
    step = Step.make("student", model="residual", width=8)
    model = get_technique("student").apply(base, step.config, make_context(base, 8, (32, 32)))
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 5)


# How long it trains


def test_a_pass_of_the_base_is_as_many_more_epochs_of_a_smaller_model():
    assert DistillConfig(passes=2).epochs_of(1.0) == 2
    assert DistillConfig(passes=2).epochs_of(1 / 16) == 2 * 8
    assert DistillConfig(passes=2).epochs_of(1 / 1000) == MOST_EPOCHS
    assert DistillConfig(passes=2).epochs_of(16.0) == 2 / 8
    assert DistillConfig(epochs=3, passes=2).epochs_of(1 / 10) == 3
    assert not DistillConfig(passes=0).trains and not DistillConfig(epochs=0).trains


@pytest.mark.parametrize(
    "step", [Step.make("student", model="residual", width=8), Step.make("prune_mlp", keep=0.5)], ids=str
)
def test_a_recipe_trains_for_what_its_model_costs(step, tiny_project, monkeypatch):
    seen: list[TrainingPlan] = []

    def noted(model, data, normalise, plan, *rest):
        seen.append(plan)
        assert plan.epochs > 2
        fit(model, data, normalise, replace(plan, epochs=0.5), *rest)

    monkeypatch.setattr("sousvit.spaces.training.loop.fit", noted)
    base = load(tiny_project.model_spec())
    splits = Splits(tiny_project.data_spec(), base.size, base.channels)
    context = Context(base.normalise, splits.calibration(), splits.train, Teacher(base, splits.train))
    recipe = Recipe((step, Step.make("distill", passes=2)))
    shape = vit_shape(base.module)
    ModelBuilder(base, context).build(recipe)
    share = recipe.reshape(shape).macs() / shape.macs()
    assert [plan.epochs for plan in seen] == [pytest.approx(2 / share**SPEED_UP)]
    is_student = step.technique == "student"
    assert (seen[0].optimizer, seen[0].weight_decay) == (("muon", 0.2) if is_student else ("adamw", 0.05))
    assert seen[0].learning_rate == pytest.approx(0.02 if is_student else 1e-3)


def test_a_space_that_lists_epochs_asks_for_no_passes(make_vit):
    shape = vit_shape(make_vit())
    given = {"techniques": {"prune_mlp": {}, "distill": {"epochs": [0, 2]}}}
    space, _ = make_space(given, shape, ("onnxruntime",))
    option = next(option for option in space.options() if option.technique == "distill")
    assert next(iter(option.values)) == "epochs" and "passes" not in option.values
    declared, _ = make_space({"techniques": {"prune_mlp": {}, "distill": {}}}, shape, ("onnxruntime",))
    option = next(option for option in declared.options() if option.technique == "distill")
    assert next(iter(option.values)) == "passes" and "epochs" not in option.values


# What a search makes of it


class Drawn:
    """Answers a space's questions with what it is told, else with the first value."""

    def __init__(self, **told) -> None:
        self.told, self.asked = told, dict[str, object]()

    def suggest_categorical(self, name, choices):
        self.asked[name] = self.told.get(name.replace(".", "_"), choices[0])
        return self.asked[name]


def test_a_space_asks_only_what_has_an_effect_and_leaves_no_weights_at_random(make_vit):
    shape = vit_shape(make_vit(img_size=32))
    space, _ = make_space(read_space("default"), shape, ("onnxruntime", "openvino"))
    kept = Drawn(student_model="none")
    space.suggest(kept)
    assert "student.width" not in kept.asked and "prune_mlp.keep" in kept.asked
    taken = Drawn(student_model="inverted", distill_passes=0)
    recipe = space.suggest(taken)
    assert "student.width" in taken.asked and "prune_mlp.keep" not in taken.asked
    assert recipe.trains and recipe.start is Start.RANDOM and recipe.family == "inverted"
    recipe.reshape(shape)
    assert not any(
        option and option.handler.needs.linear for _, option in space.deploys_of(recipe.model_steps).values()
    )


class Patterns:
    """Stripes that lie or stand, checks and nothing in noise: any network should learn them in seconds."""

    size, channels, num_classes = (16, 16), 3, 4

    def __init__(self, count: int) -> None:
        generator = torch.Generator().manual_seed(count)
        self.labels = torch.randint(0, 4, (count,), generator=generator)
        self._images = torch.randint(0, 120, (count, 3, 16, 16), generator=generator, dtype=torch.uint8)
        even = torch.arange(16) % 2 == 0
        patterns = torch.stack([even[:, None] | even.new_zeros(16), even.new_zeros(16, 1) | even])
        patterns = torch.stack([*patterns, patterns[0] ^ patterns[1], torch.zeros_like(patterns[0])])
        self._images += 60 * patterns[self.labels][:, None].to(torch.uint8)

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, rows):
        return self._images[rows]

    def targets(self, rows):
        return self.labels[rows]


@pytest.mark.parametrize("family", FAMILIES)
def test_random_weights_learn(family):
    torch.manual_seed(0)
    model = Network(family, 8, 1, (16, 16), 3, 4).build()
    plan = TrainingPlan(epochs=6, learning_rate=0.02, optimizer="muon", batch_size=32, augmentation="none")
    fit(model, Patterns(256), lambda images: images.float() / 128 - 1, plan)
    fresh = Patterns(200)
    with torch.inference_mode():
        found = model(fresh.images(torch.arange(200)).float() / 128 - 1).argmax(1)
    assert float((found == fresh.labels).float().mean()) > 0.8
    for part in model.modules():
        assert "forward" not in vars(part)
    assert all(parameter.is_contiguous() for parameter in model.parameters())
    assert isinstance(model, nn.Module) and not model.training


# Weights from elsewhere

PRETRAINED = "repvit_m0_9"


@pytest.fixture
def hub(tmp_path, monkeypatch) -> nn.Module:
    """A hub whose cache holds weights of :data:`PRETRAINED` for 1,000 classes; the network that they are of."""
    torch.manual_seed(1)
    model = timm.create_model(PRETRAINED)
    folder = tmp_path / "hub" / f"models--timm--{model.pretrained_cfg['hf_hub_id'].partition('/')[2]}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    snapshot = folder / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, snapshot / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return model.eval()


def test_a_pretrained_student_has_the_hubs_weights_and_a_classifier_of_the_bases_classes(hub, make_vit, make_context):
    base = make_vit(img_size=64, patch_size=16)
    step = Step.make("student", model=PRETRAINED, pretrained=True)
    recipe = Recipe((step, Step.make("distill")))
    assert recipe.start is Start.PRETRAINED
    expected = recipe.reshape(vit_shape(base))
    model = step.handler.apply(base, step.config, make_context(base, 8))
    skeleton = step.handler.apply(base, step.config, Context(make_context(base, 8).normalise))
    plain = timm.create_model(PRETRAINED, num_classes=5)
    assert expected.num_classes == 5 and model(torch.zeros(1, 3, 64, 64)).shape == (1, 5)
    for part in (model, skeleton):
        assert [value.shape for value in part.state_dict().values()] == [v.shape for v in plain.state_dict().values()]
    own = dict(hub.named_parameters())
    same = [torch.equal(value, own[name]) for name, value in model.named_parameters() if "head" not in name]
    assert all(same) and not torch.equal(next(skeleton.parameters()), next(model.parameters()))


def test_weights_that_cannot_be_had_are_one_clear_line(hub, make_vit, make_context):
    base = make_vit(img_size=64, patch_size=16)
    step = Step.make("student", model="edgenext_xx_small", pretrained=True)
    with pytest.raises(UserError, match="pretrained weights of edgenext_xx_small must be reachable"):
        step.handler.apply(base, step.config, make_context(base, 8))


@pytest.mark.parametrize("form", ["state.pth", "weights.safetensors"])
def test_a_student_begins_with_the_weights_of_a_checkpoint(form, make_vit, make_context, tmp_path):
    base, path = make_vit(img_size=32), tmp_path / form
    trained = Network("residual", 8, 1, (32, 32), 3, 7).build()
    state = {name: value.contiguous() for name, value in trained.state_dict().items()}
    save_file(state, path) if path.suffix == ".safetensors" else torch.save({"state_dict": state}, path)
    step = Step.make("student", model="residual", width=8, checkpoint=str(path))
    model = step.handler.apply(base, step.config, make_context(base, 8))
    assert torch.equal(model.stem.conv.weight, trained.stem.conv.weight) and model.get_classifier().out_features == 5
    wider = Step.make("student", model="residual", width=16, checkpoint=str(path))
    with pytest.raises(UserError, match="a checkpoint must fit the model"):
        wider.handler.apply(base, wider.config, make_context(base, 8))


@pytest.mark.parametrize(
    "wrong", [{"model": "residual", "pretrained": True}, {"model": PRETRAINED, "pretrained": True, "checkpoint": "x"}]
)
def test_weights_come_from_one_place_that_has_some(wrong):
    with pytest.raises(UserError):
        Step.make("student", **wrong)


def test_checkpoints_of_a_space_start_in_the_budgets_folder(tmp_path):
    given = {"techniques": {"student": {"model": ["none", PRETRAINED], "checkpoint": [None, "a.pth"]}, "distill": {}}}
    found = located(given, tmp_path)
    assert found["techniques"]["student"]["checkpoint"] == [None, str(tmp_path / "a.pth")]
    assert checkpoints(found) == {"space.techniques.student.checkpoint": [str(tmp_path / "a.pth")]}
    assert given["techniques"]["student"]["checkpoint"][1] == "a.pth" and checkpoints("default") == {}


def test_a_space_of_pretrained_students_asks_for_weights_where_there_are_some(make_vit):
    shape = vit_shape(make_vit(img_size=64, patch_size=16))
    given = {"student": {"model": ["none", "residual", PRETRAINED], "pretrained": [True]}, "distill": {}}
    space, _ = make_space({"techniques": given}, shape, ("onnxruntime",))
    starts = {recipe.family: recipe.start for _, recipe in space.suggestions()}
    assert starts == {"": Start.BASE, "residual": Start.RANDOM, PRETRAINED: Start.PRETRAINED}


@pytest.mark.parametrize("name", ["repvit_m0_9", "efficientvit_b0", "mobilevit_xxs", "mobilevitv2_050"])
def test_strides_of_timms_networks_leave_a_map_of_a_small_image(name):
    small = build(name, (32, 32), (4, 4), 3, 5).eval()
    assert min(small.forward_features(torch.zeros(1, 3, 32, 32)).shape[2:]) >= 4
    assert small(torch.zeros(1, 3, 32, 32)).shape == (1, 5)
    large, plain = build(name, (128, 128), (16, 16), 3, 5).eval(), timm.create_model(name, num_classes=5).eval()
    image = torch.zeros(1, 3, 128, 128)
    assert large.forward_features(image).shape == plain.forward_features(image).shape
