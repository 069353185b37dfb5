"""What is logged of each layer: gates, gradients, updates, histograms."""

from pathlib import Path

import pytest
import torch

from charlm import runs
from charlm.model.language_model import CharacterModel
from charlm.training.internals import layer_name, measure_internals
from charlm.training.step import take_step
from charlm.training.trainer import Trainer
from tests.training.conftest import Make, assert_same_training
from tests.training.test_monitor import board

GROUPS = ("gates", "gradient_norm_per_layer", "update_to_weight")


def weights_of(model: CharacterModel) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def step(trainer: Trainer, number: int) -> None:
    window = trainer.lanes.window(number)
    state = trainer.model.zero_state(trainer.lanes.batch_size)
    take_step(trainer.model, trainer.state.optimizer, [window], state, learning_rate=0.01)


def test_the_update_is_how_far_the_last_step_moved_the_weights_of_a_layer(make_trainer: Make) -> None:
    trainer = make_trainer(weight_decay=0.0)
    for number in range(3):
        before = weights_of(trainer.model)
        step(trainer, number)
    numbers = measure_internals(trainer.model, trainer.state.optimizer, trainer.validation).numbers
    after = weights_of(trainer.model)
    for layer in ("embedding", "layer 1", "layer 2", "output"):
        names = [name for name in after if layer_name(name) == layer]
        moved = torch.cat([(after[name] - before[name]).flatten() for name in names]).norm()
        size = torch.cat([after[name].flatten() for name in names]).norm()
        assert numbers[f"update_to_weight/{layer}"] == pytest.approx((moved / size).item(), rel=1e-3)
        assert numbers[f"gradient_norm_per_layer/{layer}"] > 0


@pytest.mark.parametrize(
    ("cell", "gates"), [("lstm", {"input", "forget", "output"}), ("gru", {"reset", "update"}), ("rnn", set())]
)
def test_gates_are_counted_layer_by_layer(make_trainer: Make, cell: str, gates: set[str]) -> None:
    trainer = make_trainer(cell=cell)
    step(trainer, 0)
    found = measure_internals(trainer.model, trainer.state.optimizer, trainer.validation)
    expected = {f"gates/layer {n} {gate} {end}" for n in (1, 2) for gate in gates for end in ("closed", "open")}
    assert {tag for tag in found.numbers if tag.startswith("gates/")} == expected
    assert all(0 <= found.numbers[tag] <= 1 for tag in expected)
    memory = "cell" if cell == "lstm" else "hidden"
    assert {f"states/layer {n} {memory}" for n in (1, 2)} <= found.distributions.keys()
    assert {f"weights/{name}" for name, _ in trainer.model.named_parameters()} <= found.distributions.keys()


def test_tensorboard_has_them_at_evaluations_and_one_option_turns_them_off(make_trainer: Make) -> None:
    for run, log_internals in (("with", True), ("without", False)):
        trainer = make_trainer(run, max_steps=8, log_internals=log_internals)
        trainer.train()
        tags = board(trainer.run).Tags()
        found = {group for group in GROUPS if any(tag.startswith(f"{group}/") for tag in tags["scalars"])}
        assert found == (set(GROUPS) if log_internals else set())
        assert bool(tags["histograms"]) is log_internals
    events = board(trainer.run.with_name("with")).Scalars("update_to_weight/layer 1")
    assert [event.step for event in events] == [4, 8]


def test_training_is_the_same_with_and_without(make_trainer: Make, tmp_path: Path) -> None:
    for run, log_internals in (("with", True), ("without", False)):
        make_trainer(run, dropout=0.3, max_steps=6, evaluate_every=2, log_internals=log_internals).train()
    assert_same_training(*(runs.load_checkpoint(tmp_path / run) for run in ("with", "without")))


def test_a_new_run_in_the_place_of_another_removes_the_folder_of_its_validation_curve(make_trainer: Make) -> None:
    trainer = make_trainer(max_steps=2)
    trainer.train()
    assert list((trainer.run / "validation").glob("events.out.tfevents.*"))
    (trainer.run / "validation" / "mine.txt").write_text("kept")
    runs.remove_run(trainer.run)
    assert [path.name for path in (trainer.run / "validation").iterdir()] == ["mine.txt"]
    (trainer.run / "validation" / "mine.txt").unlink()
    (trainer.run / "config.toml").write_bytes(b"")
