"""AdamW: what decays, and a state that survives being saved."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from charlm.config import ModelSettings, OptimizationSettings
from charlm.model.language_model import CharacterModel
from charlm.training.optimizer import make_optimizer, optimizer_state_dict, restore_optimizer

SETTINGS = OptimizationSettings(learning_rate=0.1, weight_decay=0.5, beta1=0.8, beta2=0.9)


def model_of(**settings: object) -> CharacterModel:
    model = CharacterModel(7, ModelSettings(**{"hidden_size": 5, "embedding_size": 5, **settings}))
    nn.init.constant_(model.output_bias, 1.0)
    return model


def learn(model: CharacterModel, optimizer: torch.optim.Optimizer, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    ids, targets = torch.randint(7, (2, 6, 3), generator=generator)
    logits, _ = model(ids, model.zero_state(3))
    optimizer.zero_grad()
    functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
    optimizer.step()


def test_weight_decay_applies_to_matrices_only() -> None:
    model = model_of()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = make_optimizer(model, SETTINGS)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        shrunk = before[name] if "bias" in name else before[name] * (1 - 0.1 * 0.5)
        torch.testing.assert_close(parameter.detach(), shrunk, msg=name)


@pytest.mark.parametrize("tied", [False, True])
def test_every_parameter_is_optimized_once(tied: bool) -> None:
    model = model_of(tie_weights=tied)
    optimizer = make_optimizer(model, SETTINGS)
    listed = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(map(id, listed)) == sorted(map(id, model.parameters()))


def test_optimizer_uses_settings() -> None:
    for group in make_optimizer(model_of(), SETTINGS).param_groups:
        assert (group["lr"], group["betas"]) == (0.1, (0.8, 0.9))


@pytest.mark.parametrize("tied", [False, True])
def test_restored_optimizer_continues_exactly(tied: bool) -> None:
    model = model_of(tie_weights=tied)
    optimizer = make_optimizer(model, SETTINGS)
    for seed in range(3):
        learn(model, optimizer, seed)
    tensors = {name: tensor.clone() for name, tensor in optimizer_state_dict(model, optimizer).items()}
    copy = model_of(tie_weights=tied)
    copy.load_state_dict({name: weight.clone() for name, weight in model.state_dict().items()})
    restored = make_optimizer(copy, SETTINGS)
    restore_optimizer(copy, restored, tensors)
    for seed in range(3, 6):
        learn(model, optimizer, seed)
        learn(copy, restored, seed)
        for ours, theirs in zip(model.parameters(), copy.parameters(), strict=True):
            assert torch.equal(ours, theirs)


def test_optimizer_tensors_are_named_after_parameters() -> None:
    model = model_of()
    optimizer = make_optimizer(model, SETTINGS)
    assert optimizer_state_dict(model, optimizer) == {}  # before the first step there is nothing
    learn(model, optimizer, 0)
    names = {name for name, _ in model.named_parameters()}
    expected = {f"optimizer.{moment}.{name}" for moment in ("exp_avg", "exp_avg_sq", "step") for name in names}
    assert set(optimizer_state_dict(model, optimizer)) == expected


def test_missing_tensor_is_named() -> None:
    model = model_of()
    optimizer = make_optimizer(model, SETTINGS)
    learn(model, optimizer, 0)
    tensors = optimizer_state_dict(model, optimizer)
    del tensors["optimizer.exp_avg.output_bias"]
    with pytest.raises(ValueError, match="output_bias"):
        restore_optimizer(model, optimizer, tensors)
