import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from charlm import files
from charlm.checkpoint import loading, writing
from charlm.checkpoint.contents import Checkpoint, SavedModel
from charlm.checkpoint.environment import describe_environment
from charlm.config import SETTINGS_ADDED_LATER, TrainSettings
from charlm.corpus.vocabulary import Vocabulary
from charlm.errors import CheckpointError, VersionError
from charlm.model.kernels.library import load_native
from charlm.model.language_model import CharacterModel
from charlm.progress import TrainingProgress
from tests.conftest import corpus_record

SETTINGS = TrainSettings(hidden_size=8, embedding_size=4, num_layers=2, learning_rate=0.1 + 0.2, encoding="latin-1")
ENVIRONMENT = describe_environment(torch.device("cpu"), "fp32")
TIED = TrainSettings(hidden_size=4, embedding_size=4, num_layers=1, tie_weights=True)
NAMES = ("config.json", "manifest.json", "model.safetensors", "training_state.safetensors", "vocabulary.json")
each_file = pytest.mark.parametrize("name", NAMES)


def make_model(
    settings: TrainSettings = SETTINGS, text: str = "abcé\n\0", metrics: dict[str, float] | None = None
) -> SavedModel:
    vocabulary = Vocabulary.from_text(text)
    weights = dict(CharacterModel(len(vocabulary), settings).state_dict())
    progress = TrainingProgress(
        steps=12, windows_seen=2**53 + 1, training_seconds=1 / 3, best_validation_loss=0.1 + 0.2, rollbacks=1
    )
    return SavedModel(12, settings, vocabulary, weights, progress, corpus_record("été"), ENVIRONMENT, metrics or {})


def make(settings: TrainSettings = SETTINGS, text: str = "abcé\n\0") -> Checkpoint:
    return Checkpoint(make_model(settings, text), {})


def full() -> Checkpoint:
    return Checkpoint(
        make_model(metrics={"loss_validation": 0.1 + 0.2, "tiny": 5e-324}),
        {
            "rng_state.cpu": torch.get_rng_state(),
            "strange": torch.tensor([-0.0, 1e-42, float("inf"), float("nan")]),
            "half": torch.tensor([1 / 3], dtype=torch.bfloat16),
            "number": torch.tensor(3.0),
            "empty": torch.zeros(0, 4),
            "not contiguous": torch.arange(6.0).reshape(2, 3).T,
        },
    )


def bits(tensors: dict[str, Tensor]) -> dict[str, object]:
    return {
        name: (tensor.dtype, tensor.shape, tensor.reshape(-1).view(torch.uint8).tolist())
        for name, tensor in tensors.items()
    }


def rewrite(folder: Path, name: str, change: Callable[[Any], Any]) -> None:
    """Change a JSON file of a checkpoint, with a manifest that agrees."""
    data = writing.encode_json(change(json.loads((folder / name).read_bytes())))
    replace(folder, name, data)


def replace(folder: Path, name: str, data: bytes) -> None:
    (folder / name).write_bytes(data)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest[name] = {"size_bytes": len(data), "sha256": files.sha256(data)}
    (folder / "manifest.json").write_bytes(writing.encode_json(manifest))


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint for those who leave it as it was."""
    folder = tmp_path_factory.mktemp("run") / "step-00000012"
    writing.write_checkpoint(folder, full())
    return folder


@pytest.fixture
def folder(committed: Path, tmp_path: Path) -> Path:
    """A checkpoint of one's own."""
    return Path(shutil.copytree(committed, tmp_path / "step-00000012"))


def test_roundtrip_is_bit_identical(tmp_path: Path) -> None:
    saved = full()
    writing.write_checkpoint(tmp_path / "step", saved)
    read = loading.load_checkpoint(tmp_path / "step")
    assert bits(read.model.weights) == bits(saved.model.weights)
    assert bits(read.training_state) == bits(saved.training_state)
    assert read.training_state["rng_state.cpu"].dtype == torch.uint8
    for name in ("step", "settings", "vocabulary", "metrics", "progress", "corpus", "environment"):
        assert getattr(read.model, name) == getattr(saved.model, name), name
    assert read.model.folder == tmp_path / "step"


def test_random_generator_continues_after_load(tmp_path: Path) -> None:
    saved = make()
    saved.training_state["rng_state.cpu"] = torch.get_rng_state()
    writing.write_checkpoint(tmp_path / "step", saved)
    expected = torch.rand(10)
    torch.set_rng_state(loading.load_checkpoint(tmp_path / "step").training_state["rng_state.cpu"])
    assert torch.equal(torch.rand(10), expected)


@given(st.text(min_size=1, max_size=20))
@example("\ud800")
def test_vocabulary_of_any_characters_roundtrip(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = tmp_path_factory.mktemp("any") / "step"
    saved = make(TIED, text)
    writing.write_checkpoint(folder, saved)
    assert loading.load_checkpoint(folder).model.vocabulary == saved.model.vocabulary


@pytest.mark.parametrize(
    "settings", [SETTINGS, TIED, SETTINGS.model_copy(update={"cell": "gru"})], ids=["", "tied", "gru"]
)
def test_loaded_model_computes_the_same(tmp_path: Path, settings: TrainSettings) -> None:
    saved = make(settings)
    writing.write_checkpoint(tmp_path / "step", saved)
    ids = torch.tensor([[6], [0], [3]])
    logits = []
    for each in (saved, loading.load_checkpoint(tmp_path / "step")):
        model = each.model.build_model(torch.device("cpu"))
        assert not model.training
        logits.append(model(ids, model.zero_state(1))[0])
    assert torch.equal(*logits)


def test_checkpoint_file_names(committed: Path) -> None:
    assert tuple(sorted(path.name for path in committed.iterdir())) == NAMES
    assert list(committed.parent.iterdir()) == [committed]


def test_manifest_contains_size_and_hash_of_every_file(committed: Path) -> None:
    manifest = json.loads((committed / "manifest.json").read_bytes())
    assert sorted(manifest) == sorted(set(NAMES) - {"manifest.json"})
    for name, entry in manifest.items():
        data = (committed / name).read_bytes()
        assert entry == {"size_bytes": len(data), "sha256": files.sha256(data)}


def test_manifest_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr(files, "write_folder", lambda path, contents: written.extend(contents))
    writing.write_checkpoint(tmp_path / "step", full())
    assert written[-1] == "manifest.json"
    assert tuple(sorted(written)) == NAMES


def test_config_json_content(committed: Path) -> None:
    config = json.loads((committed / "config.json").read_bytes())
    assert config["format_version"] == 2
    assert config["step"] == 12
    assert config["settings"] == SETTINGS.model_dump()
    assert config["metrics"]["loss_validation"] == 0.1 + 0.2
    assert config["tied_weights"] == {}
    assert config["environment"] == ENVIRONMENT.model_dump()
    assert "gpu" not in config["environment"]


def test_vocabulary_json_content(committed: Path) -> None:
    assert json.loads((committed / "vocabulary.json").read_bytes()) == {
        "unit": "character",
        "characters": ["\0", "\n", "a", "b", "c", "é"],
        "unknown_id": None,
    }


def test_weight_names_and_shapes(committed: Path) -> None:
    weights = safetensors.torch.load_file(committed / "model.safetensors")
    assert {name: tuple(weight.shape) for name, weight in weights.items()} == {
        "embedding.weight": (7, 4),
        "recurrent.layers.0.weight_ih": (32, 4),
        "recurrent.layers.0.weight_hh": (32, 8),
        "recurrent.layers.0.bias": (32,),
        "recurrent.layers.1.weight_ih": (32, 8),
        "recurrent.layers.1.weight_hh": (32, 8),
        "recurrent.layers.1.bias": (32,),
        "output_weight": (6, 8),
        "output_bias": (6,),
    }


def test_tied_weight_is_stored_once(tmp_path: Path) -> None:
    writing.write_checkpoint(tmp_path / "step", make(TIED))
    weights = safetensors.torch.load_file(tmp_path / "step" / "model.safetensors")
    assert "embedding.weight" in weights
    assert "output_weight" not in weights
    config = json.loads((tmp_path / "step" / "config.json").read_bytes())
    assert config["tied_weights"] == {"output_weight": "embedding.weight"}


def test_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = full()
    saved.model.metrics["loss_validation"] = object()  # type: ignore[assignment]
    with pytest.raises(TypeError):
        writing.write_checkpoint(tmp_path / "step", saved)
    assert list(tmp_path.iterdir()) == []


def test_existing_checkpoint_is_not_overwritten(folder: Path) -> None:
    before = (folder / "config.json").read_bytes()
    with pytest.raises(FileExistsError):
        writing.write_checkpoint(folder, make(TIED))
    assert (folder / "config.json").read_bytes() == before


def assert_rejected(folder: Path, match: str | None = None) -> CheckpointError:
    with pytest.raises(CheckpointError, match=match) as raised:
        loading.load_checkpoint(folder)
    assert raised.value.exit_code == 3
    assert str(folder) in raised.value.message
    return raised.value


@each_file
def test_truncated_file_is_detected(folder: Path, name: str) -> None:
    data = (folder / name).read_bytes()
    for length in (0, 1, len(data) // 2, len(data) - 2):
        (folder / name).write_bytes(data[:length])
        assert_rejected(folder)


@each_file
@given(data=st.data())
def test_flipped_bit_is_detected(committed: Path, name: str, data: st.DataObject) -> None:
    original = (committed / name).read_bytes()
    bit = data.draw(st.integers(0, 8 * len(original) - 1))
    flipped = bytearray(original)
    flipped[bit // 8] ^= 1 << bit % 8
    (committed / name).write_bytes(flipped)
    try:
        assert_rejected(committed)
    finally:
        (committed / name).write_bytes(original)


@each_file
def test_missing_file_is_detected(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert_rejected(folder, name.replace(".", r"\.") + " is missing")


@each_file
def test_folder_in_place_of_file_is_detected(folder: Path, name: str) -> None:
    (folder / name).unlink()
    (folder / name).mkdir()
    assert_rejected(folder)


def test_folder_without_manifest_is_not_a_checkpoint(tmp_path: Path) -> None:
    assert_rejected(tmp_path, r"manifest\.json")
    assert_rejected(tmp_path / "gone", r"manifest\.json")


OPEN = ("metrics", "tied_weights")  # objects whose keys are not fixed


def keys(content: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The way to every key of a JSON file that must be there."""
    if isinstance(content, dict) and path[-1:] not in [(name,) for name in OPEN]:
        for name, value in content.items():
            yield (*path, name)
            yield from keys(value, (*path, name))
    elif isinstance(content, list):
        for index, value in enumerate(content):
            yield from keys(value, (*path, index))


def parent_of(content: Any, path: tuple[str | int, ...]) -> Any:
    for name in path[:-1]:
        content = content[name]
    return content


OPTIONAL_KEYS = {*SETTINGS_ADDED_LATER, "native_kernels"}


@pytest.mark.parametrize("name", ["config.json", "vocabulary.json", "manifest.json"])
def test_every_key_is_required(folder: Path, name: str) -> None:
    written = (folder / name).read_bytes()
    paths = [path for path in keys(json.loads(written)) if path[-1] not in OPTIONAL_KEYS]
    assert len(paths) >= {"config.json": 69, "vocabulary.json": 3, "manifest.json": 12}[name]
    for path in paths:
        content = json.loads(written)
        del parent_of(content, path)[path[-1]]
        if name == "manifest.json":
            (folder / name).write_bytes(writing.encode_json(content))
        else:
            replace(folder, name, writing.encode_json(content))
        with pytest.raises(CheckpointError) as raised:
            loading.load_checkpoint(folder)
        assert not isinstance(raised.value, VersionError), path
        assert str(folder) in raised.value.message
        assert name == "manifest.json" or str(path[-1]) in raised.value.message, path


@pytest.mark.parametrize("name", SETTINGS_ADDED_LATER)
def test_settings_added_later_may_be_missing(folder: Path, name: str) -> None:
    config = json.loads((folder / "config.json").read_bytes())
    del config["settings"][name]
    replace(folder, "config.json", writing.encode_json(config))
    settings = loading.load_checkpoint(folder).model.settings
    assert getattr(settings, name) == SETTINGS_ADDED_LATER[name]
    assert name in settings.model_fields_set  # so it is not a default, which a later version may change


def test_unknown_keys_are_accepted(folder: Path) -> None:
    def add_everywhere(content: Any) -> Any:
        if isinstance(content, dict):
            return {**{key: add_everywhere(value) for key, value in content.items()}, "added_later": [1]}
        return [add_everywhere(value) for value in content] if isinstance(content, list) else content

    def add(config: dict[str, Any]) -> dict[str, Any]:
        fixed = {name: config[name] for name in ("settings", "environment", *OPEN)}
        return {**add_everywhere(config), **fixed}

    before = loading.load_checkpoint(folder)
    rewrite(folder, "config.json", add)
    rewrite(folder, "vocabulary.json", add_everywhere)
    manifest = add_everywhere(json.loads((folder / "manifest.json").read_bytes()))
    (folder / "manifest.json").write_bytes(writing.encode_json(manifest))
    after = loading.load_checkpoint(folder)
    for name in ("progress", "corpus", "vocabulary"):
        assert getattr(after.model, name) == getattr(before.model, name)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("progress", {name: value}) for name in ("steps", "rollbacks") for value in (-1, "12", 1.5, True)),
        *(("progress", {"training_seconds": value}) for value in (-1.0, "1", float("inf"), float("nan"))),
        ("progress", {"steps": 11}),
        ("progress", {"learning_rate_scale": 0.0}),
        ("corpus", {"num_files": "1"}),
        ("corpus", {"split": {"train": [0], "validation": [0, 1], "test": [1, 1]}}),
        ("corpus", {"files_sha256": 3}),
    ],
    ids=str,
)
def test_values_of_wrong_type_are_rejected(folder: Path, key: str, value: dict[str, Any]) -> None:
    rewrite(folder, "config.json", lambda config: {**config, key: {**config[key], **value}})
    assert_rejected(folder, key)


def test_missing_validation_loss_is_stored_as_null(tmp_path: Path) -> None:
    saved = make()
    saved.model.progress.best_validation_loss = math.inf
    writing.write_checkpoint(tmp_path / "step", saved)
    config = json.loads((tmp_path / "step" / "config.json").read_bytes(), parse_constant=pytest.fail)
    assert config["progress"]["best_validation_loss"] is None
    assert loading.load_checkpoint(tmp_path / "step").model.progress == saved.model.progress


@pytest.mark.parametrize("name", ["config.json", "vocabulary.json", "manifest.json"])
@pytest.mark.parametrize(
    "data", [b"", b"[]", b"null", b"{}", b"\xff", b"{" * 100_000, b"[" * 100_000], ids=lambda d: repr(d[:4])
)
def test_unexpected_json_is_rejected_despite_valid_manifest(folder: Path, name: str, data: bytes) -> None:
    if name == "manifest.json":
        (folder / name).write_bytes(data)
    else:
        replace(folder, name, data)
    with pytest.raises(CheckpointError):
        loading.load_checkpoint(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "training_state.safetensors"])
@pytest.mark.parametrize("data", [b"", b"\0" * 8, b"\xff" * 64, b"\x02\0\0\0\0\0\0\0[]"], ids=lambda d: repr(d[:4]))
def test_unexpected_tensors_are_rejected_despite_valid_manifest(folder: Path, name: str, data: bytes) -> None:
    replace(folder, name, data)
    assert_rejected(folder)


@pytest.mark.parametrize("settings", [{"hidden_size": 0}, {"no_such_setting": 1}, {"cell": None}, [], None], ids=repr)
def test_invalid_settings_are_rejected(folder: Path, settings: Any) -> None:
    rewrite(folder, "config.json", lambda config: {**config, "settings": settings})
    assert_rejected(folder)


def test_weights_that_do_not_match_settings_are_rejected(folder: Path) -> None:
    rewrite(folder, "config.json", lambda config: {**config, "settings": {**config["settings"], "hidden_size": 9}})
    with pytest.raises(CheckpointError, match="output_weight"):
        loading.load_checkpoint(folder).model.build_model(torch.device("cpu"))


def test_environment_fields() -> None:
    environment = describe_environment(torch.device("cpu"), "fp32")
    names = ["charlm", "python", "torch", "numpy", "system", "processor", "device", "precision", "threads"]
    assert list(environment.model_dump()) == names + ["native_kernels"] * (load_native().library is not None)
    assert (environment.torch, environment.numpy) == (torch.__version__, np.__version__)
    assert (environment.device, environment.precision, environment.threads) == ("cpu", "fp32", 1)
    assert torch.backends.cpu.get_cpu_capability() in environment.processor
    json.dumps(environment.model_dump())
