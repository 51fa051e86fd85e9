"""Synthesised images: priors against independent references, and what makes a set worth keeping."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
import scipy.spatial
import scipy.stats
import torch
from PIL import Image

from sousvit.cache import TensorCache
from sousvit.data.memory import memory_set
from sousvit.errors import UserError
from sousvit.models.load import LoadedModel, ModelSpec, load
from sousvit.spaces.builder import ModelBuilder
from sousvit.spaces.context import Context, StepImages
from sousvit.spaces.module_shape import vit_shape
from sousvit.spaces.recipe import Recipe, Step
from sousvit.spaces.tasks.classification import Classification
from sousvit.spaces.technique import Role, get_technique
from sousvit.spaces.techniques.synthesis import priors
from sousvit.spaces.techniques.synthesis.config import SynthesisConfig
from sousvit.spaces.techniques.synthesis.contact_sheet import contact_sheet
from sousvit.spaces.techniques.synthesis.generator import Generator, Student, generate, student_loss
from sousvit.spaces.techniques.synthesis.inversion import invert
from sousvit.spaces.techniques.synthesis.probe import Probe
from sousvit.spaces.techniques.synthesis.scenes import PixelLaw, draw_scenes, smooth_fields
from sousvit.spaces.techniques.synthesis.select import balanced, chosen_scenes, to_uint8
from sousvit.spaces.techniques.synthesis.student import stand_in
from sousvit.spaces.techniques.synthesis.synthesiser import HELD_OUT, Synthesiser

SMALL = {"method": "inversion", "images": 32, "steps": 6}


def base_of(model) -> LoadedModel:
    """A tiny model as a loaded base."""
    size, channels = model.patch_embed.img_size, model.patch_embed.proj.in_channels
    return LoadedModel(model, ModelSpec(name="tiny"), size, channels, (0.4,) * channels, (0.3,) * channels, 5, "tiny")


@pytest.fixture
def base(make_vit):
    return base_of(make_vit("average"))


def aimed_at(base: LoadedModel, images: torch.Tensor, classes: torch.Tensor) -> float:
    """Mean probability of the classes aimed at."""
    with torch.no_grad():
        chances = base.module(base.normalise(images)).softmax(1)
    return float(chances.gather(1, classes[:, None]).mean())


def test_the_entropy_is_that_of_a_kernel_density_estimate():
    values = torch.rand(3, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 1.6 - 0.8
    found = priors.differential_entropy(values, points=2001)
    for row, entropy in zip(values.numpy(), found, strict=True):
        kernel = scipy.stats.gaussian_kde(row, bw_method=priors.BANDWIDTH / row.std(ddof=1))
        grid = np.linspace(-1.5, 1.5, 20001)
        density = kernel(grid)
        expected = np.trapezoid(-density * np.log(np.clip(density, 1e-300, None)), grid)
        assert float(entropy) == pytest.approx(expected, abs=1e-3)


def test_the_grid_in_use_is_fine_enough():
    values = torch.rand(4, 100, generator=torch.Generator().manual_seed(1)) * 2 - 1
    assert torch.allclose(
        priors.differential_entropy(values), priors.differential_entropy(values, points=4001), atol=0.01
    )


def test_varied_patches_have_more_entropy_than_equal_ones():
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(1, 1, 8, generator=generator).expand(1, 12, 8) + 0.01 * torch.randn(
        1, 12, 8, generator=generator
    )
    varied = torch.randn(1, 12, 8, generator=generator)
    assert priors.similarity_entropy(varied) > priors.similarity_entropy(shared) + 0.5
    pairs = priors.random_pairs(12, 500, generator)
    assert (pairs[0] != pairs[1]).all() and set(pairs.flatten().tolist()) == set(range(12))


def test_disagreement_is_the_jensen_shannon_divergence():
    one, other = torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([[0.0, 1.0, 0.5]])
    expected = scipy.spatial.distance.jensenshannon(one.softmax(1)[0].numpy(), other.softmax(1)[0].numpy()) ** 2
    assert float(priors.disagreement(one, other)) == pytest.approx(expected, rel=1e-5)
    assert float(priors.disagreement(one, one)) == pytest.approx(0, abs=1e-7)


def test_similarities_are_those_of_scipy():
    patches = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = [1 - scipy.spatial.distance.pdist(one.numpy(), "cosine") for one in patches]
    np.testing.assert_allclose(priors.patch_similarities(patches).numpy(), expected, atol=1e-12)
    pairs = torch.tensor([[0, 5], [3, 1]])
    some = [[1 - scipy.spatial.distance.cosine(one[a], one[b]) for a, b in pairs.T] for one in patches.numpy()]
    np.testing.assert_allclose(priors.patch_similarities(patches, pairs).numpy(), some, atol=1e-12)


def test_maps_that_are_alike_are_consistent():
    generator = torch.Generator().manual_seed(0)
    blocks = [torch.randn(2, 12, 5, generator=generator) for _ in range(3)]
    assert float(priors.neighbour_consistency([blocks[0], 3 * blocks[0]], (3, 4))) == pytest.approx(0, abs=1e-6)
    strengths = [(block.numpy() ** 2).mean(-1) for block in blocks]
    # Of unit vectors the squared distance is 2 - 2 cos.
    neighbours = np.concatenate(strengths[:-1]), np.concatenate(strengths[1:])
    expected = np.mean([2 * scipy.spatial.distance.cosine(*pair) for pair in zip(*neighbours, strict=True)])
    assert float(priors.neighbour_consistency(blocks, (3, 4))) == pytest.approx(expected, rel=1e-4)
    assert priors.strength_map(blocks[0], (3, 4)).shape == (2, 3, 4)


def test_total_variation_of_a_ramp():
    ramp = torch.arange(5.0).expand(1, 1, 4, 5)
    assert float(priors.total_variation(ramp)) == pytest.approx(1.0)


@pytest.mark.parametrize(("mean", "std"), [(0.286, 0.353), (0.485, 0.229), (0.13, 0.31), (0.5, 0.27)])
def test_pixels_have_the_statistics_of_the_base(mean, std):
    law = PixelLaw((mean, 1 - mean), (std, std))
    pixels = law.pixels(torch.randn(50_000, 2, 1, 1, generator=torch.Generator().manual_seed(0)))
    assert torch.allclose(pixels.mean((0, 2, 3)), torch.tensor([mean, 1 - mean]), atol=0.005)
    assert torch.allclose(pixels.std((0, 2, 3)), torch.tensor([std, std]), atol=0.005)


@pytest.mark.parametrize(
    ("mean", "std", "told"),
    [
        (0.286, 0.353, True),  # Fashion-MNIST
        (0.1307, 0.3081, True),  # MNIST: nearly black and white, but pixels
        (0.4814, 0.2686, True),  # CLIP
        (0.5, 0.5, False),  # [-1, 1]
        (0.0, 1.0, False),  # [0, 1]
    ],
)
def test_a_normalisation_by_convention_tells_no_pixels(base, mean, std, told):
    law = PixelLaw.of(replace(base, mean=(mean,), std=(std,)))
    pixels = law.pixels(torch.randn(20_000, 1, 1, 1, generator=torch.Generator().manual_seed(0)))
    expected = (mean, std) if told else (0.45, 0.23)
    assert (float(pixels.mean()), float(pixels.std())) == pytest.approx(expected, abs=0.02)


def test_clipped_pixels_are_the_grounds():
    law = PixelLaw((0.286,), (0.353,))
    black, white = law.clipped
    pixels = law.pixels(torch.randn(50_000, 1, 1, 1, generator=torch.Generator().manual_seed(0)))
    assert float((pixels == 0).float().mean()) == pytest.approx(black, abs=0.01)
    assert float((pixels == 1).float().mean()) == pytest.approx(white, abs=0.01)
    scenes = draw_scenes(300, (16, 16), law, torch.Generator().manual_seed(0))
    corners = scenes[:, 0, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners < 0.02).float().mean() > black


def test_fields_are_smooth_and_of_unit_power():
    generator = torch.Generator().manual_seed(0)
    smooth = smooth_fields(50, 1, (32, 24), (1.5, 3.0), generator)
    assert torch.allclose(smooth.square().mean((1, 2, 3)), torch.ones(50), atol=1e-4)
    white = torch.randn(50, 1, 32, 24, generator=generator)
    assert priors.total_variation(smooth) < 0.5 * priors.total_variation(white)


def test_scenes_are_images_of_either_colour():
    for mean in ((0.4,), (0.5, 0.4, 0.3)):
        scenes = draw_scenes(40, (17, 24), PixelLaw(mean, (0.3,) * len(mean)), torch.Generator().manual_seed(0))
        assert scenes.shape == (40, len(mean), 17, 24) and scenes.min() >= 0 and scenes.max() <= 1
        mirrored = (scenes == scenes.flip(3)).flatten(1).all(1).float().mean()
        assert 0.5 < mirrored < 1
    assert scenes.std(1).mean() > 0.01


def test_the_choice_is_balanced_and_takes_the_best_first():
    scores = torch.tensor([[5.0, 4.0], [3.0, 4.5], [2.0, 1.0], [1.0, 0.5]])
    rows, classes = balanced(scores, 3)
    assert list(zip(rows.tolist(), classes.tolist(), strict=True)) == [(0, 0), (1, 1), (2, 0)]
    rows, classes = balanced(torch.randn(60, 5, generator=torch.Generator().manual_seed(0)), 22)
    assert len(set(rows.tolist())) == 22 and sorted(classes.bincount().tolist()) == [4, 4, 4, 5, 5]


def test_chosen_scenes_are_surer_than_others(base):
    one, many = (SynthesisConfig(images=40, candidates=count) for count in (1, 8))
    sure = [aimed_at(base, *chosen_scenes(base, config, 0)) for config in (one, many)]
    assert sure[1] > sure[0]


def test_inversion_raises_the_confidence_of_a_trained_base(tiny_project):
    base = load(tiny_project.model_spec())
    config = SynthesisConfig(images=64, candidates=1, steps=12)
    begun, classes = chosen_scenes(base, config, 0)
    assert aimed_at(base, invert(base, config, 0), classes) > aimed_at(base, begun, classes) + 0.02


WEIGHTS = ("class_weight", "entropy_weight", "smooth_weight", "attention_weight", "adversarial_weight")


@pytest.mark.parametrize("weight", WEIGHTS)
def test_every_term_of_the_loss_pulls_its_own_way(base, weight):
    def made(value: float) -> float:
        only = {**dict.fromkeys(WEIGHTS, 0.0), weight: value}
        config = SynthesisConfig(method="inversion", images=16, candidates=1, steps=8, **only)
        images = invert(base, config, 0)
        _, classes = chosen_scenes(base, config, 0)
        return -measured_term(weight, base, images, classes)

    assert made(1.0) > made(0.0) + 1e-3


def measured_term(weight: str, base: LoadedModel, images: torch.Tensor, classes: torch.Tensor) -> float:
    """What a term wants small, computed on the finished images without the loss."""
    seen = base.normalise(images)
    with Probe(base.module) as probe, torch.no_grad():
        logits, patches = probe(seen)
        if weight == "class_weight":
            return float(torch.nn.functional.cross_entropy(logits, classes))
        if weight == "entropy_weight":
            return -float(torch.stack([priors.similarity_entropy(each).mean() for each in patches]).mean())
        if weight == "smooth_weight":
            pixels = images.double().numpy() / 255
            return float(np.abs(np.diff(pixels, axis=2)).mean() + np.abs(np.diff(pixels, axis=3)).mean())
        if weight == "attention_weight":
            return float(priors.neighbour_consistency(patches, probe.grid))
        return -float(priors.disagreement(logits, stand_in(base)(seen)))


def test_a_generator_plays_against_the_student_unless_told_otherwise(base):
    assert SynthesisConfig(method="generator").adversarial == 1.0
    assert SynthesisConfig(method="inversion").adversarial == 0.0

    def disagreement(weight: float) -> float:
        config = SynthesisConfig(
            method="generator", images=64, steps=12, class_weight=0.0, entropy_weight=0.0, adversarial_weight=weight
        )
        seen = base.normalise(generate(base, config, 0))
        with torch.no_grad():
            return float(priors.disagreement(base.module(seen), stand_in(base)(seen)))

    assert disagreement(10.0) > disagreement(0.0)


def test_a_student_learns_from_the_base(base):
    student = Student(base)
    seen = base.normalise(Synthesiser(base).made(SynthesisConfig(images=64)).images())
    with torch.no_grad():
        before = float(priors.disagreement(base.module(seen), student.network(seen)))
        with_base = base.module(seen)
    with Probe(base.module) as probe:
        for _ in range(10):
            student.learn(seen, probe)
    assert float(priors.disagreement(with_base, student.network(seen))) < 0.7 * before
    assert not any(parameter.requires_grad for parameter in student.network.parameters())


@pytest.mark.parametrize("size", [(16, 16), (17, 40), (224, 224)])
def test_a_generator_of_any_size_begins_with_a_small_map(size):
    network = Generator(size, 3, 10)
    assert max(network.start) <= 8 and network(torch.randn(2, 64), torch.tensor([0, 9])).shape == (2, 3, *size)


def test_inversion_works_on_every_kind_of_transformer(variant, make_vit):
    base = base_of(make_vit(variant))
    config = SynthesisConfig(images=16, steps=2, adversarial_weight=0.5)
    made = invert(base, config, 0)
    assert made.dtype == torch.uint8 and made.shape == (16, base.channels, *base.size)
    assert torch.equal(made, invert(base, config, 0))
    assert all(parameter.requires_grad and parameter.grad is None for parameter in base.module.parameters())


@pytest.mark.parametrize("method", ["scenes", "inversion", "generator"])
def test_every_method_fills_the_set_and_repeats_itself(base, method, tmp_path):
    config = SynthesisConfig(method=method, images=32, steps=6, adversarial_weight=0.5)
    made = Synthesiser(base).made(config)
    assert len(made) == 32 and made.size == base.size
    assert torch.equal(made.images(), Synthesiser(base).made(config).images())
    with torch.no_grad():
        assert torch.equal(base.module(base.normalise(made.images())).argmax(1), made.labels)


def test_a_kept_set_is_the_same_to_the_bit(base, tmp_path):
    config = SynthesisConfig(**SMALL)
    first = Synthesiser(base, cache=TensorCache(tmp_path))
    made = first.made(config)
    assert first.seconds > 0
    again = Synthesiser(base, cache=TensorCache(tmp_path))
    read = again.made(config)
    assert again.seconds == 0
    assert torch.equal(made.images(), read.images()) and torch.equal(made.labels, read.labels)
    assert made.fingerprint == read.fingerprint
    held_out = again.made(config, HELD_OUT)
    assert held_out.fingerprint != made.fingerprint
    assert not (held_out.images()[:, None] == made.images()[None]).flatten(2).all(2).any()


def test_a_damaged_set_is_made_again(base, tmp_path):
    config = SynthesisConfig(**SMALL)
    made = Synthesiser(base, cache=TensorCache(tmp_path)).made(config)
    (path,) = tmp_path.rglob("*.safetensors")
    for content in (path.read_bytes()[:100], b"", path.read_bytes()[:-1] + b"x"):
        path.write_bytes(content)
        again = Synthesiser(base, cache=TensorCache(tmp_path))
        assert again.made(config).fingerprint == made.fingerprint
        assert again.seconds > 0


IN_ANOTHER_PROCESS = """
import pathlib, sys, torch
from sousvit.models.load import ModelSpec, load
from sousvit.spaces.techniques.synthesis.config import SynthesisConfig
from sousvit.spaces.techniques.synthesis.synthesiser import Synthesiser
torch.set_num_threads(1)
base = load(ModelSpec(checkpoint=sys.argv[1]).resolved(pathlib.Path()))
for method in ("scenes", "inversion", "generator"):
    print(Synthesiser(base, 3).made(SynthesisConfig(method=method, images=32, steps=3)).fingerprint)
"""


def test_another_process_makes_the_same_images(tiny_project):
    base = load(tiny_project.model_spec())
    methods = ("scenes", "inversion", "generator")
    configs = [SynthesisConfig(method=method, images=32, steps=3) for method in methods]
    here = [Synthesiser(base, 3).made(config).fingerprint for config in configs]
    command = [sys.executable, "-c", IN_ANOTHER_PROCESS, str(tiny_project.checkpoint)]
    there = subprocess.run(command, capture_output=True, text=True, check=True)
    assert there.stdout.split() == here and len(set(here)) == 3


def test_of_several_workers_one_makes_the_images(base, tmp_path):
    synthesisers = [Synthesiser(base, cache=TensorCache(tmp_path)) for _ in range(3)]
    threads = [threading.Thread(target=one.made, args=(SynthesisConfig(**SMALL),)) for one in synthesisers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one.seconds > 0 for one in synthesisers) == [False, False, True]


def test_what_has_no_effect_makes_no_other_set(base):
    synthesiser = Synthesiser(base)
    scenes = synthesiser(SynthesisConfig(images=32))
    assert synthesiser(SynthesisConfig(images=32, steps=5, learning_rate=1.0, entropy_weight=3.0)) is scenes
    assert synthesiser(SynthesisConfig(images=32, candidates=1)) is not scenes
    said, unsaid = (SynthesisConfig(method="inversion", **own) for own in ({"steps": 12, "adversarial_weight": 0}, {}))
    assert said.acting == unsaid.acting == unsaid
    generator = SynthesisConfig(method="generator", adversarial_weight=0.0)
    assert generator.acting == generator and generator.acting.adversarial == 0


def test_parameters_seeds_and_weights_make_other_sets(base, make_vit):
    config = SynthesisConfig(**SMALL)
    other = base_of(make_vit("average", seed=1))
    sets = [
        Synthesiser(base).made(config),
        Synthesiser(base, seed=1).made(config),
        Synthesiser(base).made(config.model_copy(update={"class_weight": 0.0})),
    ]
    assert len({each.fingerprint for each in sets}) == 3
    assert not torch.equal(sets[0].images(), Synthesiser(other).made(config).images())


def test_a_recipe_gets_its_own_images_and_others_the_runs(base):
    synthesiser = Synthesiser(base, calibration=16)
    run = synthesiser(SynthesisConfig(images=48))
    context = Context(base.normalise, run.calibration, run.train, run.teacher, synthesise=synthesiser)
    builder = ModelBuilder(base, context)
    plain = Recipe((Step.make("prune_mlp", keep=0.5),))
    own = Recipe((Step.make("synthesize", **SMALL), *plain.steps))
    assert builder.context_of(plain).train is run.train and builder.context_of(plain).calibration is run.calibration
    given = builder.context_of(own)
    assert given.train is not None and len(given.train) == 32 and len(given.calibration) == 16
    assert isinstance(synthesiser(SynthesisConfig(**SMALL)), StepImages)
    first, second = builder.build(plain).state_dict(), builder.build(own).state_dict()
    assert any(not torch.equal(value, second[name]) for name, value in first.items())


def test_recipes_that_share_images_share_models(base, tmp_path):
    synthesiser = Synthesiser(base, calibration=16)
    run = synthesiser(SynthesisConfig(images=48))
    context = Context(base.normalise, run.calibration, run.train, run.teacher, synthesise=synthesiser)
    cache = TensorCache(tmp_path)
    tail = (Step.make("prune_mlp", keep=0.5), Step.make("distill", epochs=1, batch_size=16, num_views=1))
    plain = ModelBuilder(base, context, cache).build(Recipe(tail))
    seconds: dict[str, float] = {}
    own = Recipe((Step.make("synthesize", images=48), *tail))
    again = ModelBuilder(base, context, cache).build(own, seconds=seconds)
    assert "recover" not in seconds
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in plain.state_dict().items())


def test_a_recipe_that_makes_images_is_refused_where_there_are_some(base):
    made = Synthesiser(base).made(SynthesisConfig(images=32))
    builder = ModelBuilder(base, Context(base.normalise, made, made))
    with pytest.raises(UserError, match="synthesize makes images where there are none; received data with images"):
        builder.build(Recipe((Step.make("synthesize"), Step.make("prune_mlp"))))


def test_recipes_that_look_at_no_image_need_none(base):
    shape, own = vit_shape(base.module), Step.make("synthesize", method="inversion")
    blind, seeing = Step.make("tome"), Step.make("static_int8")
    for rest in ((), (Step.make("distill"),), (Step.make("int8_dynamic"),), (blind, Step.make("int8_dynamic"))):
        assert Recipe((own, *rest)).canonical(shape) == Recipe(rest).canonical(shape)
    for rest in ((seeing,), (blind, seeing), (blind, Step.make("distill"))):
        recipe = Recipe((own, *rest))
        assert recipe.canonical(shape) == recipe
        assert recipe.structure().steps == tuple(step for step in rest if step.role is not Role.REPAIR)


def test_an_elastic_base_is_trained_on_made_images(tiny_project, tmp_path):
    base = load(tiny_project.model_spec())
    synthesiser = Synthesiser(base, calibration=64)
    run, own = synthesiser(SynthesisConfig(images=32)), SynthesisConfig(images=64)
    context = Context(base.normalise, run.calibration, run.train, run.teacher, synthesise=synthesiser)
    elastic = Step.make("elastic", epochs=1, num_views=1, pool=2, batch_size=32)
    cuts = (Step.make("prune_depth", drop=1), Step.make("prune_mlp", keep=0.5))
    recipe = Recipe((Step.make("synthesize", images=64), elastic, *cuts))
    assert recipe.canonical(vit_shape(base.module)) == recipe and recipe.is_prepared
    made = synthesiser(own)
    given = Context(base.normalise, made.calibration, made.train, made.teacher)
    expected = ModelBuilder(base, given, TensorCache(tmp_path / "given")).build(recipe.without("synthesize"))
    builder = ModelBuilder(base, context, TensorCache(tmp_path / "own"))
    found = builder.build(recipe)
    assert all(torch.equal(value, found.state_dict()[name]) for name, value in expected.state_dict().items())
    seconds: dict[str, float] = {}
    builder.build(Recipe((*recipe.steps[:2], Step.make("prune_mlp", keep=0.25))), seconds=seconds)
    assert "prepare" not in seconds, "the prepared base is shared"


def test_the_probe_reads_patches_only(make_vit, variant):
    model = make_vit(variant)
    channels, (height, width) = model.patch_embed.proj.in_channels, model.patch_embed.img_size
    with Probe(model) as probe:
        _, patches = probe(torch.zeros(2, channels, height, width))
    rows, columns = model.patch_embed.grid_size
    assert [each.shape for each in patches] == [(2, rows * columns, 32)] * len(model.blocks)
    assert not any(block.attn._forward_hooks for block in model.blocks)


def test_models_without_global_attention_work_too():
    import timm

    model = timm.create_model("efficientvit_b0", num_classes=5).eval()
    base = LoadedModel(model, ModelSpec(name="other"), (32, 32), 3, (0.5,) * 3, (0.25,) * 3, 5, "other")
    made = Synthesiser(base).made(SynthesisConfig(images=16, steps=1, adversarial_weight=0.1))
    assert len(made) == 16


def test_the_stand_in_is_smaller_and_leaves_the_base_alone(base):
    student = stand_in(base)
    assert len(student.blocks) == 3 and len(base.module.blocks) == 4
    assert student.blocks[0] is not base.module.blocks[0]


def test_the_students_loss_is_least_where_it_equals_the_teacher():
    taught = torch.tensor([[8.0, 0.0], [0.0, 8.0]])
    patches = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))
    task = Classification()
    equal = student_loss(task, taught, taught, patches, patches)
    assert float(equal) == pytest.approx(0.5 * np.log1p(np.exp(-8)), rel=1e-3)
    logits, own = torch.randn(2, 2, generator=torch.Generator().manual_seed(1)), 2 * patches.flip(2) + 1
    teacher, student = taught.softmax(1).numpy(), logits.softmax(1).numpy()
    cross = -np.log(student[[0, 1], teacher.argmax(1)]).mean()
    distance = np.mean((scipy.stats.zscore(own.numpy(), axis=-1) - scipy.stats.zscore(patches.numpy(), axis=-1)) ** 2)
    expected = scipy.stats.entropy(teacher, student, axis=1).mean() + 0.5 * cross + distance
    assert float(student_loss(task, logits, taught, own, patches)) == pytest.approx(expected, rel=1e-3)
    assert student_loss(task, -taught, taught, patches, patches) > equal + 1
    assert student_loss(task, taught, taught, patches.flip(1), patches) > equal + 0.1


def test_a_contact_sheet_shows_a_few_dozen(base):
    import io

    made = Synthesiser(base).made(SynthesisConfig(images=64))
    sheet = Image.open(io.BytesIO(contact_sheet(made)))
    assert sheet.width == 12 * 66 - 2 and sheet.height == 4 * 66 - 2  # 16 px times 4, and a gap of 2
    scenes = draw_scenes(3, (200, 100), PixelLaw((0.5,) * 3, (0.2,) * 3), torch.Generator().manual_seed(0))
    large = memory_set("large", to_uint8(scenes), torch.zeros(3, dtype=torch.int64), "large")
    assert Image.open(io.BytesIO(contact_sheet(large))).size == (3 * 50 - 2, 98 - 2)


def test_a_search_optimises_images_of_small_bases_only(base):
    handler, shape = get_technique("synthesize"), vit_shape(base.module)
    assert handler.choices(shape)["method"] == ("scenes", "inversion")
    large = replace(shape, embed_dim=24 * shape.embed_dim, blocks=shape.blocks * 200)
    assert large.macs() > 1e9 and handler.choices(large)["method"] == ("scenes",)


def test_wrong_parameters_are_refused():
    for wrong in ({"images": 1}, {"method": "diffusion"}, {"steps": 0}, {"entropy_weight": -1}):
        with pytest.raises(UserError):
            Step.make("synthesize", **wrong)
