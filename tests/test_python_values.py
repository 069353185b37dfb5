"""What Python people pass: paths, runs, numbers of numpy; and what is wrong is an error that names it."""

import enum
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import charlm
from charlm.config import SampleSettings, SettingsSource, TrainSettings, resolve
from charlm.config.values import to_plain
from charlm.errors import UsageError
from tests.commands.conftest import trained
from tests.test_api import SMALL

__all__ = ["trained"]  # a fixture


class Word(enum.StrEnum):
    GRU = "gru"


class Old(str, enum.Enum):  # noqa: UP042  # as before Python 3.11
    GRU = "gru"


class Size(enum.IntEnum):
    SMALL = 16


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        *((np.dtype(kind).type(3), 3) for kind in ("int8", "uint16", "int64", "uint64")),
        *((np.dtype(kind).type(0.5), 0.5) for kind in ("float16", "float32", "float64")),
        (np.bool_(True), True),
        (np.str_("a"), "a"),
        (np.array(7), 7),
        (np.array(["a", "b"]), ["a", "b"]),
        (torch.tensor(3), 3),
        (torch.device("cuda:1"), "cuda:1"),
        (Path("a/b"), "a/b"),
        (("a", np.str_("b")), ["a", "b"]),
        (Word.GRU, "gru"),
        (Old.GRU, "gru"),
        (Size.SMALL, 16),
        (2.0, 2.0),
        (True, True),
        (None, None),
    ],
    ids=repr,
)
def test_values_are_converted_to_setting_types(given: Any, expected: Any) -> None:
    found = to_plain(given)
    assert found == expected
    assert type(found) is type(expected)


def numpy_of(value: Any) -> Any:
    kinds: dict[type, Callable[[Any], Any]] = {bool: np.bool_, int: np.int64, float: np.float64, str: np.str_}
    return np.array(value, dtype=np.str_) if isinstance(value, tuple) else kinds[type(value)](value)


@pytest.mark.parametrize("kind", [TrainSettings, SampleSettings])
def test_settings_accept_numpy_values(kind: Any) -> None:
    defaults = kind().model_dump()
    found = resolve(kind, [SettingsSource("here", {name: numpy_of(value) for name, value in defaults.items()})])
    assert found == kind()
    for name, value in found.model_dump().items():
        assert type(value) is type(defaults[name]), name


class Strange:
    def __repr__(self) -> str:
        raise RuntimeError("no words for it")


WRONG: tuple[Any, ...] = (None, b"x", {}, object(), Strange(), np.array([1, 2]), 1j, [None], float("nan"))


@pytest.mark.parametrize("kind", [TrainSettings, SampleSettings])
@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: type(wrong).__name__)
def test_settings_reject_wrong_types_by_name(kind: Any, wrong: Any) -> None:
    for name in kind.model_fields:
        with pytest.raises(UsageError) as caught:
            resolve(kind, [SettingsSource("here", {name: wrong})])
        assert f"here: {name}: " in caught.value.message
        assert len(caught.value.message) < 300


def test_huge_integer_is_rejected() -> None:
    with pytest.raises(UsageError, match="here: seed: must be"):
        resolve(TrainSettings, [SettingsSource("here", {"seed": 10**5000})])


@pytest.mark.parametrize("value", [2.0, np.float64(2), True, np.bool_(True), "2"], ids=repr)
def test_an_integer_is_an_integer(value: Any) -> None:
    with pytest.raises(UsageError, match="here: hidden_size: must be an integer"):
        resolve(TrainSettings, [SettingsSource("here", {"hidden_size": value})])


@pytest.mark.parametrize("stop", ["\n\n", ["\n\n"], ("\n\n",), {"\n\n"}, np.array(["\n\n"]), np.str_("\n\n")], ids=repr)
def test_single_stop_text_is_not_split(stop: Any) -> None:
    assert resolve(SampleSettings, [SettingsSource("here", {"stop": stop})]).stop == ("\n\n",)


def test_converted_settings_roundtrip(tmp_path: Path, poem_file: Path, trained: Path) -> None:
    preset = tmp_path / "mine.toml"
    preset.write_text("weight_decay = 0.25\n")
    run = charlm.train(
        [poem_file],
        out=tmp_path / "run",
        config=preset,
        cache_dir=tmp_path / "cache",
        init_from=trained,
        overwrite=np.bool_(False),  # type: ignore[arg-type]
        **{**SMALL, "max_steps": np.int64(2), "learning_rate": np.float32(0.5), "num_layers": np.int8(2)},
    )
    assert run.load().settings.weight_decay == 0.25
    assert run.load().settings.learning_rate == 0.5
    again = charlm.train(resume=run, max_steps=np.int64(3))
    charlm.train(resume=run.folder, max_steps=4)
    assert Path(again) == run.folder
    assert charlm.load(run, "latest").checkpoint.step == 4
    assert charlm.load(run, np.int64(4)).checkpoint.step == 4  # type: ignore[arg-type]
    other = charlm.train(poem_file, out=tmp_path / "other", init_from=run, **{**SMALL, "max_steps": 1})
    assert other.load(device=torch.device("cpu")).settings.num_layers == 2  # type: ignore[arg-type]


def test_texts_can_be_a_generator(tmp_path: Path, poem_file: Path) -> None:
    run = charlm.train(poem_file.parent.glob("*.txt"), out=tmp_path / "run", **{**SMALL, "max_steps": 1})
    assert Path(run).is_dir()


@pytest.mark.parametrize("name", ["out", "config", "resume", "cache_dir", "overwrite", "quiet"])
@pytest.mark.parametrize("wrong", [3, b"x", [], object(), 1.5], ids=lambda wrong: type(wrong).__name__)
def test_train_rejects_invalid_arguments_by_name(name: str, wrong: Any, poem_file: Path) -> None:
    with pytest.raises(UsageError, match=f"{name}: must be"):
        charlm.train(poem_file, **{name: wrong})


@pytest.mark.parametrize("wrong", [3, None, [3], [b"x"], object()], ids=lambda wrong: type(wrong).__name__)
def test_train_rejects_corpus_of_wrong_type(wrong: Any) -> None:
    with pytest.raises(UsageError, match="corpus: must be"):
        charlm.train(wrong)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda model: model.sample(None), "prompt"),
        (lambda model: model.sample(b"Die"), "prompt"),
        (lambda model: model.sample("Die", stop=3), "stop"),
        (lambda model: next(model.stream("Die", length="9")), "length"),
        (lambda model: model.evaluate(None), "text"),
        (lambda model: model.score(b"Die"), "text"),
        (lambda model: model.evaluate("Die", num_segments="2"), "num_segments"),
        (lambda model: model.evaluate("Die", num_segments=True), "num_segments"),
        (lambda model: model.next_characters("Die", count="3"), "count"),
        (lambda model: model.next_characters("Die", unknown=None), "unknown"),
        (lambda model: charlm.load(model), "path"),
        (lambda model: charlm.load(None), "path"),
        (lambda model: charlm.load(model.checkpoint.folder, checkpoint=1.5), "checkpoint"),
        (lambda model: charlm.load(model.checkpoint.folder, device=3), "device"),
    ],
)
def test_model_rejects_invalid_arguments_by_name(call: Callable[[Any], Any], name: str, trained: Path) -> None:
    with pytest.raises(UsageError, match=rf"{name}: must be"):
        call(charlm.load(trained))


def test_counts_can_be_numpy_integers(trained: Path) -> None:
    model = charlm.load(trained)
    assert len(model.next_characters("Die", count=np.int64(2))) == 2
    assert model.evaluate("Die Schafe", num_segments=np.int64(1)).exact
