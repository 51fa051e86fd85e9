"""An elastic base: ordered without a change, cut as recipes cut, trained whole and in parts, kept and gone on with."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from sousvit.cache import TensorCache
from sousvit.data import Splits
from sousvit.errors import TrialError
from sousvit.models.load import load
from sousvit.spaces.builder import ModelBuilder, apply_steps
from sousvit.spaces.context import Context
from sousvit.spaces.module_shape import vit_shape
from sousvit.spaces.recipe import Recipe, Step
from sousvit.spaces.space import make_space, read_space
from sousvit.spaces.technique import get_technique
from sousvit.spaces.techniques.elastic.elastic import ElasticConfig, order, parts
from sousvit.spaces.techniques.elastic.subnetwork import Sandwich, SubNetwork
from sousvit.spaces.training import checkpoint as checkpoint_module
from sousvit.spaces.training.teacher import Teacher

ELASTIC = Step.make("elastic", epochs=2, num_views=1, augmentation="none", learning_rate=3e-3, pool=2)
CUT = (Step.make("prune_depth", drop=2), Step.make("prune_heads", keep=0.5), Step.make("prune_mlp", keep=0.5))
TAIL = Step.make("distill", epochs=2, num_views=1, augmentation="none")
SMALLEST = (Step.make("prune_depth", drop=2), Step.make("prune_heads", keep=0.25), Step.make("prune_mlp", keep=0.25))


@pytest.fixture(scope="module")
def world(tiny_project):
    base = load(tiny_project.model_spec())
    splits = Splits(tiny_project.data_spec(), base.size, base.channels)
    return base, splits


@pytest.fixture
def context(world):
    base, splits = world
    return Context(base.normalise, splits.calibration(), splits.train.head(200), Teacher(base, splits.train.head(200)))


def outputs(model, context: Context) -> torch.Tensor:
    with torch.no_grad():
        return model(context.normalise(context.calibration.images()))


def same(one, two) -> bool:
    first, second = one.state_dict(), two.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def ordered(model, context: Context):
    """The elastic form without its training."""
    return ELASTIC.handler.apply(copy.deepcopy(model), ELASTIC.config, context)


# Order


def test_ordering_changes_no_output(variant, make_vit, make_context):
    model = make_vit(variant)
    context = make_context(model)
    elastic = ordered(model, context)
    assert vit_shape(elastic) == vit_shape(model)
    assert not torch.equal(elastic.blocks[0].mlp.fc1.weight, model.blocks[0].mlp.fc1.weight)
    torch.testing.assert_close(outputs(elastic, context), outputs(model, context), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("compensate", [False, True])
@pytest.mark.parametrize("technique", ["prune_mlp", "prune_heads"])
def test_the_first_units_are_those_that_pruning_would_keep(technique, compensate, make_vit, make_context):
    model = make_vit(depth=1)
    context = make_context(model)
    steps = Recipe((Step.make(technique, keep=0.5, compensate=compensate),))
    pruned = apply_steps(model, steps, context)
    nested = apply_steps(ordered(model, context), steps, context)
    assert context.nested is not None
    torch.testing.assert_close(outputs(nested, context), outputs(pruned, context), rtol=1e-4, atol=1e-4)


def test_blocks_go_in_the_order_in_which_they_are_needed_least(make_vit, make_context):
    model = make_vit()
    context = make_context(model)
    elastic = ordered(model, context)
    gone = context.nested["blocks"]
    assert len(set(gone)) == 3
    for drop in (1, 2, 3):
        step = Step.make("prune_depth", drop=drop)
        left = step.handler.apply(copy.deepcopy(elastic), step.config, context)
        chosen = step.handler.apply(copy.deepcopy(elastic), step.config, make_context(model))
        first = [[block.mlp.fc1.bias[0].item() for block in one.blocks] for one in (left, chosen)]
        assert first[0] == first[1]


def test_an_order_is_repeated_from_its_decisions(make_vit, make_context):
    model = make_vit()
    context = make_context(model)
    elastic, again = ordered(model, context), copy.deepcopy(model)
    order(again, replace(context, calibration=None))
    assert same(elastic, again)


# Parts


@pytest.mark.parametrize("tokens", ["none", "tome"])
def test_a_part_is_the_repaired_cut_and_moves_with_the_whole(variant, tokens, make_vit, make_context):
    model = make_vit(variant)
    context = make_context(model)
    elastic = ordered(model, context)
    base = copy.deepcopy(elastic)
    steps = CUT if tokens == "none" else (*CUT, Step.make("tome", keep=0.75))
    part = SubNetwork(elastic, base, steps, context)
    repaired = apply_steps(base, Recipe(steps), context)
    for one in (part, part.model()):
        torch.testing.assert_close(outputs(one, context), outputs(repaired, context), rtol=1e-5, atol=1e-5)
    assert vit_shape(part.model()) == vit_shape(repaired)
    moved = {name: 0.1 * torch.randn_like(value) for name, value in elastic.named_parameters()}  # the training
    with torch.no_grad():
        for name, value in elastic.named_parameters():
            value += moved[name]
    torch.testing.assert_close(outputs(part, context), outputs(part.model(), context), rtol=1e-5, atol=1e-5)
    bare = replace(context, calibration=None)
    before, after = (apply_steps(one, Recipe(steps), bare).state_dict() for one in (base, elastic))
    for name, value in part.model().state_dict().items():
        expected = repaired.state_dict()[name] + after[name] - before[name]
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)


def test_without_repair_a_part_is_a_slice(make_vit, make_context):
    model = make_vit()
    context = make_context(model)
    elastic = ordered(model, context)
    bare = [replace(step, config=step.config.model_copy(update={"compensate": False})) for step in CUT]
    part = SubNetwork(elastic, copy.deepcopy(elastic), bare, context)
    assert not part.repairs
    expected = apply_steps(elastic, Recipe(tuple(bare)), replace(context, calibration=None))
    assert same(part.model(), expected)


def test_gradients_of_a_part_reach_the_shared_weights_it_uses_and_no_others(make_vit, make_context):
    model = make_vit()
    context = make_context(model)
    elastic = ordered(model, context)
    part = SubNetwork(elastic, copy.deepcopy(elastic), CUT, context)
    part(context.normalise(context.calibration.images())).square().sum().backward()
    dropped = context.nested["blocks"][:2]
    for index, block in enumerate(elastic.blocks):
        if index in dropped:
            assert all(parameter.grad is None for parameter in block.parameters())
            continue
        fc1 = block.mlp.fc1.weight.grad
        assert (fc1[:64].abs().sum(1) > 0).all() and not fc1[64:].any()
        used = block.attn.qkv.weight.grad.unflatten(0, (3, 4, 8)).abs().sum((0, 2, 3)) > 0
        assert used.tolist() == [True, True, False, False]
    assert elastic.patch_embed.proj.weight.grad.abs().sum() > 0


def test_a_step_trains_the_smallest_part_the_whole_and_random_ones(make_vit, make_context):
    model = make_vit()
    context = make_context(model)
    elastic = ordered(model, context)
    draws = parts(ElasticConfig(depth=0.5, mlp=0.25, heads=0.25), vit_shape(model))
    together = Sandwich(elastic, draws, context, 5, True, pool=8)
    smallest, whole, *between = together(7)
    assert whole is elastic and len(between) == 3
    expected = apply_steps(elastic, Recipe(SMALLEST), context)
    torch.testing.assert_close(outputs(smallest, context), outputs(expected, context), rtol=1e-5, atol=1e-5)
    again = Sandwich(elastic, draws, context, 5, True, pool=8)
    for one, two in zip(together(8), again(8), strict=True):
        torch.testing.assert_close(outputs(one, context), outputs(two, context))
    drawn = {num_weights(part) for step in range(12) for part in together(step)[2:]}
    assert len(drawn) > 5
    few = Sandwich(elastic, draws, context, 3, False, pool=4)
    assert len({id(part) for step in range(40) for part in few(step)}) == 5


def num_weights(part: SubNetwork) -> int:
    return sum(weight.numel() for weight in part.weights().values())


def test_a_distilled_model_trains_with_both_outputs(make_vit, make_context):
    model = make_vit("distilled")
    context = make_context(model)
    teacher = lambda augmentation, seed, view: torch.zeros(64, 5)  # noqa: E731
    context = replace(context, train=context.calibration, teacher=teacher)
    changed = ordered(model, context)
    assert not torch.equal(changed.dist_token, model.dist_token)
    assert not torch.equal(changed.head_dist.weight, model.head_dist.weight)
    assert outputs(changed, context).shape == (64, 5)


# Training


def divergence(model, logits: torch.Tensor, context: Context) -> float:
    """From the teacher's predictions on the training images."""
    one, two = F.log_softmax(outputs(model, context), dim=1), F.log_softmax(logits, dim=1)
    return float(F.kl_div(one, two, reduction="batchmean", log_target=True))


@pytest.mark.parametrize(("tokens", "whole"), [("none", True), ("none", False), ("tome", False)])
def test_training_the_parts_together_helps_them_and_spares_the_whole(tokens, whole, make_vit, make_context):
    model = make_vit("average")
    context = make_context(model, count=128)
    logits = outputs(model, context)
    context = replace(context, train=context.calibration, teacher=lambda augmentation, seed, view: logits)
    changes = {"epochs": 6, "batch_size": 16, "tokens": tokens, "whole": whole, "soft_weight": 1.0, "temperature": 1.0}
    before = ordered(model, replace(context, train=None))
    config = ELASTIC.config.model_copy(update={**changes, "learning_rate": 1e-3, "pool": 8})
    after = ELASTIC.handler.apply(copy.deepcopy(model), config, context)

    def judged(elastic, cuts) -> float:
        return divergence(SubNetwork(elastic, before, cuts, context).model(), logits, context)

    fewer = () if tokens == "none" else (Step.make("tome", keep=0.5),)
    for cuts in ((*SMALLEST, *fewer), CUT):
        assert judged(after, cuts) < 0.8 * judged(before, cuts)
    if whole:
        assert divergence(after, logits, context) < 0.5 * judged(after, CUT)


def test_a_cut_is_read_without_training_and_trained_when_asked(world, context, tmp_path):
    base, _ = world
    builder = ModelBuilder(base, context, TensorCache(tmp_path))
    recipe = Recipe((ELASTIC, *CUT, TAIL))
    spent: dict[str, float] = {}
    read = builder.build(recipe, 0.0, seconds=spent)
    assert spent.keys() == {"prepare", "build"}
    assert same(read, builder.build(recipe.without("distill")))
    spent.clear()
    trained = builder.build(recipe, 1.0, seconds=spent)
    assert spent.keys() == {"build", "recover"} and not same(read, trained)
    assert same(trained, ModelBuilder(base, context).build(recipe, 1.0))


def test_a_stored_base_serves_other_recipes(world, context, tmp_path, monkeypatch):
    base, _ = world
    first = ModelBuilder(base, context, TensorCache(tmp_path)).build(Recipe((ELASTIC, *CUT)))
    stored = max(tmp_path.glob("models/*.safetensors"), key=lambda path: path.stat().st_size)
    assert not list(tmp_path.glob("**/*-training.safetensors"))
    monkeypatch.setattr(type(ELASTIC.handler), "apply", _only_skeletons)
    builder = ModelBuilder(base, context, TensorCache(tmp_path))
    assert same(builder.build(Recipe((ELASTIC, *CUT))), first)
    other = builder.build(Recipe((ELASTIC, Step.make("prune_depth", drop=1))))
    assert vit_shape(other).depth == 3
    stored.write_bytes(b"damaged")
    with pytest.raises(AssertionError, match="trained again"):
        builder.build(Recipe((ELASTIC, Step.make("prune_depth", drop=2))))


def _only_skeletons(self, model, config, context):
    assert context.calibration is None, "trained again"
    return model.eval()


@pytest.mark.parametrize("damaged", [False, True])
@pytest.mark.parametrize("step", [ELASTIC, TAIL], ids=["elastic", "distill"])
def test_a_killed_training_goes_on_where_it_was(step, damaged, world, context, tmp_path, monkeypatch):
    base, _ = world
    monkeypatch.setattr(checkpoint_module, "PERIOD", 0.0)
    config = step.config.model_copy(update={"epochs": 3, "batch_size": 40, "optimizer": "muon"})
    recipe = Recipe((replace(step, config=config),))
    seen: list[int] = []

    def killed(what: str, done: int, total: int) -> None:
        if total:
            seen.append(done)
        if done == 8:
            raise KeyboardInterrupt

    dying = replace(context, progress=killed)
    with pytest.raises(KeyboardInterrupt):
        ModelBuilder(base, dying, TensorCache(tmp_path)).build(recipe)
    [state] = tmp_path.glob("models/*-training.safetensors")
    if damaged:
        state.write_bytes(state.read_bytes()[:1000])
    seen.clear()
    counting = replace(context, progress=lambda what, done, total: seen.append(done) if total else None)
    resumed = ModelBuilder(base, counting, TensorCache(tmp_path)).build(recipe)
    assert seen == list(range(1 if damaged else 9, 16))
    assert same(resumed, ModelBuilder(base, context).build(recipe))
    assert not state.exists()


def test_a_training_past_its_deadline_is_a_failed_trial(world, context, tmp_path):
    base, _ = world
    with pytest.raises(TrialError, match="time limit"):
        ModelBuilder(base, context, TensorCache(tmp_path)).build(Recipe((ELASTIC, *CUT)), deadline=0.0)


# Recipes


@pytest.fixture(scope="module")
def shape(world):
    return vit_shape(world[0].module)


@pytest.mark.parametrize(
    "others",
    [
        [Step.make("prune_mlp", allocation="global")],
        [Step.make("low_rank", keep=0.5), Step.make("prune_mlp")],
        [Step.make("patch_size", patch=8), Step.make("prune_mlp")],
        [Step.make("prune_mlp", keep=1.0)],
        [],
    ],
)
def test_recipes_that_an_elastic_base_does_not_serve_begin_with_the_plain_one(others, shape):
    rest = Recipe((*others, TAIL, Step.make("int8_dynamic")))
    recipe = Recipe((ELASTIC, *rest.steps)).canonical(shape)
    assert recipe == rest.canonical(shape) and not recipe.is_prepared


def test_recipes_on_an_elastic_base_leave_out_what_has_no_effect_there(shape):
    cuts = (Step.make("prune_depth", drop=1), Step.make("prune_mlp", keep=0.5, importance="taylor"))
    recipe = Recipe((ELASTIC, *cuts, Step.make("tome", keep=0.75), TAIL)).canonical(shape)
    assert recipe.is_prepared and recipe.canonical(shape) == recipe
    plain = (Step.make("prune_depth", drop=1), Step.make("prune_mlp", keep=0.5))
    assert recipe == Recipe((ELASTIC, *plain, Step.make("tome", keep=0.75), TAIL))
    assert recipe.structure() == Recipe((*plain, Step.make("tome", keep=0.75)))
    assert recipe.without("elastic").canonical(shape) == Recipe((*plain, Step.make("tome", keep=0.75), TAIL))


def test_a_space_with_an_elastic_base_holds_both_kinds_of_recipes(shape):
    techniques = {"elastic": {"epochs": [4]}, "prune_mlp": {}, "low_rank": {}, "distill": {}, "int8_dynamic": {}}
    space, _ = make_space(read_space({"techniques": techniques}), shape, ("onnxruntime",))
    elastic = Step.make("elastic", epochs=4)
    tail = Step.make("distill", passes=4, learning_rate=1e-3, soft_weight=0.5)
    served = Recipe((elastic, Step.make("prune_mlp", keep=0.5), tail))
    other = Recipe((Step.make("low_rank", keep=0.6, layers="all"), tail))
    assert space.parameters(served, shape) is not None and space.parameters(other, shape) is not None
    assert space.parameters(served.without("elastic"), shape) is None


def test_parts_keep_at_least_the_smallest_shares():
    shape = vit_shape(load_small())
    draws = parts(ElasticConfig(mlp=0.5, heads=0.6, depth=0.6), shape)
    assert [step and step.config.drop for step in draws["prune_depth"]] == [None, 1, 2]
    assert [step and step.config.keep for step in draws["prune_heads"]] == [None, 0.6667]
    assert [step and step.config.keep for step in draws["prune_mlp"]] == [None, 0.875, 0.75, 0.625, 0.5]
    assert get_technique("elastic").unmet_need(shape) is None


def load_small():
    import timm

    return timm.create_model("vit_tiny_patch16_224", img_size=28, patch_size=4, embed_dim=48, depth=6, num_heads=3)
