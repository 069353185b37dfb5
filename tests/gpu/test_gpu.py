"""What only a CUDA GPU can prove: the same results as the CPU's, and no warning on the way. ``make gpu`` runs them."""

import copy
import json
import os
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import charlm
from charlm import runs
from charlm.config import DynamicSettings
from charlm.corpus.windows import Lanes
from charlm.evaluation.dynamic import evaluate_dynamically
from charlm.evaluation.loss import evaluate
from charlm.generation.sampler import Sampler
from charlm.model.device import no_tf32
from charlm.model.language_model import CharacterModel
from charlm.training.optimizer import optimizer_state_dict, step_if_finite
from tests.commands.conftest import Cli, cli
from tests.conftest import SMALL, make_text
from tests.training.conftest import Make, assert_same_training, entries, make_trainer

__all__ = ["cli", "make_trainer"]  # fixtures

REASON = "needs a CUDA GPU"
CPU = torch.device("cpu")
CELLS = ("lstm", "gru", "rnn")
pytestmark = [pytest.mark.gpu]
if not torch.cuda.is_available() and "gpu" not in os.environ.get("CHARLM_TEST_REQUIRES", ""):
    pytestmark.append(pytest.mark.skip(reason=REASON))


@pytest.fixture
def cuda() -> torch.device:
    assert torch.cuda.is_available(), "CHARLM_TEST_REQUIRES names a GPU, and there is none"
    return torch.device("cuda")


def settings(**changes: Any) -> dict[str, Any]:
    names = {"hidden_size": 32, "embedding_size": 16, "num_layers": 2, "batch_size": 8, "sequence_length": 32}
    return {**names, "max_steps": 20, "evaluate_every": 10, "sample_length": 20, "log_every": 5, **changes}


@pytest.fixture
def run(poem_file: Path, tmp_path: Path, cuda: torch.device) -> charlm.Run:
    return charlm.train(poem_file, out=tmp_path / "run", device="cuda", **settings())


# Commands


def test_every_command_runs_on_gpu(cli: Cli, poem_file: Path) -> None:
    for arguments in (
        ("train", poem_file, "--out", "run", "--device", "cuda", *SMALL),
        ("train", "--resume", "run", "--max-steps", "12", "--device", "cuda"),
        ("train", poem_file, "--out", "fine", "--init-from", "run", "--device", "cuda", *SMALL),
        ("eval", "run", "--device", "cuda"),
        ("eval", "run", "--device", "cuda", "--dynamic"),
        ("eval", "run", "--device", "cuda", "--num-segments", "4"),
        ("score", "run", poem_file, "--device", "cuda", "--out", "scores.jsonl"),
        ("sample", "run", "--device", "cuda", "--length", "30", "--num-samples", "3", "--seed", "1"),
        ("sample", "run", "--device", "cuda", "--next-probabilities", "3"),
        ("info", "run", "--json"),
        ("bench", "--device", "cuda", "--hidden-size", "16", "--batch-size", "2", "--rounds", "1", "--json"),
    ):
        result = cli(*arguments)
        assert result.code == 0, (arguments, result.err)
        assert "Warning" not in result.err, (arguments, result.err)


def test_auto_device_is_gpu_and_is_recorded(poem_file: Path, tmp_path: Path, cuda: torch.device) -> None:
    run = charlm.train(poem_file, out=tmp_path / "run", **settings(max_steps=2))
    environment = run.load(device="cpu").checkpoint.environment
    assert environment.device == "cuda"
    assert environment.gpu == torch.cuda.get_device_name()
    assert environment.precision == "fp32"


# The same numbers as the CPU's


@pytest.mark.parametrize("separator", ["", "\n"])
@pytest.mark.parametrize("cell", CELLS)
def test_exact_evaluation_matches_cpu(
    poem_file: Path, tmp_path: Path, poem: str, cuda: torch.device, cell: str, separator: str
) -> None:
    run = charlm.train(
        poem_file, out=tmp_path / "run", device="cuda", **settings(cell=cell, document_separator=separator)
    )
    torch.set_float32_matmul_precision("high")  # as a training leaves it: exact evaluation may not use TF32
    theirs, ours = (run.load(device=device).evaluate(poem) for device in ("cuda", "cpu"))
    assert theirs.nats_per_character == pytest.approx(ours.nats_per_character, abs=1e-5)
    assert theirs.exact
    scores = [run.load(device=device).score(poem[:500]) for device in ("cuda", "cpu")]
    assert abs(scores[0].log_probabilities - scores[1].log_probabilities).max() < 1e-3


@pytest.mark.parametrize("dropout", [0.0, 0.5])  # whose masks are the same on both
@pytest.mark.parametrize("cell", CELLS)
def test_states_and_gradients_match_cpu(cuda: torch.device, cell: str, dropout: float) -> None:
    settings = charlm.api.TrainSettings(cell=cell, hidden_size=24, embedding_size=8, dropout=dropout)
    model = CharacterModel(7, settings, regularization=settings)
    other = copy.deepcopy(model).to(cuda)
    text = make_text([0, 1, 2, 3, 4, 5, 6, 3, 1] * 60, 7, starts=(0, 11, 13, 200, 201, 350))
    lanes = Lanes(text, 4, 32)
    with no_tf32():
        for number in range(3):
            window = lanes.window(number)
            found = []
            for each in (model, other):
                predictions = each.predict(window, each.zero_state(4))
                each.zero_grad()
                (predictions.loss_sum() / predictions.num_targets).backward()
                gradients = [weight.grad for weight in each.parameters() if weight.grad is not None]
                found.append([predictions.logits.detach(), *predictions.state, *gradients])
            for ours, theirs in zip(*found, strict=True):
                torch.testing.assert_close(theirs.cpu(), ours, rtol=1e-4, atol=1e-5)


def test_dynamic_evaluation_matches_cpu(run: charlm.Run, poem: str) -> None:
    options = DynamicSettings(dynamic_learning_rate=1e-3)
    found = []
    for device in ("cuda", "cpu"):
        model = run.load(device=device)
        text = model._encode_text(poem[:1500])
        found.append(evaluate_dynamically(model.network, text, model._encode_text(poem), options).nats_per_character)
    assert found[0] == pytest.approx(found[1], abs=1e-3)


def test_evaluation_in_lanes_is_close(run: charlm.Run, poem: str) -> None:
    model = run.load(device="cuda")
    text = model._encode_text(poem * 3)
    assert evaluate(model.network, text, 4).nats_per_character == pytest.approx(
        evaluate(model.network, text).nats_per_character, abs=0.01
    )


# Training


@pytest.mark.parametrize("changes", [{}, {"dropout": 0.4}, {"document_separator": "\n"}, {"accumulation_steps": 2}])
def test_resume_restores_everything(make_trainer: Make, cuda: torch.device, changes: dict[str, Any]) -> None:
    whole = make_trainer("whole", device="cuda", max_steps=6, **changes)
    whole.train()
    make_trainer("half", device="cuda", max_steps=3, schedule="constant", **changes).train()
    half = make_trainer("half", resume="auto", device="cuda", max_steps=6, **changes)
    saved = runs.load_checkpoint(half.run)
    again = half.state.checkpoint(half.settings, half.corpus, saved.model.metrics, saved.model.environment)
    assert_same_training(again, saved)  # generators of CPU and GPU, moments and steps, all on the right device
    half.train()
    assert half.counters.steps == 6


def test_training_matches_cpu(make_trainer: Make, cuda: torch.device) -> None:
    losses = []
    for device in ("cuda", "cpu"):
        trainer = make_trainer(device, device=device, max_steps=12, dropout=0.0)
        trainer.train()
        losses.append([entry["loss_train"] for entry in entries(trainer.run) if "loss_train" in entry])
    assert losses[0] == pytest.approx(losses[1], abs=0.02)


def test_non_finite_step_changes_nothing(make_trainer: Make, cuda: torch.device) -> None:
    trainer = make_trainer(device="cuda", max_steps=9)
    trainer.train_step()
    before = [weight.detach().clone() for weight in trainer.model.parameters()]
    moments = {name: t.clone() for name, t in optimizer_state_dict(trainer.model, trainer.state.optimizer).items()}
    for weight in trainer.model.parameters():
        weight.grad = torch.full_like(weight, float("nan"))
    step_if_finite(trainer.state.optimizer, torch.tensor(False, device=cuda))
    for old, new in zip(before, trainer.model.parameters(), strict=True):
        assert torch.equal(old, new)
    after = optimizer_state_dict(trainer.model, trainer.state.optimizer)
    assert all(torch.equal(moments[name], tensor) for name, tensor in after.items())
    assert all(tensor.is_cuda for tensor in after.values())


def test_step_does_not_wait_for_gpu(make_trainer: Make, cuda: torch.device) -> None:
    trainer = make_trainer(device="cuda", max_steps=9, document_separator="\n")
    trainer.train_step()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.train_step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("cell", CELLS)
def test_weights_and_copies_are_flattened_for_cudnn(cuda: torch.device, cell: str) -> None:
    model = CharacterModel(7, charlm.api.TrainSettings(cell=cell, hidden_size=24, embedding_size=8)).to(cuda)
    ids = torch.zeros(3, 2, dtype=torch.long, device=cuda)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns of weights that are scattered
        for each in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            logits, _ = each(ids, each.zero_state(2))
            logits.sum().backward()


def test_out_of_memory_is_reported(poem_file: Path, tmp_path: Path, cuda: torch.device) -> None:
    torch.cuda.set_per_process_memory_fraction(0.001)
    try:
        with pytest.raises(charlm.api.CharlmError, match="Out of memory"):
            charlm.train(poem_file, out=tmp_path / "run", device="cuda", **settings(hidden_size=4096))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


# Sampling


@pytest.mark.parametrize("num_samples", [1, 5])
def test_sampling_matches_cpu_probabilities(run: charlm.Run, num_samples: int) -> None:
    options = {"length": 40, "temperature": 0, "num_samples": num_samples, "precision": "fp32", "seed": 1}
    texts = [
        [sample.text for sample in run.load(device=device).sample_many("Die", **options)] for device in ("cuda", "cpu")
    ]
    assert texts[0] == texts[1]
    probabilities = [dict(run.load(device=device).next_characters("Die", 5)) for device in ("cuda", "cpu")]
    assert probabilities[0] == pytest.approx(probabilities[1], abs=1e-4)


@pytest.mark.parametrize("cell", CELLS)
def test_samples_are_reproducible_and_streamable(
    poem_file: Path, tmp_path: Path, cuda: torch.device, cell: str
) -> None:
    run = charlm.train(poem_file, out=tmp_path / "run", device="cuda", **settings(cell=cell, document_separator="\n"))
    model = run.load(device="cuda")
    text = model.sample("Die", length=60, seed=2)
    assert "".join(model.stream("Die", length=60, seed=2)) == text
    assert isinstance(Sampler(model.network, model.vocabulary, charlm.api.SampleSettings()).stepper_pool.idle, list)
    assert copy.deepcopy(model).sample("Die", length=60, seed=2) == text


def test_gpu_checkpoint_works_on_cpu(run: charlm.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    model = run.load()
    assert next(model.network.parameters()).device == CPU
    assert json.dumps(model.sample("Die", length=5, seed=1))
