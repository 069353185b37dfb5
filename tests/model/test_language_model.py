"""The whole network: shapes, dropout, the tied matrix, the loss, the start symbol."""

import math

import pytest
import torch

from charlm.config import ModelSettings, RegularizationSettings
from charlm.corpus.windows import IGNORE_INDEX, Lanes
from charlm.model.language_model import CharacterModel, Predictions
from charlm.model.masks import MaskKey, MaskKind
from tests.conftest import make_text, needs_bf16

VOCABULARY = 11


def model_of(dropout: float = 0.0, **settings: object) -> CharacterModel:
    shape = ModelSettings(**{"embedding_size": 6, "hidden_size": 8, **settings})
    return CharacterModel(VOCABULARY, shape, RegularizationSettings(dropout=dropout))


def some_ids(time: int = 7, lanes: int = 3) -> torch.Tensor:
    return torch.randint(VOCABULARY, (time, lanes))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize(("cell", "parts"), [("lstm", 2), ("gru", 1), ("rnn", 1)])
def test_forward_returns_logits_and_state(cell: str, parts: int, num_layers: int, tied: bool) -> None:
    model = model_of(cell=cell, num_layers=num_layers, tie_weights=tied, embedding_size=8)
    logits, state = model(some_ids(7, 3), model.zero_state(3))
    assert logits.shape == (7, 3, VOCABULARY)
    assert [tuple(part.shape) for part in state] == [(num_layers, 3, 8)] * parts


def test_weight_names() -> None:
    names = {"embedding.weight", "output_weight", "output_bias"}
    names |= {f"recurrent.layers.{n}.{weight}" for n in (0, 1) for weight in ("weight_ih", "weight_hh", "bias")}
    assert set(model_of(num_layers=2).state_dict()) == names
    tied = model_of(num_layers=2, tie_weights=True, embedding_size=8)
    assert set(tied.state_dict()) == names - {"output_weight"}


def test_dropout_is_active_only_in_training() -> None:
    model = model_of(dropout=0.5)
    ids, state = some_ids(), model.zero_state(3)
    model.train()
    assert not torch.equal(model(ids, state)[0], model(ids, state)[0])
    model.eval()
    assert torch.equal(model(ids, state)[0], model(ids, state)[0])


def test_evaluation_equals_model_without_dropout() -> None:
    model, plain = model_of(dropout=0.5).eval(), model_of()
    plain.load_state_dict(model.state_dict())
    ids, state = some_ids(), model.zero_state(3)
    assert torch.equal(model(ids, state)[0], plain(ids, state)[0])


def test_tied_output_is_the_embedding() -> None:
    model = model_of(tie_weights=True, embedding_size=8)
    assert model.output_matrix().data_ptr() == model.embedding.weight.data_ptr()
    assert model.output_matrix().shape == (VOCABULARY, 8)
    untied = model_of(embedding_size=8)
    assert untied.output_matrix().data_ptr() != untied.embedding.weight.data_ptr()


def test_tied_matrix_receives_both_gradients() -> None:
    model = model_of(tie_weights=True, embedding_size=8)
    ids = torch.tensor([[VOCABULARY], [2]])  # the start symbol and one character are read
    targets = torch.tensor([[2], [4]])
    logits, _ = model(ids, model.zero_state(1))
    predictions_of(logits, targets).loss_sum().backward()
    gradient = model.embedding.weight.grad
    assert gradient is not None
    assert gradient[VOCABULARY].any()  # only ever read
    assert gradient[7].any()  # here only predicted
    outputs, _ = model.recurrent(model.embed(ids), model.zero_state(1))
    errors = (torch.softmax(logits, -1) - torch.nn.functional.one_hot(targets, VOCABULARY)).flatten(0, 1)
    from_output = errors.T @ outputs.flatten(0, 1)
    torch.testing.assert_close(gradient[7], from_output[7])
    assert not torch.allclose(gradient[2], from_output[2])  # read as well as predicted


def test_tied_logits_start_small() -> None:
    model = model_of(tie_weights=True, embedding_size=256, hidden_size=256)
    logits, _ = model(some_ids(), model.zero_state(3))
    assert logits.std() < 2


def predictions_of(logits: torch.Tensor, targets: torch.Tensor) -> Predictions:
    return Predictions(logits.float(), targets, int((targets != IGNORE_INDEX).sum()), ())


def test_loss_sums_over_counted_targets() -> None:
    logits = torch.randn(2, 2, VOCABULARY)
    targets = torch.tensor([[3, -100], [0, -100]])
    by_hand = [-torch.log_softmax(logits[time, 0], -1)[target].item() for time, target in ((0, 3), (1, 0))]
    predictions = predictions_of(logits, targets)
    assert predictions.loss_sum().item() == pytest.approx(sum(by_hand), abs=1e-6)
    assert predictions.losses().sum().item() == pytest.approx(sum(by_hand), abs=1e-6)
    assert predictions.losses()[:, 1].tolist() == [0, 0]


def test_ignored_targets_change_neither_loss_nor_gradient() -> None:
    logits = torch.randn(2, 2, VOCABULARY, requires_grad=True)
    predictions_of(logits, torch.tensor([[3, -100], [0, -100]])).loss_sum().backward()
    assert logits.grad is not None
    assert not logits.grad[:, 1].any()
    assert logits.grad[:, 0].any()


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=needs_bf16)])
def test_logits_and_losses_are_fp32(precision: str) -> None:
    model = model_of()
    window = Lanes(make_text([1, 2, 3, 4, 5, 6] * 4, VOCABULARY), 2, 5).window(0)
    predictions = model.predict(window, model.zero_state(2), precision)
    assert predictions.logits.dtype == predictions.loss_sum().dtype == torch.float32
    assert not any(part.requires_grad for part in predictions.state)


def test_start_token_has_embedding_but_no_logit() -> None:
    model = model_of()
    assert model.embedding.weight.shape == (VOCABULARY + 1, 6)
    start = torch.full((1, 1), VOCABULARY)
    logits, _ = model(start, model.zero_state(1))
    assert logits.shape[-1] == VOCABULARY
    with torch.no_grad():
        model.embedding.weight[VOCABULARY] += 1
    assert not torch.equal(model(start, model.zero_state(1))[0], logits)


def test_untrained_model_is_close_to_uniform() -> None:
    model = model_of(hidden_size=64)
    logits, _ = model(some_ids(50), model.zero_state(3))
    predictions = predictions_of(logits, some_ids(50))
    assert abs(predictions.loss_sum().item() / predictions.num_targets - math.log(VOCABULARY)) < 0.5


KEY = MaskKey(seed=5, window=2)


def regularized(**changes: object) -> CharacterModel:
    """A model in training, with these settings and no other dropout."""
    regularization = RegularizationSettings.model_validate({"dropout": 0.0, **changes})
    settings = ModelSettings(embedding_size=8, hidden_size=8, num_layers=2, tie_weights=True)
    return CharacterModel(VOCABULARY, settings, regularization).train()


def logits_of(model: CharacterModel, outputs: torch.Tensor) -> torch.Tensor:
    return outputs @ model.embedding.weight[:VOCABULARY].T + model.output_bias


def test_dropped_characters_are_zero_in_the_input_only() -> None:
    model = regularized(embedding_dropout=0.5)
    ids, state = some_ids(), model.zero_state(3)
    kept = KEY.draw((MaskKind.EMBEDDING, 0), VOCABULARY + 1, torch.device("cpu")) < 0
    assert 0 < kept.sum() < VOCABULARY + 1
    masked = model.embedding.weight * kept[:, None] * 2
    assert torch.equal(model.embed(ids, KEY).vectors(), masked[ids])
    outputs, _ = model.recurrent(masked[ids], state)
    logits, _ = model(ids, state, None, "fp32", KEY)
    torch.testing.assert_close(logits, logits_of(model, outputs))


@pytest.mark.parametrize("is_locked", [False, True])
@pytest.mark.parametrize("has_resets", [False, True])
def test_input_dropout_masks_elements_of_embedded_characters(is_locked: bool, has_resets: bool) -> None:
    model = regularized(input_dropout=0.5, locked_dropout=is_locked)
    ids, state = some_ids(), model.zero_state(3)
    resets = (torch.rand(ids.shape) < 0.3).numpy() if has_resets else None
    bits = KEY.draw_for_lanes((MaskKind.INPUT, 0), 1 if is_locked else len(ids), 3, 8, torch.device("cpu"))
    outputs, _ = model.recurrent(model.embedding.weight[ids] * (bits < 0) * 2, state, resets)
    logits, _ = model(ids, state, resets, "fp32", KEY)
    torch.testing.assert_close(logits, logits_of(model, outputs))
