from __future__ import annotations

import pytest
import torch

from sousvit.checked import validated
from sousvit.errors import UserError
from sousvit.models.detector import EXTRA, head_of
from sousvit.models.load import create, load, save_checkpoint
from sousvit.specs import DataSpec, ModelSpec, require_task

ARGS = {
    "img_size": [32, 48],
    "patch_size": 8,
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 2,
    "class_token": False,
    "num_classes": 2,
}
HEAD = {"channels": 32, "strides": [4, 8, 16], "convs": 1}


def spec(detector=None, **args):
    values = {"name": "vit_tiny_patch16_224", "args": {**ARGS, **args}, "detector": {**HEAD, **(detector or {})}}
    return validated(ModelSpec, values, "model")


def detector(**args):
    torch.manual_seed(0)
    return create(spec(**args))


def refused(call, *args):
    with pytest.raises(UserError) as caught:
        call(*args)
    return str(caught.value)


@pytest.mark.parametrize("args", [{}, {"class_token": True}, {"reg_tokens": 2}, {"dynamic_img_size": False}])
def test_every_position_of_every_level_is_predicted(args):
    model = detector(**args)
    out = model(torch.zeros(3, 3, 32, 48))
    head = head_of(model)
    assert head.level_sizes == [8 * 12, 4 * 6, 2 * 3]
    assert out.shape == (3, sum(head.level_sizes), 2 + EXTRA)
    assert head.anchors.shape == (sum(head.level_sizes), 4)


def test_a_perfect_prediction_is_decoded_to_its_box():
    head = head_of(detector())
    dense = torch.full((1, len(head.anchors), 2 + EXTRA), -20.0)
    dense[..., 2:6] = 1.0
    position = 8 * 12 + 1 * 6 + 2  # second level (stride 8), row 1, column 2: its centre is (16, 8)
    dense[0, position] = torch.tensor([-20.0, 20, 1.0, 0.5, 1.5, 2.0, 20])
    (found,) = head.detections(dense)
    assert found["labels"].tolist() == [1] and float(found["scores"][0]) > 0.99
    assert found["boxes"].tolist() == [[8, 4, 28, 24]]


def test_the_loss_prefers_right_boxes_and_takes_images_without_any():
    model = detector()
    head = head_of(model)
    target = {"boxes": torch.tensor([[8.0, 4, 28, 24]]), "labels": torch.tensor([1])}
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}
    dense = torch.full((1, len(head.anchors), 2 + EXTRA), -4.0)
    dense[..., 2:6] = 1.0
    found = torch.nn.Parameter(dense)
    optimizer = torch.optim.Adam([found], lr=0.1)
    first = head.loss(found, [target])
    for _ in range(150):
        optimizer.zero_grad()
        head.loss(found, [target]).backward()
        optimizer.step()
    assert head.loss(found, [target]) < 0.5 * first
    best = head.detections(found.detach())[0]
    assert best["labels"][0] == 1 and (best["boxes"][0] - target["boxes"][0]).abs().max() < 3
    assert torch.isfinite(head.loss(found, [nothing])) and head.loss(found, [nothing]) > 0


def test_another_grid_of_patches_keeps_the_positions():
    model = detector()
    before = model(torch.zeros(1, 3, 32, 48)).shape
    with torch.no_grad():
        model.set_input_size(patch_size=(16, 16))
    head_of(model).grid = model.patch_embed.grid_size
    assert model(torch.zeros(1, 3, 32, 48)).shape == before


def test_a_checkpoint_describes_its_detector(tmp_path):
    model, path = detector(), tmp_path / "base.safetensors"
    save_checkpoint(path, model, {"name": spec().name, "args": ARGS, "detector": spec().detector.model_dump()})
    read = ModelSpec(checkpoint=str(path)).resolved(tmp_path)
    assert read.task == "detection" and read.detector == spec().detector
    again = load(read)
    image = torch.rand(1, 3, 32, 48)
    assert torch.equal(again.module(image), model(image)) and again.num_classes == 2 and again.size == (32, 48)
    other = read.model_copy(update={"detector": spec({"nms_threshold": 0.4}).detector})
    assert load(other).fingerprint != again.fingerprint


@pytest.mark.parametrize(
    ("head", "args", "words"),
    [
        ({"strides": [4, 24]}, {"img_size": [24, 48]}, "power of two"),
        ({"strides": [8, 64]}, {}, "divides the image"),
        ({}, {"num_classes": 0}, "needs classes"),
        ({}, {"global_pool": "avg"}, "reads all tokens"),
        ({}, {"patch_size": [8, 16]}, "square patches"),
    ],
)
def test_detectors_that_cannot_be_built(head, args, words):
    assert words in refused(create, spec(head, **args))


def test_other_architectures_have_no_detection_head():
    swin = ModelSpec(name="swin_tiny_patch4_window7_224", args={"num_classes": 2}, detector=HEAD)
    assert "model.args must suit" in refused(create, swin) or "plain ViT" in refused(create, swin)


@pytest.mark.parametrize("head", [{"channels": 40}, {"strides": []}, {"convs": 0}, {"classes": 3}])
def test_head_specifications_that_make_no_sense(head):
    assert "model: detector" in refused(spec, head)


def test_model_and_data_belong_together():
    boxes, classes = DataSpec(format="voc", train="a"), DataSpec(format="idx", train="a")
    require_task(spec(), boxes)
    assert "one task" in refused(require_task, spec(), classes)
    assert "one task" in refused(require_task, ModelSpec(name="vit_tiny_patch16_224"), boxes)
