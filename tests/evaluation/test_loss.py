"""Every character predicted exactly once, from all the text before it."""

import math

import numpy as np
import pytest
import torch

from charlm.config import ModelSettings, RegularizationSettings
from charlm.corpus.text import Text
from charlm.corpus.vocabulary import Vocabulary
from charlm.corpus.windows import Lanes
from charlm.evaluation.loss import MAX_LANES, Evaluation, choose_lanes, evaluate
from charlm.model import cells
from charlm.model.language_model import CharacterModel
from charlm.training.step import take_step
from tests.conftest import make_text, needs_bf16
from tests.evaluation.conftest import constant_model, small_model


@pytest.fixture(scope="module")
def text(poem: str) -> Text:
    """Some 25,000 characters."""
    return Text.from_string(poem * 6, Vocabulary.from_text(poem))


@pytest.fixture(scope="module")
def trained(poem: str, text: Text) -> CharacterModel:
    """A model that has learnt some of the poem, so that what it remembers matters; in evaluation mode."""
    torch.manual_seed(0)
    vocabulary = Vocabulary.from_text(poem)
    model = CharacterModel(
        len(vocabulary), ModelSettings(hidden_size=32, embedding_size=16), RegularizationSettings(dropout=0.3)
    )
    lanes = Lanes(text, batch_size=8, sequence_length=32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    state = model.zero_state(8)
    for number in range(150):
        state = take_step(model, optimizer, [lanes.window(number)], state, learning_rate=0.01).state
    return model.eval()


def random_text(count: int, vocabulary_size: int = 7) -> Text:
    return make_text(np.random.default_rng(0).integers(vocabulary_size, size=count), vocabulary_size)


def naive_loss(model: CharacterModel, text: Text) -> float:
    """The mean loss, one character after another, with the reference cells in double precision."""
    cell = cells.CELLS[model.settings.cell]
    weights = {name: weight.detach().double() for name, weight in model.state_dict().items()}
    hidden = torch.zeros(1, model.settings.hidden_size, dtype=torch.float64)
    states = [(hidden,) * cells.CELLS[model.settings.cell].num_states] * model.settings.num_layers
    total, read = 0.0, model.vocabulary_size
    for id_ in text[:].tolist():
        x = weights["embedding.weight"][read][None]
        for index, state in enumerate(states):
            layer = f"recurrent.layers.{index}."
            from_input = x @ weights[layer + "weight_ih"].T + weights[layer + "bias"]
            states[index] = cell(from_input, state, weights[layer + "weight_hh"])
            x = states[index][0]
        logits = x @ weights["output_weight"].T + weights["output_bias"]
        total -= torch.log_softmax(logits, -1)[0, id_].item()
        read = id_
    return total / len(text)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_exact_loss_matches_naive_loop(cell: str) -> None:
    model, text = small_model(cell=cell, dropout=0.0), random_text(600)
    result = evaluate(model, text)
    assert result.nats_per_character == pytest.approx(naive_loss(model, text), abs=1e-6)
    assert result.characters == 600


@pytest.mark.parametrize("chunk", [1, 64, 999, 100_000])
def test_loss_does_not_depend_on_chunk_length(trained: CharacterModel, text: Text, chunk: int) -> None:
    part = text.subrange(range(3000))
    expected = evaluate(trained, part, chunk=256).nats_per_character
    assert evaluate(trained, part, chunk=chunk).nats_per_character == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("chunk", [64, 999])
def test_loss_in_lanes_does_not_depend_on_chunk_length(trained: CharacterModel, text: Text, chunk: int) -> None:
    expected = evaluate(trained, text, lanes=6, chunk=256).nats_per_character
    assert evaluate(trained, text, lanes=6, chunk=chunk).nats_per_character == pytest.approx(expected, abs=1e-5)


def test_loss_in_lanes_is_within_0_001_nats_of_exact_loss(trained: CharacterModel, text: Text) -> None:
    exact = evaluate(trained, text).nats_per_character
    assert exact < math.log(trained.vocabulary_size) - 1  # it has learnt something
    forgetful = np.mean(
        [evaluate(trained, text.subrange(range(start, start + 8))).nats_per_character for start in range(0, 4000, 8)]
    )
    assert forgetful > exact + 0.1  # and its memory matters
    for lanes in (2, choose_lanes(len(text)), 25):
        assert lanes > 1
        assert abs(evaluate(trained, text, lanes).nats_per_character - exact) < 0.001


@pytest.mark.parametrize("lanes", [1, 2, 3, 64])
@pytest.mark.parametrize("count", [1, 255, 257, 3001, 4999])
def test_each_character_is_counted_once(count: int, lanes: int) -> None:
    # Each id has a loss of its own, so one character left out or counted twice would show.
    log_probabilities = torch.log_softmax(torch.randn(7), 0)
    text = random_text(count)
    expected = -log_probabilities[torch.from_numpy(text[:])].double().mean().item()
    result = evaluate(constant_model(log_probabilities), text, lanes)
    assert result.nats_per_character == pytest.approx(expected, abs=1e-6)
    assert result.characters == count


def test_uniform_model_costs_log_of_vocabulary_size() -> None:
    result = evaluate(constant_model(torch.zeros(7)), random_text(500))
    assert result.nats_per_character == pytest.approx(math.log(7), abs=1e-6)
    assert result.bits_per_character == pytest.approx(math.log2(7), abs=1e-6)


def test_bits_are_nats_divided_by_log_2() -> None:
    assert Evaluation(math.log(2), 10).bits_per_character == 1
    assert Evaluation(1.0, 10).bits_per_character == pytest.approx(1.442695, abs=1e-6)


def test_first_character_is_predicted_from_start_token() -> None:
    model, text = small_model(dropout=0.0), random_text(1)
    logits, _ = model(torch.tensor([[model.vocabulary_size]]), model.zero_state(1))
    expected = -torch.log_softmax(logits[0, 0], -1)[text[:][0]].item()
    assert evaluate(model, text).nats_per_character == pytest.approx(expected, abs=1e-6)
    with torch.no_grad():
        model.embedding.weight[model.vocabulary_size] += 1
    assert abs(evaluate(model, text).nats_per_character - expected) > 0.01


def test_first_lane_starts_with_start_token_and_zero_state() -> None:
    model, text = small_model(dropout=0.0), random_text(2000)
    with torch.no_grad():  # what the start symbol leaves in the state is all that the next steps see
        model.embedding.weight[model.vocabulary_size] = 5
    exact = evaluate(model, text.subrange(range(1000))).nats_per_character
    second = evaluate(model, text).nats_per_character * 2 - exact  # of the second thousand
    in_lanes = evaluate(model, text, lanes=2).nats_per_character
    assert in_lanes == pytest.approx((exact + second) / 2, abs=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_leaves_training_state_unchanged(trained: CharacterModel, text: Text, training: bool) -> None:
    trained.train(training)
    weights = {name: weight.clone() for name, weight in trained.state_dict().items()}
    generator = torch.get_rng_state()
    first = evaluate(trained, text.subrange(range(2500)), lanes=2)
    assert evaluate(trained, text.subrange(range(2500)), lanes=2) == first  # without dropout, whatever the mode
    assert all(module.training is training for module in trained.modules())
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(weights[name], weight) for name, weight in trained.state_dict().items())
    trained.eval()


@needs_bf16
def test_bf16_loss_is_close_to_fp32(trained: CharacterModel, text: Text) -> None:
    exact = evaluate(trained, text.subrange(range(2500))).nats_per_character
    assert evaluate(trained, text.subrange(range(2500)), precision="bf16").nats_per_character == pytest.approx(
        exact, abs=0.02
    )


def test_progress_covers_every_character() -> None:
    told: list[int] = []
    evaluate(small_model(dropout=0.0), random_text(1000), chunk=300, on_progress=told.append)
    assert sum(told) == 1000
    assert len(told) == 4


def test_choose_lanes_limits_warmup() -> None:
    assert choose_lanes(1) == 1
    assert choose_lanes(7_999) == 1
    assert choose_lanes(8_000) == 2
    assert choose_lanes(10_000_000) == MAX_LANES


def test_unknown_character_costs_token_plus_penalty() -> None:
    vocabulary = Vocabulary(["a", "b"], has_unknown=True)
    text = Text(vocabulary, np.array([0, 2, 1, 2], dtype=np.uint8))
    log_probabilities = torch.log_softmax(torch.tensor([0.3, -0.5, 1.2]), 0)
    result = evaluate(constant_model(log_probabilities), text)
    a, b, unknown = (-log_probabilities.double()).tolist()
    expected = (a + b + 2 * (unknown + math.log(1_112_062))) / 4
    assert result.nats_per_character == pytest.approx(expected, abs=1e-6)
    assert (result.characters, result.unknown) == (4, 2)
