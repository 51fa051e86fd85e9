"""Synthesised images: priors against independent references, and what makes a set worth keeping."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch
from PIL import Image

from sousvit.common.cache import TensorCache
from sousvit.common.errors import UserError
from sousvit.common.model import LoadedModel, ModelSpec, load
from sousvit.spaces.builder import ModelBuilder
from sousvit.spaces.recipe import Recipe, Step
from sousvit.spaces.synthesis import priors
from sousvit.spaces.synthesis.config import SynthesisConfig
from sousvit.spaces.synthesis.generator import student_loss
from sousvit.spaces.synthesis.inversion import invert
from sousvit.spaces.synthesis.probe import Probe
from sousvit.spaces.synthesis.scenes import PixelLaw, draw_scenes, smooth_fields
from sousvit.spaces.synthesis.select import balanced, chosen_scenes
from sousvit.spaces.synthesis.sheet import contact_sheet
from sousvit.spaces.synthesis.student import stand_in
from sousvit.spaces.synthesis.supply import HELD_OUT, Supply
from sousvit.spaces.technique import Context, Supplied

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


def test_maps_of_mirrored_images_are_consistent():
    patches = torch.randn(2, 12, 5, generator=torch.Generator().manual_seed(0))
    maps = priors.strength_map(patches, (3, 4))
    mirrored = priors.strength_map(patches.unflatten(1, (3, 4)).flip(2).flatten(1, 2), (3, 4))
    assert float(priors.flip_consistency(maps, mirrored)) == pytest.approx(0, abs=1e-6)
    assert float(priors.flip_consistency(maps, maps)) > 0.01
    assert float(priors.neighbour_consistency([patches, 3 * patches], (3, 4))) == pytest.approx(0, abs=1e-6)


def test_total_variation_of_a_ramp():
    ramp = torch.arange(5.0).expand(1, 1, 4, 5)
    assert float(priors.total_variation(ramp)) == pytest.approx(1.0)


@pytest.mark.parametrize(("mean", "std"), [(0.286, 0.353), (0.485, 0.229), (0.13, 0.31), (0.5, 0.27)])
def test_pixels_have_the_statistics_of_the_base(mean, std):
    law = PixelLaw((mean, 1 - mean), (std, std))
    pixels = law.pixels(torch.randn(50_000, 2, 1, 1, generator=torch.Generator().manual_seed(0)))
    assert torch.allclose(pixels.mean((0, 2, 3)), torch.tensor([mean, 1 - mean]), atol=0.005)
    assert torch.allclose(pixels.std((0, 2, 3)), torch.tensor([std, std]), atol=0.005)


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
    made = Supply(base).made(config)
    assert len(made) == 32 and made.size == base.size
    assert torch.equal(made.images(), Supply(base).made(config).images())
    with torch.no_grad():
        assert torch.equal(base.module(base.normalise(made.images())).argmax(1), made.labels)


def test_a_kept_set_is_the_same_to_the_bit(base, tmp_path):
    config = SynthesisConfig(**SMALL)
    first = Supply(base, cache=TensorCache(tmp_path))
    made = first.made(config)
    assert first.seconds > 0
    again = Supply(base, cache=TensorCache(tmp_path))
    read = again.made(config)
    assert again.seconds == 0
    assert torch.equal(made.images(), read.images()) and torch.equal(made.labels, read.labels)
    assert made.fingerprint == read.fingerprint
    held_out = again.made(config, HELD_OUT)
    assert held_out.fingerprint != made.fingerprint
    assert not (held_out.images()[:, None] == made.images()[None]).flatten(2).all(2).any()


def test_parameters_seeds_and_weights_make_other_sets(base, make_vit):
    config = SynthesisConfig(**SMALL)
    other = base_of(make_vit("average", seed=1))
    sets = [
        Supply(base).made(config),
        Supply(base, seed=1).made(config),
        Supply(base).made(config.model_copy(update={"class_weight": 0.0})),
    ]
    assert len({each.fingerprint for each in sets}) == 3
    assert not torch.equal(sets[0].images(), Supply(other).made(config).images())


def test_a_recipe_gets_its_own_images_and_others_the_runs(base):
    supply = Supply(base, calibration=16)
    run = supply(SynthesisConfig(images=48))
    context = Context(base.normalise, run.calibration, run.train, run.teacher, supply=supply)
    builder = ModelBuilder(base, context)
    plain = Recipe((Step.make("prune_mlp", keep=0.5),))
    own = Recipe((Step.make("synthesize", **SMALL), *plain.steps))
    assert builder.context_of(plain) is context
    given = builder.context_of(own)
    assert given.train is not None and len(given.train) == 32 and len(given.calibration) == 16
    assert isinstance(supply(SynthesisConfig(**SMALL)), Supplied)
    first, second = builder.build(plain).state_dict(), builder.build(own).state_dict()
    assert any(not torch.equal(value, second[name]) for name, value in first.items())


def test_a_recipe_of_images_alone_is_the_base(base):
    from sousvit.spaces.shape import VitShape

    shape = VitShape.of(base.module)
    recipe = Recipe((Step.make("synthesize"), Step.make("distill")))
    assert recipe.canonical(shape) == Recipe()


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
    made = Supply(base).made(SynthesisConfig(images=16, steps=1, adversarial_weight=0.1))
    assert len(made) == 16


def test_the_stand_in_is_smaller_and_leaves_the_base_alone(base):
    student = stand_in(base)
    assert len(student.blocks) == 3 and len(base.module.blocks) == 4
    assert student.blocks[0] is not base.module.blocks[0]


def test_the_students_loss_is_least_where_it_equals_the_teacher():
    taught = torch.tensor([[8.0, 0.0], [0.0, 8.0]])
    patches = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))
    equal = student_loss(taught, taught, patches, patches)
    assert float(equal) == pytest.approx(0.5 * np.log1p(np.exp(-8)), rel=1e-3)
    assert student_loss(-taught, taught, patches, patches) > equal + 1
    assert student_loss(taught, taught, patches.flip(1), patches) > equal + 0.1


def test_a_contact_sheet_shows_a_few_dozen(base):
    import io

    made = Supply(base).made(SynthesisConfig(images=64))
    sheet = Image.open(io.BytesIO(contact_sheet(made)))
    assert sheet.width == 12 * 66 - 2 and sheet.height == 4 * 66 - 2  # 16 px times 4, and a gap of 2


def test_wrong_parameters_are_refused():
    for wrong in ({"images": 1}, {"method": "diffusion"}, {"steps": 0}, {"entropy_weight": -1}):
        with pytest.raises(UserError):
            Step.make("synthesize", **wrong)
