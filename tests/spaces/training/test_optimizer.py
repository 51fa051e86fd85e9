"""Muon against its definition, and who optimises which parameter."""

from __future__ import annotations

import pytest
import timm
import torch

from sousvit.spaces.training.optimizer import Muon, make_optimizers, orthogonalised


@pytest.mark.parametrize("size", [(16, 16), (32, 8), (8, 32)])
def test_orthogonalised_keeps_singular_vectors_and_evens_out_values(size):
    generator = torch.Generator().manual_seed(0)
    matrices = torch.randn(3, *size, generator=generator)
    found = orthogonalised(matrices)
    for matrix, result in zip(matrices, found, strict=True):
        u, _, v = torch.linalg.svd(matrix, full_matrices=False)
        inner = u.mT @ result @ v.mT
        values = inner.diagonal()
        assert ((values > 0.3) & (values < 1.4)).all()
        assert torch.allclose(inner, torch.diag(values), atol=1e-4)


def test_the_first_step_is_minus_lr_times_the_orthogonalised_gradient_and_decay():
    weight = torch.nn.Parameter(torch.ones(8, 16))
    optimizer = Muon([weight], lr=0.1, weight_decay=0.5, momentum=0.0)
    weight.grad = torch.randn(8, 16, generator=torch.Generator().manual_seed(1))
    optimizer.step()
    expected = torch.ones(8, 16) * (1 - 0.05) - 0.1 * 0.2 * 4 * orthogonalised(weight.grad[None])[0]
    assert torch.allclose(weight.detach(), expected, atol=1e-6)


def test_muon_solves_a_least_squares_problem():
    generator = torch.Generator().manual_seed(2)
    inputs, true = torch.randn(64, 8, generator=generator), torch.randn(8, 4, generator=generator)
    weight = torch.nn.Parameter(torch.zeros(8, 4))
    optimizer = Muon([weight], lr=0.2)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 200)
    for _ in range(200):
        optimizer.zero_grad()
        (inputs @ (weight - true)).square().mean().backward()
        optimizer.step()
        schedule.step()
    assert (weight - true).abs().max() < 0.05


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_every_parameter_belongs_to_one_optimizer(kind):
    model = timm.create_model("deit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=2)
    optimizers = make_optimizers(model, kind, 1e-3, 0.1)
    owned = [id(parameter) for one in optimizers for group in one.param_groups for parameter in group["params"]]
    assert sorted(owned) == sorted(id(parameter) for parameter in model.parameters())
    assert len(optimizers) == (2 if kind == "muon" else 1)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            if group["weight_decay"] == 0:
                assert all(parameter.ndim < 2 or parameter.ndim == 3 for parameter in group["params"])
