"""Whatever is wrong: the right exit code, a line or two that say what and where, and nothing changed on disk."""

import shutil
from pathlib import Path

import pytest
import torch

from charlm import runs
from tests.commands.conftest import Cli, Result

TINY = ("--hidden-size", "8", "--embedding-size", "4", "--batch-size", "2", "--sequence-length", "16", "--threads", "1")


def snapshot(folder: Path) -> dict[str, tuple[int, bytes | None]]:
    """All files and folders but those of the process's own temporary folder, which is removed when it ends."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
        for path in folder.rglob("*")
        if not path.relative_to(folder).parts[0].startswith("charlm-")
    }


def assert_rejected(cli: Cli, code: int, *arguments: object, expected: tuple[str, ...] = (), lines: int = 2) -> Result:
    """Asserts that ``charlm`` refuses, as people want it to."""
    before = snapshot(Path.cwd())
    result = cli(*arguments)
    assert result.code == code, result.err
    assert result.out == ""
    assert "Traceback" not in result.err
    assert "traceback" not in result.err  # a known fault, not one to be sent to a log
    assert 1 <= len(result.err.splitlines()) <= lines, result.err
    for text in expected:
        assert text in result.err
    assert snapshot(Path.cwd()) == before
    return result


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the trained run, to be damaged."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def damage(checkpoint: Path, name: str = "model.safetensors") -> None:
    data = bytearray((checkpoint / name).read_bytes())
    data[len(data) // 2] ^= 1
    (checkpoint / name).write_bytes(data)


# The text


def test_missing_file_is_rejected(cli: Cli) -> None:
    assert_rejected(cli, 2, "train", "nowhere.txt", expected=("nowhere.txt", "no such file"))


def test_one_missing_file_of_several_is_rejected(cli: Cli, poem_file: Path) -> None:
    assert_rejected(cli, 2, "train", poem_file, "nowhere.txt", expected=("nowhere.txt",))


def test_folder_without_text_is_rejected(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "plays").mkdir()
    assert_rejected(cli, 2, "train", "plays", expected=("plays", "no text file"))
    (tmp_path / "plays" / "picture.png").write_bytes(b"\x89PNG\0")
    assert_rejected(cli, 2, "train", "plays", expected=("plays", "no text file", "1 other"))


def test_empty_file_is_rejected(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    assert_rejected(cli, 1, "train", "empty.txt", expected=("empty.txt", "empty"))


def test_single_character_text_is_rejected(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a" * 5000)
    assert_rejected(cli, 1, "train", "a.txt", expected=("a.txt", "'a'"))


def test_too_short_text_is_rejected_and_minimum_length_accepted(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("ab" * 35)
    assert_rejected(
        cli, 1, "train", "short.txt", expected=("short.txt", "70 characters", "at least 72", "--sequence-length")
    )
    (tmp_path / "short.txt").write_text("ab" * 36)
    assert cli("train", "short.txt", *TINY, "--sequence-length", "64", "--max-steps", "1").code == 0


@pytest.mark.timeout(10)
@pytest.mark.parametrize("fraction", ["0", "1e-17"])
def test_empty_validation_split_is_rejected(cli: Cli, poem_file: Path, fraction: str) -> None:
    assert_rejected(cli, 2, "train", poem_file, "--validation-fraction", fraction, expected=("validation",))


def test_invalid_utf_8_is_rejected(cli: Cli, tmp_path: Path, poem_file: Path) -> None:
    (tmp_path / "latin.txt").write_bytes(b"one\ntwo caf\xe9\n" * 400)
    says = ("latin.txt", "0xe9", "offset 11", "line 2", "--encoding")
    assert_rejected(cli, 1, "train", poem_file, "latin.txt", expected=says)


@pytest.mark.parametrize("encoding", ["klingon", "hex"])
def test_non_text_encoding_is_rejected(cli: Cli, poem_file: Path, encoding: str) -> None:
    assert_rejected(cli, 2, "train", poem_file, "--encoding", encoding, expected=(encoding, "utf-8"))


# The run folder


def test_existing_run_is_rejected(cli: Cli, poem_file: Path, run: Path) -> None:
    assert_rejected(
        cli, 2, "train", poem_file, "--out", "run", expected=("run", "--resume auto", "--overwrite", "--out")
    )


def test_overwrite_rejects_folder_that_is_not_a_run(cli: Cli, poem_file: Path, tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("Dear")
    assert_rejected(cli, 2, "train", poem_file, "--out", "letters", expected=("letters",))
    assert_rejected(cli, 2, "train", poem_file, "--out", "letters", "--overwrite", expected=("letters", "--out"))


def test_run_folder_that_is_a_file_is_rejected(cli: Cli, poem_file: Path) -> None:
    assert_rejected(cli, 2, "train", poem_file, "--out", poem_file.name, expected=("is a file",))


def test_overwrite_keeps_run_if_new_one_cannot_start(cli: Cli, run: Path) -> None:
    assert_rejected(cli, 2, "train", "nowhere.txt", "--out", "run", "--overwrite")


# Settings


def test_unknown_preset_suggests_nearest(cli: Cli, poem_file: Path) -> None:
    for command in (("train", poem_file), ("bench",)):
        assert_rejected(cli, 2, *command, "--config", "tinny", expected=("tinny", "Did you mean tiny?"))


def test_missing_settings_file_is_rejected(cli: Cli, poem_file: Path) -> None:
    assert_rejected(cli, 2, "train", poem_file, "--config", "my.toml", expected=("my.toml", "no such file"))


def test_invalid_toml_is_rejected(cli: Cli, poem_file: Path, tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text("hidden_size = = 8\n")
    assert_rejected(cli, 2, "train", poem_file, "--config", "my.toml", expected=("my.toml", "line 1"))


def test_unknown_key_suggests_nearest(cli: Cli, poem_file: Path, tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text("hiden_size = 8\n")
    says = ("my.toml", "hiden_size", "Did you mean hidden_size?")
    assert_rejected(cli, 2, "train", poem_file, "--config", "my.toml", expected=says)


def test_all_out_of_range_values_are_reported_together(cli: Cli, poem_file: Path, tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text('num_layers = 2.5\ncell = "gnu"\nnonsense = 1\n')
    options = ("--hidden-size", "0", "--dropout", "1.5", "--learning-rate", "99")
    says = ("--hidden-size: ", "--dropout: ", "--learning-rate: ", "(got 99.0)", "num_layers", "cell", "nonsense")
    assert_rejected(cli, 2, "train", poem_file, "--config", "my.toml", *options, expected=says, lines=7)


def test_conflicting_settings_are_rejected(cli: Cli, poem_file: Path) -> None:
    assert_rejected(
        cli, 2, "train", poem_file, "--tie-weights", expected=("--tie-weights", "--embedding-size", "--hidden-size")
    )
    assert_rejected(
        cli, 2, "train", poem_file, "--max-steps", "0", expected=("--max-steps", "--max-epochs", "--max-minutes")
    )


@pytest.mark.parametrize("option", ["--hiden-size", "--temperature"])
def test_unknown_option_is_rejected(cli: Cli, poem_file: Path, option: str) -> None:
    result = assert_rejected(cli, 2, "train", poem_file, option, "8", expected=(option,), lines=5)
    assert option != "--hiden-size" or "--hidden-size" in result.err


@pytest.mark.parametrize("value", ["many", "1.5", "true", ""])
def test_non_numeric_value_is_rejected(cli: Cli, poem_file: Path, value: str) -> None:
    assert_rejected(cli, 2, "train", poem_file, "--hidden-size", value, expected=("--hidden-size",), lines=5)


@pytest.mark.parametrize(
    "command", [("train", "x"), ("sample", "x"), ("eval", "x"), ("corpus", "get", "x"), ("cache", "clear")]
)
def test_missing_value_points_to_command_help(cli: Cli, command: tuple[str, ...]) -> None:
    option = {"train": "--device", "sample": "--length", "eval": "--num-segments", "corpus": "--dir"}
    names = command[:2] if command[0] in ("corpus", "cache") else command[:1]
    says = (f"charlm {' '.join(names)} --help",)
    assert_rejected(cli, 2, *command, option.get(command[0], "--cache-dir"), expected=says)


def test_bad_value_of_non_setting_variable_names_variable(cli: Cli, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHARLM_EVAL_NUM_SEGMENTS", "0")
    assert_rejected(cli, 2, "eval", run, expected=("CHARLM_EVAL_NUM_SEGMENTS", "at least 1 (got 0)"))


@pytest.mark.parametrize("value", ["many", "0"])
def test_bad_value_of_environment_variable_names_variable(
    cli: Cli, poem_file: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("CHARLM_TRAIN_HIDDEN_SIZE", value)
    assert_rejected(cli, 2, "train", poem_file, expected=("CHARLM_TRAIN_HIDDEN_SIZE", value), lines=5)


@pytest.mark.parametrize("command", ["train", "sample", "eval", "score", "inspect", "bench"])
def test_cuda_without_gpu_is_rejected(
    cli: Cli, poem_file: Path, run: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    text = {"train": [poem_file, "--out", "new"], "bench": []}.get(command, [run])
    assert_rejected(cli, 2, command, *text, "--device", "cuda", expected=("--device cuda", "CUDA", "--device cpu"))


@pytest.mark.parametrize("device", ["gpu", "meta"])
def test_unknown_device_is_rejected(cli: Cli, poem_file: Path, device: str) -> None:
    assert_rejected(cli, 2, "train", poem_file, "--device", device, expected=(f"--device {device}",))


# Checkpoints

READERS = (("sample",), ("info",), ("eval",), ("score",), ("inspect",), ("train", "--resume"))


@pytest.mark.parametrize("reader", READERS)
def test_missing_run_is_rejected(cli: Cli, reader: tuple[str, ...]) -> None:
    assert_rejected(cli, 2, *reader, "nowhere", expected=("nowhere", "no such run"))


@pytest.mark.parametrize("reader", READERS)
def test_folder_that_is_not_a_checkpoint_is_rejected(cli: Cli, tmp_path: Path, reader: tuple[str, ...]) -> None:
    (tmp_path / "letters").mkdir()
    assert_rejected(cli, 3, *reader, "letters", expected=("letters", "neither a run nor a checkpoint"))


@pytest.mark.parametrize("reader", READERS[:-1])  # a resume starts it again
def test_run_without_checkpoint_is_rejected(cli: Cli, tmp_path: Path, run: Path, reader: tuple[str, ...]) -> None:
    for checkpoint in runs.list_checkpoints(run):
        shutil.rmtree(checkpoint)
    assert_rejected(cli, 3, *reader, "run", expected=("run", "no checkpoint"))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "vocabulary.json", "manifest.json"])
@pytest.mark.parametrize("reader", READERS)
def test_damaged_checkpoint_is_rejected(cli: Cli, run: Path, reader: tuple[str, ...], name: str) -> None:
    damage(run / "step-00000004", name)
    assert_rejected(cli, 3, *reader, run / "step-00000004", expected=("step-00000004",))


@pytest.mark.parametrize("reader", READERS)
def test_run_with_only_damaged_checkpoints_is_rejected(cli: Cli, run: Path, reader: tuple[str, ...]) -> None:
    for checkpoint in runs.list_checkpoints(run):
        damage(checkpoint)
    assert_rejected(cli, 3, *reader, "run", expected=("step-", "damaged"))


def test_checkpoint_with_missing_file_is_rejected(cli: Cli, run: Path) -> None:
    (run / "step-00000004" / "vocabulary.json").unlink()
    assert_rejected(cli, 3, "sample", run / "step-00000004", expected=("vocabulary.json", "missing"))


@pytest.mark.parametrize("which", ["newest", "-1", "1.5", "²", ""])
@pytest.mark.parametrize("reader", ["sample", "info", "eval", "score", "inspect"])
def test_invalid_checkpoint_name_is_rejected(cli: Cli, run: Path, reader: str, which: str) -> None:
    assert_rejected(cli, 2, reader, "run", f"--checkpoint={which}", expected=(f"--checkpoint {which}", "best, latest"))


@pytest.mark.parametrize("reader", ["sample", "info", "eval", "score", "inspect"])
def test_missing_step_lists_available_steps(cli: Cli, run: Path, reader: str) -> None:
    assert_rejected(cli, 2, reader, "run", "--checkpoint", "77", expected=("77", "1, 2, 3, 4"))


def test_resume_with_other_text_or_architecture_is_rejected(cli: Cli, run: Path, tmp_path: Path, poem: str) -> None:
    (tmp_path / "other.txt").write_text(poem + "!", encoding="utf-8")
    assert_rejected(cli, 2, "train", "other.txt", "--resume", "run", expected=("other.txt", "--out"))
    assert_rejected(cli, 2, "train", "--resume", "run", "--hidden-size", "17", expected=("hidden_size (16)",))


# Prompts


def test_unknown_prompt_characters_are_rejected(cli: Cli, run: Path) -> None:
    says = ("'☃' (U+2603 SNOWMAN)", "'Ж' (U+0416", "2 characters", "charlm info")
    assert_rejected(cli, 1, "sample", "run", "--prompt", "Die ☃ЖЖ☃", expected=says)


@pytest.mark.parametrize(
    "option", [("--temperature", "-1"), ("--temperature", "nan"), ("--top-k", "-3"), ("--length", "-5")]
)
def test_invalid_sampling_options_are_rejected(cli: Cli, run: Path, option: tuple[str, str]) -> None:
    assert_rejected(cli, 2, "sample", "run", *option, expected=(option[0],))


# What a model is tried on

EVAL_AND_SCORE = pytest.mark.parametrize("command", ["eval", "score", "inspect"])


@EVAL_AND_SCORE
def test_unreadable_evaluation_text_is_rejected(cli: Cli, run: Path, tmp_path: Path, command: str) -> None:
    (tmp_path / "empty.txt").touch()
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "snow.txt").write_text("Die ☃", encoding="utf-8")
    assert_rejected(cli, 2, command, "run", "nowhere.txt", expected=("nowhere.txt", "no such file"))
    assert_rejected(cli, 1, command, "run", "empty.txt", expected=("empty",))
    assert_rejected(cli, 1, command, "run", "latin.txt", expected=("latin.txt", "0xe9", "offset 3", "--encoding"))
    assert_rejected(cli, 1, command, "run", "snow.txt", expected=("1 character ", "'☃' (U+2603 SNOWMAN)"))
    assert_rejected(cli, 2, command, "run", "snow.txt", "--encoding", "klingon", expected=("klingon",))


@EVAL_AND_SCORE
def test_missing_split_is_rejected(cli: Cli, run: Path, poem_file: Path, command: str) -> None:
    assert_rejected(cli, 2, command, "run", "--split", "test", expected=("--split test", "--test-fraction"))
    assert_rejected(cli, 2, command, "run", poem_file, "--split", "validation", expected=("--split validation",))
    assert_rejected(cli, 2, command, "run", "--encoding", "latin-1", expected=("--encoding latin-1",))
    assert_rejected(cli, 2, command, "run", "--split", "best", expected=("--split", "validation"), lines=5)


@EVAL_AND_SCORE
def test_changed_run_corpus_is_rejected(cli: Cli, poem_file: Path, poem: str, command: str) -> None:
    assert cli("train", poem_file, *TINY, "--max-steps", "1", "--out", "run").code == 0
    poem_file.write_text(poem + "!", encoding="utf-8")
    assert_rejected(cli, 2, command, "run", expected=("run: ", "poem.txt", "TEXT"))
    poem_file.unlink()  # the cache has it
    assert cli(command, "run").code == 0
    assert_rejected(
        cli, 2, command, "run", "--cache-dir", "elsewhere", expected=("run: ", "not found", "poem.txt", "TEXT")
    )


def test_extra_metrics_without_run_corpus_are_rejected(cli: Cli, poem_file: Path, tmp_path: Path, poem: str) -> None:
    assert cli("train", poem_file, *TINY, "--max-steps", "1", "--out", "run").code == 0
    poem_file.unlink()
    (tmp_path / "other.txt").write_text(poem[:500], encoding="utf-8")
    gone = ("eval", "run", "other.txt", "--cache-dir", "elsewhere")
    assert cli(*gone).code == 0
    for options in (("--baselines",), ("--baselines", "--dynamic")):
        result = cli(*gone, *options)
        assert result.code == 2
        assert "poem.txt" in result.err
        assert f"remove {' and '.join(options)}." in result.err
        assert "RUN TEXT" not in result.err  # that is what it was called with


@pytest.mark.parametrize(
    "options",
    [("--num-segments", "0"), ("--independent-windows", "0"), ("--independent-windows", "-1"), ("--threads", "-1")],
)
def test_invalid_evaluation_options_are_rejected(cli: Cli, run: Path, options: tuple[str, str]) -> None:
    assert_rejected(cli, 2, "eval", "run", *options, expected=options, lines=5)


def test_invalid_dynamic_evaluation_settings_are_rejected(cli: Cli, run: Path) -> None:
    assert_rejected(cli, 2, "eval", "run", "--dynamic-decay", "0.1", expected=("Add --dynamic",))
    assert_rejected(cli, 2, "eval", "run", "--dynamic", "--dynamic-decay", "1.5", expected=("--dynamic-decay: ", "1.5"))


@pytest.mark.parametrize(
    "options", [("eval", "--context-plot"), ("score", "--html"), ("inspect", "--html"), ("inspect", "--npz")]
)
def test_unwritable_results_are_rejected(
    cli: Cli, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, str]
) -> None:
    command, option = options
    monkeypatch.setattr("charlm.evaluation.loss.iter_predictions", None)  # it is said before the work begins
    monkeypatch.setattr("charlm.evaluation.scores.iter_predictions", None)
    (tmp_path / "folder").mkdir()
    assert_rejected(
        cli, 2, command, "run", option, "nowhere/x", expected=("nowhere/x", "cannot be written", "No such file")
    )
    assert_rejected(cli, 2, command, "run", option, "folder", expected=("folder", "is a folder"))


# What nobody foresaw


def test_unexpected_error_prints_summary_and_writes_log(cli: Cli, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise ValueError("a thing\nnobody foresaw")

    monkeypatch.setattr(runs, "load_model", fail)
    result = cli("sample", "run")
    assert result.code == 1
    assert "Traceback" not in result.err
    assert "ValueError: a thing\n" in result.err
    assert len(result.err.splitlines()) == 2
    (log,) = run.parent.glob("charlm-*.log")
    assert str(log) in result.err
    assert "nobody foresaw" in log.read_text()


def test_debug_shows_traceback_of_known_error(cli: Cli) -> None:
    for arguments in (("--debug", "train", "nowhere.txt"), ("train", "nowhere.txt", "--debug")):
        result = cli(*arguments)
        assert result.code == 2
        assert "Traceback" in result.err
        assert "UsageError" in result.err
