"""charlm from Python."""

import doctest
import math
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import charlm
from charlm import api, errors, runs
from charlm.corpus.text import Text
from charlm.evaluation.loss import evaluate
from charlm.model import stepper
from charlm.model.stepper import Stepper
from tests.commands.conftest import trained

__all__ = ["trained"]  # a fixture

SMALL = {
    "hidden_size": 16,
    "embedding_size": 8,
    "batch_size": 4,
    "sequence_length": 16,
    "max_steps": 4,
    "sample_length": 0,
    "threads": 1,
}


@pytest.fixture
def model(trained: Path) -> charlm.Model:
    return charlm.load(trained)


def test_doctests_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, poem: str) -> None:
    (tmp_path / "play.txt").write_text("ROMEO: But soft!\n" + poem, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(api)
    assert result.attempted >= 8
    assert result.failed == 0


def test_train_returns_loadable_run(tmp_path: Path, poem_file: Path) -> None:
    run = charlm.train(poem_file, out=tmp_path / "run", **SMALL)
    assert run.folder == tmp_path / "run"
    assert run.load().settings.hidden_size == 16
    validation = runs.read_json_lines(run.folder / runs.METRICS)
    assert run.validation.nats_per_character in [entry.get("loss_validation_exact") for entry in validation]


def test_train_with_several_texts_preset_resume_and_cache(tmp_path: Path, poem_file: Path) -> None:
    folder = tmp_path / "run"
    cache = tmp_path / "cache"
    run = charlm.train([poem_file, str(poem_file)], out=folder, config="tiny", cache_dir=cache, **SMALL)
    assert list(cache.iterdir())
    assert run.load().settings.num_layers == 1
    assert run.load("latest").checkpoint.step == 4
    charlm.train(resume=str(folder), max_steps=6)
    assert charlm.load(folder, "latest").checkpoint.step == 6
    with pytest.raises(errors.UsageError, match="a run already exists"):
        charlm.train(poem_file, out=folder, **SMALL)
    charlm.train(poem_file, out=folder, overwrite=True, **SMALL)
    assert charlm.load(folder, "latest").checkpoint.step == 4


def test_errors_name_their_source(poem_file: Path, tmp_path: Path) -> None:
    with pytest.raises(errors.UsageError, match=r"charlm\.train\(\): hiden_size: unknown setting. Did you mean hidden"):
        charlm.train(poem_file, out=tmp_path / "run", hiden_size=3)
    with pytest.raises(errors.UsageError, match="no such file"):
        charlm.train("nowhere.txt", out=tmp_path / "run")
    with pytest.raises(errors.UsageError, match="no such run"):
        charlm.load("nowhere")


def test_training_works_in_a_thread(tmp_path: Path, poem_file: Path) -> None:
    trained_runs: list[charlm.Run] = []
    thread = threading.Thread(
        target=lambda: trained_runs.append(charlm.train(poem_file, out=tmp_path / "run", **SMALL))
    )
    thread.start()
    thread.join()
    assert len(trained_runs) == 1


def test_sample_matches_sampler(model: charlm.Model) -> None:
    options = {"length": 30, "seed": 3, "temperature": 1.3}
    text = model.sample("Die", **options)
    assert len(text) == 30
    assert "".join(model.stream("Die", **options)) == text
    first, second = model.sample_many("Die", num_samples=2, **options)
    assert first.text == text != second.text
    with pytest.raises(errors.UsageError, match=r"sample\(\): lenght: unknown setting"):
        model.sample("Die", lenght=3)
    with pytest.raises(errors.TextError, match="SNOWMAN"):
        model.sample("☃")


def test_evaluate_and_score_agree(model: charlm.Model, poem: str) -> None:
    text = poem[:900]
    evaluation, scores = model.evaluate(text), model.score(text)
    assert evaluation.characters == len(scores.ranks) == 900
    assert -scores.log_probabilities.sum() == pytest.approx(evaluation.nats_per_character * 900, rel=1e-6)
    expected = evaluate(model.network, Text.from_string(text, model.vocabulary)).nats_per_character
    assert evaluation.nats_per_character == expected
    with pytest.raises(errors.TextError, match="SNOWMAN"):
        model.evaluate("☃")


def test_a_trace_and_the_scores_are_of_one_model(model: charlm.Model, poem: str) -> None:
    trace, scores = model.trace(poem[:300]), model.score(poem[:300])
    assert "".join(trace.characters) == poem[:300]
    assert trace.log_probabilities == pytest.approx(scores.log_probabilities, abs=1e-4)
    assert trace.signal("forget").shape == (2, 300, 16)
    assert [model.vocabulary.characters[id_] for id_ in trace.next_ids[2]] == [
        character for character, _ in model.next_characters(poem[:3], count=5)
    ]


def test_nothing_is_neither_evaluated_nor_scored_nor_traced(model: charlm.Model) -> None:
    for measure in (model.evaluate, model.score, model.trace):
        with pytest.raises(errors.TextError, match="empty"):
            measure("")
    for num_segments in (0, -1):
        with pytest.raises(errors.UsageError, match="num_segments"):
            model.evaluate("Die", num_segments=num_segments)


def test_stop_texts_can_be_a_list(model: charlm.Model) -> None:
    (sample,) = model.sample_many("Die", length=500, seed=1, stop=["e", "a"])
    assert sample.finish_reason == "stop"


def test_interleaved_streams_share_packed_weights(model: charlm.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    monkeypatch.setattr(stepper, "samples_natively", lambda *_: False)
    monkeypatch.setattr(
        stepper, "Stepper", lambda network, lanes, precision: made.append(lanes) or Stepper(network, lanes, precision)
    )
    expected = [model.sample(prompt, length=9, seed=1) for prompt in ("Die", "und")]
    assert made == [1]
    streams = [model.stream(prompt, length=9, seed=1) for prompt in ("Die", "und")]
    assert ["".join(text) for text in zip(*zip(*streams, strict=True), strict=True)] == expected


def test_texts_are_preprocessed_like_training_text(tmp_path: Path, poem: str) -> None:
    path = tmp_path / "poem.txt"
    path.write_text(poem, encoding="utf-8", newline="")
    model = charlm.train(path, out=tmp_path / "run", newline="lf", normalize="nfc", **SMALL).load()
    theirs, ours = "e\N{COMBINING ACUTE ACCENT}te\r\n", "\N{LATIN SMALL LETTER E WITH ACUTE}te\n"
    assert model.evaluate(theirs) == model.evaluate(ours)
    assert model.sample(theirs, length=9, seed=1) == model.sample(ours, length=9, seed=1)
    assert model.next_characters("☃Die", 1, unknown="skip") == model.next_characters("Die", 1)


def test_next_characters_match_scores(model: charlm.Model) -> None:
    found = model.next_characters("Die", count=5)
    for rank, (character, probability) in enumerate(found, start=1):
        scores = model.score("Die" + character)
        assert scores.ranks[-1] == rank
        assert math.exp(scores.log_probabilities[-1]) == pytest.approx(probability, rel=1e-4)


def test_documents_are_evaluated_separately(tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("Anna\nBartholomew\nCy\n" * 60)
    run = charlm.train(names, out=tmp_path / "run", document_separator="\n", **SMALL)
    model = run.load()
    whole = model.evaluate("Anna\nCy\nCy\n")
    alone = [model.evaluate(name) for name in ("Anna\n", "Cy\n", "Cy\n")]
    nats = sum(part.nats_per_character * part.characters for part in alone)
    assert whole.nats_per_character * whole.characters == pytest.approx(nats, rel=1e-5)


def test_unknown_characters_are_counted_with_unknown_token(tmp_path: Path, poem: str) -> None:
    path = tmp_path / "poem.txt"
    path.write_text(poem + "☃", encoding="utf-8")
    model = charlm.train(path, out=tmp_path / "run", min_count=2, **SMALL).load()
    assert model.evaluate("Die ☃ ☀").unknown == 2
    assert model.score("Die ☃ ☀").log_probabilities[4] < -math.log(1_000_000)


def test_byte_level_model(tmp_path: Path, poem_file: Path) -> None:
    model = charlm.train(poem_file, out=tmp_path / "run", unit="byte", **SMALL).load()
    assert model.evaluate("été").characters == 5
    assert isinstance(model.sample("été", length=9, seed=1), str)


def test_import_is_lazy_and_lists_names() -> None:
    code = "import sys, charlm; print('torch' in sys.modules, sorted({'load', 'train'} & set(dir(charlm))))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout == "False ['load', 'train']\n"
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        charlm.nonsense  # noqa: B018
