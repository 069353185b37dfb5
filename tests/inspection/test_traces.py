"""Traces: what is recorded is what the model computes, whichever way it computes it."""

import io
import math

import numpy as np
import pytest
import torch

from charlm.config import ModelSettings
from charlm.corpus.text import Text
from charlm.corpus.vocabulary import UNKNOWN_PLACEHOLDER, Vocabulary
from charlm.evaluation.scores import concatenate, score_characters
from charlm.inspection.arrays import to_npz
from charlm.inspection.traces import CHUNK, Trace, keep_units, signal_names, trace_text
from charlm.model.language_model import CharacterModel
from tests.conftest import make_text

CELLS = pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
LENGTH = CHUNK + 50  # more than one window
VOCABULARY_SIZE = 11
SHOWN = [chr(0x100 + id_) for id_ in range(VOCABULARY_SIZE)]


def model_of(cell: str, **changes: object) -> CharacterModel:
    settings = ModelSettings.model_validate(
        {"cell": cell, "embedding_size": 8, "hidden_size": 8, "num_layers": 2, **changes}
    )
    model = CharacterModel(VOCABULARY_SIZE, settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    return model


def some_text(length: int = LENGTH, starts: tuple[int, ...] = ()) -> Text:
    return make_text(torch.randint(VOCABULARY_SIZE, (length,)).tolist(), VOCABULARY_SIZE, starts)


@CELLS
@pytest.mark.parametrize("starts", [(), (0, 100, CHUNK, CHUNK + 7)], ids=["one document", "documents"])
@pytest.mark.parametrize("tie_weights", [False, True])
def test_a_trace_equals_the_fast_path(cell: str, starts: tuple[int, ...], tie_weights: bool) -> None:
    model, text = model_of(cell, tie_weights=tie_weights), some_text(starts=starts)
    trace = trace_text(model, text, SHOWN)
    expected = concatenate(score_characters(model, text))
    np.testing.assert_allclose(trace.log_probabilities, expected.log_probabilities, atol=1e-4)
    assert np.array_equal(trace.ranks, expected.ranks)
    assert trace.characters == [SHOWN[id_] for id_ in text.raw_ids]


@CELLS
def test_the_states_are_those_of_the_kernels(cell: str) -> None:
    model, text = model_of(cell), some_text()
    trace = trace_text(model, text, SHOWN)
    ids = torch.tensor([VOCABULARY_SIZE, *text.raw_ids.tolist()])[:, None]
    with torch.inference_mode():
        outputs, state = model.recurrent(model.embed(ids), model.zero_state(1))
    np.testing.assert_allclose(trace.layers[-1].signals["hidden"], outputs[1:, 0], atol=1e-5)
    np.testing.assert_allclose(trace.layers[-1].start["hidden"], outputs[0, 0], atol=1e-5)
    for layer in range(2):
        for name, part in zip(("hidden", "cell"), state, strict=False):
            np.testing.assert_allclose(trace.layers[layer].signals[name][-1], part[layer, 0], rtol=1e-4, atol=1e-5)


def before(trace: Trace, layer: int, name: str) -> np.ndarray:  # type: ignore[type-arg]
    traced = trace.layers[layer]
    return np.concatenate([traced.start[name][None], traced.signals[name][:-1]])


def test_an_lstm_keeps_writes_and_shows_as_its_gates_say() -> None:
    trace = trace_text(model_of("lstm"), some_text(), SHOWN)
    for layer in range(2):
        s = trace.layers[layer].signals
        assert tuple(s) == signal_names("lstm")
        np.testing.assert_allclose(
            s["cell"], s["forget"] * before(trace, layer, "cell") + s["input"] * s["candidate"], atol=1e-5
        )
        np.testing.assert_allclose(s["hidden"], s["output"] * np.tanh(s["cell"]), atol=1e-5)
        for gate in ("input", "forget", "output"):
            assert ((s[gate] >= 0) & (s[gate] <= 1)).all()
        assert s["candidate"].min() < -0.5


def test_a_gru_mixes_its_old_value_and_the_candidate() -> None:
    trace = trace_text(model_of("gru"), some_text(), SHOWN)
    s = trace.layers[1].signals
    assert tuple(s) == ("reset", "update", "candidate", "hidden")
    mixed = (1 - s["update"]) * s["candidate"] + s["update"] * before(trace, 1, "hidden")
    np.testing.assert_allclose(s["hidden"], mixed, atol=1e-5)


def test_the_gates_come_from_the_weights_of_their_names() -> None:
    """The forget gate of the first layer, computed from the stored matrices by hand."""
    model, text = model_of("lstm"), some_text(20)
    trace = trace_text(model, text, SHOWN)
    layer = model.recurrent.layers[0]
    rows = slice(8, 16)  # of i, f, g, o
    with torch.inference_mode():
        inputs = model.embedding.weight[text.raw_ids[5]]
        hidden = torch.from_numpy(trace.layers[0].signals["hidden"][4])
        sums = layer.weight_ih[rows] @ inputs + layer.weight_hh[rows] @ hidden + layer.bias[rows]  # type: ignore[index, operator]
    np.testing.assert_allclose(trace.layers[0].signals["forget"][5], torch.sigmoid(sums), atol=1e-5)


def test_where_a_document_begins_the_state_does() -> None:
    trace = trace_text(model_of("lstm"), some_text(10, starts=(0, 4)), SHOWN)
    assert np.flatnonzero(trace.resets).tolist() == [3]
    s = trace.layers[0].signals
    np.testing.assert_allclose(s["cell"][3], s["input"][3] * s["candidate"][3], atol=1e-6)
    for name, values in s.items():  # the start token is read in place of the last character
        np.testing.assert_allclose(values[3], trace.layers[0].start[name], atol=1e-6)


def test_the_likeliest_next_characters_are_those_of_the_whole_distribution() -> None:
    model, text = model_of("lstm"), some_text(30)
    trace = trace_text(model, text, SHOWN)
    ids = torch.tensor([VOCABULARY_SIZE, *text.raw_ids.tolist()])[:, None]
    with torch.inference_mode():
        probabilities = model(ids, model.zero_state(1))[0][1:, 0].softmax(-1)
    best = probabilities.topk(5)
    assert np.array_equal(trace.next_ids, best.indices)
    np.testing.assert_allclose(trace.next_probabilities, best.values, atol=1e-5)


def test_some_signals_of_some_units_are_those_of_the_whole_trace() -> None:
    model, text = model_of("lstm"), some_text()
    whole = trace_text(model, text, SHOWN)
    units = {1: [2, 5]}
    some = trace_text(model, text, SHOWN, ["cell", "forget"], units)
    kept = keep_units(whole, units)
    assert some.layers[0].signals["cell"].shape == (LENGTH, 0)
    for name in ("cell", "forget"):
        expected = whole.layers[1].signals[name][:, [2, 5]]
        assert np.array_equal(some.layers[1].signals[name], expected)
        assert np.array_equal(kept.layers[1].signals[name], expected)
        assert np.array_equal(kept.layers[1].start[name], some.layers[1].start[name])
    for layer in range(2):  # the gates of all units are counted
        assert np.array_equal(some.layers[layer].use.time_constants, whole.layers[layer].use.time_constants)  # type: ignore[arg-type]


def test_the_use_of_gates_is_counted_over_the_characters() -> None:
    trace = trace_text(model_of("lstm"), some_text(), SHOWN)
    for layer in trace.layers:
        assert set(layer.use.gates) == {"input", "forget", "output"}
        for name, use in layer.use.gates.items():
            values = layer.signals[name]
            np.testing.assert_allclose(use.closed, (values < 0.1).mean(0))
            np.testing.assert_allclose(use.open, (values > 0.9).mean(0))
            np.testing.assert_allclose(use.mean, values.mean(0), rtol=1e-5)


def test_one_character_and_a_vocabulary_of_two() -> None:
    settings = ModelSettings(embedding_size=4, hidden_size=4, num_layers=1)
    trace = trace_text(CharacterModel(2, settings), make_text([1], 2), SHOWN)
    assert len(trace) == 1
    assert trace.next_ids.shape == (1, 2)
    assert trace.signal("forget").shape == (1, 1, 4)


def test_unknown_characters_cost_what_they_do_elsewhere() -> None:
    vocabulary = Vocabulary(["a", "b"], has_unknown=True)
    model = CharacterModel(len(vocabulary), ModelSettings(embedding_size=4, hidden_size=4, num_layers=1))
    text = Text(vocabulary, vocabulary.encode("ab☃a", "replace"))
    trace = trace_text(model, text, ["a", "b", UNKNOWN_PLACEHOLDER])
    assert trace.characters[2] == UNKNOWN_PLACEHOLDER
    assert -trace.log_probabilities[2] > math.log(1_000_000)
    np.testing.assert_allclose(
        trace.log_probabilities, concatenate(score_characters(model, text)).log_probabilities, atol=1e-5
    )


def test_a_file_for_notebooks_has_everything() -> None:
    trace = trace_text(model_of("gru"), some_text(12), SHOWN)
    stored = np.load(io.BytesIO(to_npz(trace, SHOWN)), allow_pickle=False)
    for name in signal_names("gru"):
        assert np.array_equal(stored[name], trace.signal(name))
        assert stored[f"start_{name}"].shape == (2, 8)
    assert "".join(map(chr, stored["characters"])) == "".join(trace.characters)
    assert "".join(map(chr, stored["labels"])) == "".join(SHOWN)
    for name in ("log_probabilities", "ranks", "next_ids", "next_probabilities", "resets"):
        assert np.array_equal(stored[name], getattr(trace, name))
