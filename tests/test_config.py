import importlib.util
import json
import math
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from charlm import config
from charlm.config import BenchSettings, SampleSettings, SettingsSource, TrainSettings, resolve
from charlm.errors import UsageError
from tests.conftest import ROOT

PRESETS = sorted((ROOT / "configs").glob("*.toml"))
SCHEMA: dict[str, Any] = TrainSettings.model_json_schema()["properties"]
OF_TYPE: dict[str, st.SearchStrategy[Any]] = {  # within the range of every setting of that type
    "boolean": st.booleans(),
    "integer": st.integers(1, 2**62),
    "number": st.floats(0, 0.49, exclude_min=True),
    "string": st.text(),
}


def types(schema: dict[str, Any]) -> set[str]:
    return {part["type"] for part in schema.get("anyOf", [schema]) if "const" not in part}


def values(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    if "anyOf" in schema:
        return st.one_of(*map(values, schema["anyOf"]))
    if "const" in schema or "enum" in schema:
        return st.sampled_from(schema.get("enum") or [schema["const"]])
    if schema["type"] == "integer" and "maximum" in schema:
        return st.integers(1, schema["maximum"])
    return OF_TYPE[schema["type"]]


@st.composite
def all_settings(draw: st.DrawFn) -> TrainSettings:
    drawn = {name: draw(values(schema)) for name, schema in SCHEMA.items()}
    if drawn["tie_weights"]:
        drawn["embedding_size"] = drawn["hidden_size"]
    if drawn["unit"] == "byte":
        for name in ("encoding", "decode_errors", "newline", "normalize", "min_count"):
            drawn[name] = TrainSettings.model_fields[name].default
    if not (drawn["document_separator"] or drawn["document_per_file"]):
        drawn["shuffle_documents"] = False
    return TrainSettings(**drawn)


def toml(folder: Path, text: str) -> Path:
    path = folder / "some.toml"
    path.write_text(text, encoding="utf-8")
    return path


def problems(*layers: dict[str, Any]) -> list[str]:
    """The lines of what is wrong with these layers."""
    with pytest.raises(UsageError) as raised:
        resolve(TrainSettings, [SettingsSource(f"layer{number}", layer) for number, layer in enumerate(layers)])
    assert raised.value.exit_code == 2
    return raised.value.message.splitlines()


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(ROOT / "docs"))  # where a script finds what it imports
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    return module


def test_default_preset_contains_every_default() -> None:
    preset = config.read_toml(ROOT / "configs" / "default.toml")
    assert set(preset) == set(SCHEMA)
    assert resolve(TrainSettings, [SettingsSource("default", preset)]) == TrainSettings()


GENERATED = ("configs/default.toml", "docs/commands.md", "docs/architecture.md", "docs/architecture.svg")


@pytest.mark.parametrize("name", GENERATED)
def test_generated_files_are_up_to_date(name: str, generate: ModuleType) -> None:
    path = ROOT / name
    assert generate.FILES[path]() == path.read_text(encoding="utf-8"), "run: make docs"


def test_generated_files_are_listed(generate: ModuleType) -> None:
    assert set(generate.FILES) == {ROOT / name for name in GENERATED}


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_every_preset_resolves(path: Path) -> None:
    values = config.read_toml(path)
    resolved = resolve(TrainSettings, [SettingsSource(path.name, values)])
    assert {name: getattr(resolved, name) for name in values} == values


@pytest.mark.parametrize("path", [path for path in PRESETS if path.stem != "default"], ids=lambda path: path.stem)
def test_presets_contain_only_non_defaults(path: Path) -> None:
    defaults = TrainSettings().model_dump()
    assert [name for name, value in config.read_toml(path).items() if value == defaults[name]] == []


@pytest.mark.parametrize("kind", [TrainSettings, SampleSettings, BenchSettings])
def test_every_setting_has_a_description(kind: type[config.Settings]) -> None:
    for name, setting in kind.model_fields.items():
        assert setting.description, name
        assert setting.description.endswith("."), name


def test_every_setting_is_in_one_section() -> None:
    in_sections = [name for kind in config.SECTIONS.values() for name in kind.model_fields]
    assert sorted(in_sections) == sorted(TrainSettings.model_fields)


@given(all_settings())
@example(TrainSettings(max_steps=0, max_epochs=0.5))
@example(TrainSettings(max_steps=0, max_minutes=1e-7, learning_rate=5e-324, gradient_clip=1e300))
@example(TrainSettings(encoding='"\\\r\n\t\x00\x7f', device="\u2028'''"))
def test_settings_toml_roundtrip(tmp_path_factory: pytest.TempPathFactory, settings: TrainSettings) -> None:
    path = tmp_path_factory.getbasetemp() / "settings.toml"
    path.write_bytes(config.to_toml(settings).encode("utf-8"))
    assert resolve(TrainSettings, [SettingsSource("settings.toml", config.read_toml(path))]) == settings


@given(all_settings())
def test_settings_json_roundtrip(settings: TrainSettings) -> None:
    assert TrainSettings(**json.loads(json.dumps(settings.model_dump()))) == settings


@given(all_settings())
def test_toml_is_flat_and_complete(settings: TrainSettings) -> None:
    content = tomllib.loads(config.to_toml(settings))
    assert set(content) == set(SCHEMA)
    assert not any(isinstance(value, dict | list) for value in content.values())


def test_later_sources_override_earlier_ones() -> None:
    resolved = resolve(
        TrainSettings,
        [
            SettingsSource("preset", {"hidden_size": 1, "num_layers": 1, "batch_size": 1}),
            SettingsSource("environment", {"num_layers": 2, "batch_size": 2}),
            SettingsSource.command_line({"batch_size": 3}),
        ],
    )
    assert (resolved.hidden_size, resolved.num_layers, resolved.batch_size) == (1, 2, 3)
    assert resolved.sequence_length == TrainSettings().sequence_length


def test_defaults_without_sources() -> None:
    assert resolve(TrainSettings, []) == TrainSettings()


@pytest.mark.parametrize("name", config.STOP_LIMITS)
def test_stop_limit_discards_limits_of_earlier_sources(name: str) -> None:
    below = {"max_steps": 7, "max_epochs": 8.0, "max_minutes": 9.0}
    resolved = resolve(TrainSettings, [SettingsSource("preset", below), SettingsSource.command_line({name: 3})])
    assert {each: getattr(resolved, each) for each in config.STOP_LIMITS} == {
        each: 3 if each == name else 0 for each in config.STOP_LIMITS
    }


def test_stop_limit_discards_default_limit() -> None:
    resolved = resolve(TrainSettings, [SettingsSource.command_line({"max_minutes": 1.0})])
    assert (resolved.max_steps, resolved.max_minutes) == (0, 1.0)


def test_stop_limits_of_one_source_are_combined() -> None:
    resolved = resolve(
        TrainSettings,
        [
            SettingsSource("preset", {"max_epochs": 2.0}),
            SettingsSource("x", {"max_steps": 5, "max_minutes": 1.0}),
        ],
    )
    assert (resolved.max_steps, resolved.max_epochs, resolved.max_minutes) == (5, 0.0, 1.0)


def test_disabling_one_limit_keeps_earlier_limits() -> None:
    resolved = resolve(
        TrainSettings,
        [
            SettingsSource("preset", {"max_steps": 5, "max_epochs": 2.0}),
            SettingsSource("x", {"max_steps": 0}),
        ],
    )
    assert (resolved.max_steps, resolved.max_epochs) == (0, 2.0)


def test_source_without_limits_keeps_earlier_limits() -> None:
    resolved = resolve(
        TrainSettings, [SettingsSource("preset", {"max_epochs": 2.0}), SettingsSource.command_line({"seed": 5})]
    )
    assert (resolved.max_steps, resolved.max_epochs) == (0, 2.0)


def test_run_without_stop_limit_is_rejected() -> None:
    (line,) = problems({"max_steps": 0})
    assert all(name in line for name in config.STOP_LIMITS)


@pytest.mark.parametrize(
    ("key", "nearest"),
    [("hiden_size", "hidden_size"), ("lr_learning_rate", "learning_rate"), ("max-steps", "max_steps")],
)
def test_unknown_key_suggests_nearest(key: str, nearest: str) -> None:
    assert problems({key: 1}) == [f"layer0: {key}: unknown setting. Did you mean {nearest}?"]


def test_dissimilar_key_suggests_nothing() -> None:
    assert problems({"zzz": 1}) == ["layer0: zzz: unknown setting."]


def test_toml_table_is_an_unknown_key(tmp_path: Path) -> None:
    (line,) = problems(config.read_toml(toml(tmp_path, "[training]\nmax_steps = 5")))
    assert "training" in line


@pytest.mark.parametrize("value", [2.7, 2.0, True, False, "2"], ids=repr)
@pytest.mark.parametrize("name", [name for name, schema in SCHEMA.items() if types(schema) == {"integer"}])
def test_integer_settings_reject_floats_and_booleans(name: str, value: object) -> None:
    (line,) = problems({name: value})
    assert line.startswith(f"layer0: {name}: must be an integer")
    assert line.endswith(f" (got {value!r}).")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, True, "0.1"], ids=repr)
@pytest.mark.parametrize("name", [name for name, schema in SCHEMA.items() if types(schema) == {"number"}])
def test_float_settings_reject_non_finite_values(name: str, value: object) -> None:
    (line,) = problems({name: value})
    assert line.startswith(f"layer0: {name}: must be ")
    assert line.endswith(f" (got {value!r}).")


@pytest.mark.parametrize(
    "name",
    [name for name, schema in SCHEMA.items() if types(schema) == {"number"} and name != "validation_fraction"],
)  # no integer is a fraction that is more than 0 and less than 1
def test_float_settings_accept_integers(name: str) -> None:
    value = 0 if SCHEMA[name].get("exclusiveMaximum") == 1 else 1
    resolved = getattr(resolve(TrainSettings, [SettingsSource("x", {name: value})]), name)
    assert resolved == value
    assert type(resolved) is float


@pytest.mark.parametrize(
    "values",
    [
        {"hidden_size": 0},
        {"batch_size": -1},
        {"dropout": 1.0},
        {"dropout": -0.1},
        {"validation_fraction": 0.0},
        {"validation_fraction": 1.0},
        {"validation_fraction": "some"},
        {"evaluate_every": 0},
        {"evaluate_every": True},
        {"learning_rate": 0.0},
        {"learning_rate": 10.1},
        {"save_every_minutes": 0.0},
        {"seed": -1},
        {"seed": 2**63},
        {"cell": "LSTM"},
        {"tie_weights": 1},
        {"encoding": 8},
        {"max_steps": None},
    ],
    ids=str,
)
def test_out_of_range_value_names_its_source(values: dict[str, object]) -> None:
    ((name, value),) = values.items()
    (line,) = problems({}, values)
    assert line.startswith(f"layer1: {name}: must be ")
    assert line.endswith(f" (got {value!r}).")


def test_command_line_error_names_option() -> None:
    with pytest.raises(UsageError, match=r"^--hidden-size: must be at least 1 or 'auto' \(got 0\)\."):
        resolve(
            TrainSettings,
            [SettingsSource("tiny.toml", {"hidden_size": 8}), SettingsSource.command_line({"hidden_size": 0})],
        )


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"dropout": 1.0}, "must be less than 1 or 'auto' (got 1.0)"),
        ({"learning_rate": 0.0}, "must be greater than 0 (got 0.0)"),
        ({"learning_rate": 11.0}, "must be at most 10 (got 11.0)"),
        ({"cell": "gnu"}, "must be 'lstm', 'gru' or 'rnn' (got 'gnu')"),
        ({"validation_fraction": 0.0}, "must be greater than 0 or 'auto' (got 0.0)"),
        ({"tie_weights": 1}, "must be true or false (got 1)"),
        ({"encoding": 8}, "must be text (got 8)"),
    ],
    ids=str,
)
def test_rejected_value_lists_allowed_values(values: dict[str, object], says: str) -> None:
    assert problems(values) == [f"layer0: {next(iter(values))}: {says}."]


def test_conflicts_name_options_or_keys() -> None:
    values = {"tie_weights": True}
    for source, says in (
        (SettingsSource.command_line(values), "--tie-weights needs --embedding-size ="),
        (SettingsSource("x", values), "tie_weights needs embed"),
    ):
        with pytest.raises(UsageError, match=f"^{says}"):
            resolve(TrainSettings, [SettingsSource("a.toml", {"hidden_size": 8}), source])


def test_all_problems_are_reported_together() -> None:
    lines = problems({"hidden_size": 2.7, "zzz": 1, "seed": 1}, {"batch_size": 0, "validation_fraction": math.nan})
    assert sorted(line.split(" ")[1].rstrip(":") for line in lines) == [
        "batch_size",
        "hidden_size",
        "validation_fraction",
        "zzz",
    ]


def test_all_conflicts_are_reported_together() -> None:
    lines = problems({"validation_fraction": 0.6, "test_fraction": 0.6, "tie_weights": True, "max_steps": 0})
    assert len(lines) == 3
    for name in ("test_fraction", "tie_weights", "max_epochs"):
        assert any(name in line for line in lines)


@pytest.mark.parametrize(("validation", "test"), [(0.5, 0.5), ("auto", 0.9), (0.7, 0.7)])
def test_fractions_must_leave_training_text(validation: object, test: float) -> None:
    (line,) = problems({"validation_fraction": validation, "test_fraction": test})
    assert "validation_fraction and test_fraction" in line


def test_tied_weights_need_equal_sizes() -> None:
    (line,) = problems({"tie_weights": True, "embedding_size": 3, "hidden_size": 5})
    assert "embedding_size = hidden_size" in line
    assert "3 and 5" in line
    assert resolve(
        TrainSettings, [SettingsSource("x", {"tie_weights": True, "embedding_size": 5, "hidden_size": 5})]
    ).tie_weights


def test_settings_are_immutable() -> None:
    settings = TrainSettings()
    with pytest.raises(ValueError, match="frozen"):
        settings.hidden_size = 5


@pytest.mark.parametrize("text", ["seed", "seed =", "seed = 1\nseed = 2", "= 3", "{}"])
def test_invalid_toml_is_rejected(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match=r"some\.toml: .*line \d"):
        config.read_toml(toml(tmp_path, text + "\nlog_every = 1"))


def test_missing_toml_file_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"gone\.toml: no such file"):
        config.read_toml(tmp_path / "gone.toml")


def test_folder_or_binary_file_is_not_toml(tmp_path: Path) -> None:
    (tmp_path / "bytes.toml").write_bytes(b"encoding = '\xff'")
    for path in (tmp_path, tmp_path / "bytes.toml"):
        with pytest.raises(UsageError, match="cannot be read"):
            config.read_toml(path)


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_preset_is_found_by_name(path: Path) -> None:
    assert config.preset_path(path.stem).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("name", ["configs/tiny.toml", "./tiny", "tiny.toml", "runs\\mine"])
def test_name_with_slash_or_toml_suffix_is_a_path(name: str) -> None:
    assert config.preset_path(name) == Path(name)


def test_unknown_preset_suggests_nearest_and_lists_all() -> None:
    with pytest.raises(UsageError, match=r"^--config tinny: no such preset\. Did you mean tiny\?") as raised:
        config.preset_path("tinny")
    assert all(path.stem in raised.value.hint for path in PRESETS)


def test_stop_texts_can_be_a_list() -> None:
    assert resolve(SampleSettings, [SettingsSource("test", {"stop": ["ACT", "SCENE"]})]).stop == ("ACT", "SCENE")
    with pytest.raises(UsageError, match="stop"):
        resolve(SampleSettings, [SettingsSource("test", {"stop": [1]})])
