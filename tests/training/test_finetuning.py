"""Going on with another text: characters are matched, whatever their positions."""

from pathlib import Path

import pytest
import torch

from charlm import runs
from charlm.config import SettingsSource, SourceKind
from charlm.corpus.vocabulary import Vocabulary
from charlm.errors import UsageError
from charlm.model.language_model import CharacterModel
from charlm.training.finetuning import load_pretrained
from charlm.training.plan import TrainingPlan, plan_training
from charlm.training.request import TrainingRequest
from tests.training.conftest import SETTINGS, Make, assert_same_training

NEW_TEXT = "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich; ☃ & été.\n" * 30


@pytest.fixture
def pretrained_run(make_trainer: Make) -> Path:
    trainer = make_trainer("origin", max_steps=6)
    trainer.train()
    return trainer.run


@pytest.fixture
def new_text(tmp_path: Path) -> Path:
    path = tmp_path / "new.txt"
    path.write_text(NEW_TEXT, encoding="utf-8")
    return path


def plan(origin: Path, text: Path, run: str = "new", **changes: object) -> TrainingPlan:
    layers = [
        SettingsSource("preset.toml", SETTINGS, SourceKind.FILE),
        SettingsSource.command_line({"init_from": str(origin), **changes}),
    ]
    return plan_training(TrainingRequest([str(text)], layers, out=text.parent / run))


@pytest.mark.parametrize("tie_weights", [False, True])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_shared_characters_keep_their_logits(make_trainer: Make, new_text: Path, cell: str, tie_weights: bool) -> None:
    trainer = make_trainer("origin", max_steps=2, cell=cell, tie_weights=tie_weights, embedding_size=12)
    trainer.train()
    old = runs.load_model(trainer.run)
    new = plan(trainer.run, new_text).trainer(quiet=True)
    common = sorted(set(old.vocabulary.characters) & set(NEW_TEXT))
    assert len(common) > 20
    before, after = old.build_model(torch.device("cpu")), new.model.eval()
    ids = [torch.from_numpy(v.lookup_ids(common))[:, None] for v in (old.vocabulary, new.corpus.vocabulary)]
    expected, _ = before(ids[0], before.zero_state(1))
    found, _ = after(ids[1], after.zero_state(1))
    torch.testing.assert_close(found[:, 0, ids[1][:, 0]], expected[:, 0, ids[0][:, 0]], rtol=0, atol=1e-6)


def test_known_rows_are_copied_and_new_rows_are_small(pretrained_run: Path, new_text: Path) -> None:
    old, new = runs.load_model(pretrained_run), plan(pretrained_run, new_text).trainer(quiet=True)
    vocabulary = new.corpus.vocabulary
    assert set(vocabulary.characters) == set(old.vocabulary.characters) | set(NEW_TEXT)
    weights, rows = new.model.state_dict(), vocabulary.lookup_ids(old.vocabulary.characters)
    assert torch.equal(weights["output_weight"][rows], old.weights["output_weight"])
    assert torch.equal(weights["output_bias"][rows], old.weights["output_bias"])
    assert torch.equal(weights["embedding.weight"][rows], old.weights["embedding.weight"][:-1])
    assert torch.equal(weights["embedding.weight"][-1], old.weights["embedding.weight"][-1])  # the start symbol
    assert torch.equal(weights["recurrent.layers.1.weight_hh"], old.weights["recurrent.layers.1.weight_hh"])
    fresh = vocabulary.lookup_ids(sorted(set(NEW_TEXT) - set(old.vocabulary.characters)))
    assert len(fresh) > 5
    assert weights["output_weight"][fresh].abs().max() < 0.1
    assert weights["embedding.weight"][fresh].abs().max() < 0.1
    assert (weights["output_bias"][fresh] == old.weights["output_bias"].min()).all()


def test_unknown_token_is_kept(make_trainer: Make, new_text: Path, poem: str) -> None:
    rare = new_text.with_name("rare.txt")
    rare.write_text(poem + "☃", encoding="utf-8")
    trainer = make_trainer("origin", text=rare, max_steps=2, min_count=2)
    trainer.train()
    old = runs.load_model(trainer.run)
    new = plan(trainer.run, new_text).trainer(quiet=True)
    assert old.vocabulary.has_unknown
    assert new.corpus.vocabulary.has_unknown
    row = new.corpus.vocabulary.unknown_id
    assert torch.equal(new.model.state_dict()["output_weight"][row], old.weights["output_weight"][-1])
    assert torch.equal(new.model.state_dict()["embedding.weight"][row], old.weights["embedding.weight"][-2])


def test_pretrained_architecture_overrides_preset(pretrained_run: Path, new_text: Path) -> None:
    layers = [
        SettingsSource("preset.toml", {**SETTINGS, "hidden_size": 99, "cell": "rnn"}, SourceKind.FILE),
        SettingsSource.command_line({"init_from": str(pretrained_run)}),
    ]
    settings = plan_training(TrainingRequest([str(new_text)], layers, out=new_text.parent / "new")).settings
    assert (settings.hidden_size, settings.cell) == (12, "lstm")
    assert plan(pretrained_run, new_text, dropout=0.5).settings.dropout == 0.5


def test_changed_architecture_is_rejected(pretrained_run: Path, new_text: Path) -> None:
    with pytest.raises(UsageError, match=r"hidden_size \(12\)"):
        plan(pretrained_run, new_text, hidden_size=99)


def test_byte_and_character_models_do_not_mix(pretrained_run: Path, new_text: Path) -> None:
    with pytest.raises(UsageError, match=r"character.*--unit byte"):
        plan(pretrained_run, new_text, unit="byte")


def test_invalid_init_from_is_rejected(new_text: Path) -> None:
    with pytest.raises(UsageError, match="no such run"):
        plan(Path("nowhere"), new_text)


def test_resume_does_not_need_pretrained_model(
    pretrained_run: Path, new_text: Path, make_trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = plan(pretrained_run, new_text, "whole", max_steps=8).trainer(quiet=True)
    whole.train()
    part = plan(pretrained_run, new_text, "part", max_steps=8)
    trainer = part.trainer(quiet=True)
    assert trainer.state.optimizer.state_dict()["state"] == {}  # afresh
    step = trainer.train_step

    def step_with_signal() -> None:
        step()
        trainer.stop_signals.received = 2 * (trainer.counters.steps == 3)

    trainer.train_step = step_with_signal  # type: ignore[method-assign]
    with pytest.raises(Exception, match="Stopped after step 3"):
        trainer.train()
    pretrained_run.rename(pretrained_run.with_name("moved"))
    make_trainer(resume=part.run, text=new_text).train()
    assert_same_training(runs.load_checkpoint(part.run), runs.load_checkpoint(whole.run))


def test_finetuning_restarts_if_killed_before_first_checkpoint(pretrained_run: Path, new_text: Path) -> None:
    plan(pretrained_run, new_text).trainer(quiet=True)  # the run folder is there, with its settings
    again = plan_training(
        TrainingRequest([str(new_text)], [SettingsSource.command_line({})], resume=str(new_text.parent / "new"))
    )
    assert again.pretrained is not None
    assert again.pretrained.folder is not None
    assert again.pretrained.folder.parent == pretrained_run


def test_predictions_on_old_text_hardly_change(poem: str, pretrained_run: Path) -> None:
    old = runs.load_model(pretrained_run)
    vocabulary = old.vocabulary | Vocabulary.from_text("☃☀")
    model = CharacterModel(len(vocabulary), old.settings).eval()
    load_pretrained(old, model, vocabulary)
    before = old.build_model(torch.device("cpu"))
    losses = []
    for network, known in ((before, old.vocabulary), (model, vocabulary)):
        ids = torch.from_numpy(known.encode(poem[:500]).astype("int64"))[:, None]
        logits, _ = network(ids[:-1], network.zero_state(1))
        losses.append(torch.nn.functional.cross_entropy(logits[:, 0], ids[1:, 0]).item())
    assert losses[0] < losses[1] < losses[0] + 0.1
