"""Muon: its update against a plain reference, one gate at a time, and a state that survives being saved."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from charlm import runs
from charlm.config import ModelSettings, OptimizationSettings
from charlm.errors import TrainingInterruptedError
from charlm.model.language_model import CharacterModel
from charlm.training import muon
from charlm.training.internals import measure_internals
from charlm.training.muon import COEFFICIENTS, MOMENTUM, NEWTON_SCHULZ_STEPS, Muon, join_rows, orthogonalize, split_rows
from charlm.training.optimizer import make_optimizer, optimizer_state_dict, step_if_finite
from tests.training.conftest import Make, SendSignal, assert_same_training

SETTINGS = OptimizationSettings(optimizer="muon", learning_rate=0.01, muon_learning_rate=0.03, weight_decay=0.5)
GATES = {"lstm": 4, "gru": 3, "rnn": 1}
CLOSE = {"rtol": 1e-4, "atol": 1e-5}  # fp32 and fp64
OF_MUON = ("weight_ih", "weight_hh")


def make_model(cell: str = "lstm") -> CharacterModel:
    size = {"hidden_size": 6, "embedding_size": 5}
    return CharacterModel(7, ModelSettings.model_validate({"cell": cell, **size}))


def set_gradients(model: CharacterModel, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def reference_update(matrix: Tensor) -> Tensor:
    """Newton–Schulz as Jordan et al. write it, on one matrix, in fp64."""
    a, b, c = COEFFICIENTS
    x = matrix.double() / matrix.double().norm()
    for _ in range(NEWTON_SCHULZ_STEPS):
        x = a * x + b * (x @ x.T) @ x + c * (x @ x.T) @ (x @ x.T) @ x
    return x


@pytest.mark.parametrize("block_rows", [64, 6, 3, 4, 5])  # of the 6 rows of a gate; 4: two blocks of 3; 5: likewise
@pytest.mark.parametrize("cell", GATES)
def test_steps_match_reference_gate_by_gate(monkeypatch: pytest.MonkeyPatch, cell: str, block_rows: int) -> None:
    monkeypatch.setattr(muon, "BLOCK_ROWS", block_rows)
    blocks = GATES[cell] * (1 if block_rows >= 6 else 2)
    model = make_model(cell)
    optimizer = make_optimizer(model, SETTINGS)
    assert isinstance(optimizer, Muon)
    names = [name for name, _ in model.named_parameters() if name.endswith(OF_MUON)]
    assert len(names) == 4
    weights = {name: dict(model.named_parameters())[name].detach().double() for name in names}
    momenta = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for seed in range(3):
        set_gradients(model, seed)
        optimizer.step()
        for name in names:
            gradient = dict(model.named_parameters())[name].grad
            assert gradient is not None
            momenta[name] = MOMENTUM * momenta[name] + (1 - MOMENTUM) * gradient.double()
            nesterov = (1 - MOMENTUM) * gradient.double() + MOMENTUM * momenta[name]
            updates = [reference_update(block) for block in nesterov.chunk(blocks)]
            scale = 0.2 * math.sqrt(max(updates[0].shape))
            weights[name] = (1 - 0.03 * 0.5) * weights[name] - 0.03 * scale * torch.cat(updates)
    for name in names:
        weight = dict(model.named_parameters())[name].detach().double()
        torch.testing.assert_close(weight, weights[name], **CLOSE, msg=name)


def test_other_parameters_are_updated_by_adamw() -> None:
    model, other = make_model(), make_model()
    other.load_state_dict(model.state_dict())
    adamw = OptimizationSettings(learning_rate=0.01, weight_decay=0.5)
    for each, settings in ((model, SETTINGS), (other, adamw)):
        optimizer = make_optimizer(each, settings)
        for seed in range(3):
            set_gradients(each, seed)
            optimizer.step()
    others = dict(other.named_parameters())
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, others[name]) != name.endswith(OF_MUON), name


@pytest.mark.parametrize("rows", [3, 4, 5, 7, 8, 9])
def test_rows_are_split_into_equal_blocks_and_joined_again(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(muon, "BLOCK_ROWS", 4)
    gates = torch.randn(2, rows, 9)
    blocks = split_rows(gates)
    assert torch.equal(join_rows(blocks, gates.shape), gates)
    assert len(blocks) == 2 * math.ceil(rows / 4)
    assert blocks.shape[1] == math.ceil(rows / math.ceil(rows / 4))
    size = blocks.shape[1]
    expected = [torch.cat([reference_update(block) for block in gate.split(size)]) for gate in gates]
    orthogonal = join_rows(orthogonalize(blocks), gates.shape)
    torch.testing.assert_close(orthogonal.double(), torch.stack(expected), **CLOSE)


@pytest.mark.parametrize("shape", [(4, 8, 8), (1, 3, 20), (2, 20, 3)])
def test_orthogonalized_singular_values_are_close_to_one(shape: tuple[int, ...]) -> None:
    values = torch.rand(shape[0], min(shape[1:])) * 0.9 + 0.1
    left, _, right = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    matrices = left @ torch.diag_embed(values) @ right
    values = torch.linalg.svdvals(orthogonalize(matrices))
    assert values.min() > 0.6
    assert values.max() < 1.3
    for number, matrix in enumerate(matrices):
        alone = orthogonalize(matrix[None])[0]
        torch.testing.assert_close(orthogonalize(matrices)[number], alone)
        left, _, right = torch.linalg.svd(matrix, full_matrices=False)
        assert (left @ right * alone).sum() > 0.9 * alone.norm() * math.sqrt(min(matrix.shape))  # nearly parallel


def test_a_zero_gradient_is_no_division_by_zero() -> None:
    assert torch.equal(orthogonalize(torch.zeros(2, 3, 4)), torch.zeros(2, 3, 4))


@pytest.mark.parametrize("fused", [True, False])
def test_non_finite_step_changes_neither_weights_nor_momentum(fused: bool) -> None:
    model = make_model()
    optimizer = make_optimizer(model, SETTINGS)
    optimizer.defaults["fused"] = fused
    set_gradients(model, 0)
    step_if_finite(optimizer, torch.tensor(True))
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    moments = {name: moment.clone() for name, moment in optimizer_state_dict(model, optimizer).items()}
    set_gradients(model, 1)
    for parameter in model.parameters():
        assert parameter.grad is not None
        parameter.grad[0] = math.inf
    step_if_finite(optimizer, torch.tensor(False))
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, weights[name]), name
    for name, moment in optimizer_state_dict(model, optimizer).items():
        assert torch.equal(moment, moments[name]), name
    set_gradients(model, 1)
    step_if_finite(optimizer, torch.tensor(True))
    for name, weight in model.named_parameters():
        assert weight.isfinite().all(), name
        assert not torch.equal(weight, weights[name]), name


def test_resumed_run_is_bit_identical(make_trainer: Make, send_signal_at_step: SendSignal) -> None:
    settings = {"optimizer": "muon", "dropout": 0.2}
    whole = make_trainer("whole", **settings)
    whole.train()
    first = make_trainer("parts", **settings)
    send_signal_at_step(first, 5)
    with pytest.raises(TrainingInterruptedError):
        first.train()
    second = make_trainer(resume=first.run)
    second.train()
    checkpoint = runs.load_checkpoint(second.run)
    assert_same_training(checkpoint, runs.load_checkpoint(whole.run))
    stored = {name.partition(".recurrent")[0] for name in checkpoint.training_state if name.endswith(OF_MUON)}
    assert stored == {"optimizer.momentum"}


def test_learning_rates_follow_one_schedule(make_trainer: Make) -> None:
    trainer = make_trainer(optimizer="muon", learning_rate=0.01, muon_learning_rate=0.04, max_steps=3)
    for _ in range(3):
        trainer.train_step()
        adamw, *_, of_muon = (group["lr"] for group in trainer.state.optimizer.param_groups)
        assert adamw > 0
        assert of_muon == pytest.approx(4 * adamw)


def test_internals_of_a_layer(make_trainer: Make, tmp_path: Path) -> None:
    trainer = make_trainer(optimizer="muon", weight_decay=0.0, warmup_steps=0)
    trainer.train_step()
    before = trainer.model.recurrent.state_dict()
    before = {name: weight.clone() for name, weight in before.items()}
    trainer.train_step()
    numbers = measure_internals(trainer.model, trainer.state.optimizer, trainer.validation).numbers
    for layer in (0, 1):
        names = [name for name in before if name.startswith(f"layers.{layer}.")]
        after = trainer.model.recurrent.state_dict()
        moved = torch.cat([(after[name] - before[name]).flatten() for name in names]).norm()
        size = torch.cat([after[name].flatten() for name in names]).norm()
        assert numbers[f"update_to_weight/layer {layer + 1}"] == pytest.approx((moved / size).item(), rel=0.25)
        assert numbers[f"gradient_norm_per_layer/layer {layer + 1}"] > 0
