"""Whatever is wrong: the right exit code, a line or two that say what and where, and nothing changed on disk."""

import shutil
from pathlib import Path

import pytest
import torch

from charlm import runs
from tests.commands.conftest import Cli, Result

TINY = ("--hidden-size", "8", "--embedding-size", "4", "--batch-size", "2", "--sequence-length", "16", "--threads", "1")


def everything_under(folder: Path) -> dict[str, tuple[int, bytes | None]]:
    """All files and folders but those of the process's own temporary folder, which is removed when it ends."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
        for path in folder.rglob("*")
        if not path.relative_to(folder).parts[0].startswith("charlm-")
    }


def refused(cli: Cli, code: int, *arguments: object, says: tuple[str, ...] = (), lines: int = 2) -> Result:
    """Asserts that ``charlm`` refuses, as people want it to."""
    before = everything_under(Path.cwd())
    result = cli(*arguments)
    assert result.code == code, result.err
    assert result.out == ""
    assert "Traceback" not in result.err
    assert "traceback" not in result.err  # a known fault, not one to be sent to a log
    assert 1 <= len(result.err.splitlines()) <= lines, result.err
    for text in says:
        assert text in result.err
    assert everything_under(Path.cwd()) == before
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


def test_a_file_that_does_not_exist(cli: Cli) -> None:
    refused(cli, 2, "train", "nowhere.txt", says=("nowhere.txt", "no such file"))


def test_one_file_of_several_that_does_not_exist(cli: Cli, poem_file: Path) -> None:
    refused(cli, 2, "train", poem_file, "nowhere.txt", says=("nowhere.txt",))


def test_a_folder_without_text(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "plays").mkdir()
    refused(cli, 2, "train", "plays", says=("plays", "no text file"))
    (tmp_path / "plays" / "picture.png").write_bytes(b"\x89PNG\0")
    refused(cli, 2, "train", "plays", says=("plays", "no text file", "1 other"))


def test_an_empty_file(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    refused(cli, 1, "train", "empty.txt", says=("empty.txt", "empty"))


def test_one_character_over_and_over(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a" * 5000)
    refused(cli, 1, "train", "a.txt", says=("a.txt", "'a'"))


def test_a_text_that_is_too_short_and_the_least_that_is_not(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("ab" * 35)
    refused(cli, 1, "train", "short.txt", says=("short.txt", "70 characters", "at least 72", "--sequence-length"))
    (tmp_path / "short.txt").write_text("ab" * 36)
    assert cli("train", "short.txt", *TINY, "--sequence-length", "64", "--max-steps", "1").code == 0


@pytest.mark.timeout(10)
@pytest.mark.parametrize("fraction", ["0", "1e-17"])
def test_a_validation_part_that_would_be_empty(cli: Cli, poem_file: Path, fraction: str) -> None:
    refused(cli, 2, "train", poem_file, "--validation-fraction", fraction, says=("validation",))


def test_bytes_that_are_not_utf_8(cli: Cli, tmp_path: Path, poem_file: Path) -> None:
    (tmp_path / "latin.txt").write_bytes(b"one\ntwo caf\xe9\n" * 400)
    says = ("latin.txt", "0xe9", "offset 11", "line 2", "--encoding")
    refused(cli, 1, "train", poem_file, "latin.txt", says=says)


@pytest.mark.parametrize("encoding", ["klingon", "hex"])
def test_an_encoding_that_is_none_of_text(cli: Cli, poem_file: Path, encoding: str) -> None:
    refused(cli, 2, "train", poem_file, "--encoding", encoding, says=(encoding, "utf-8"))


# The run folder


def test_a_run_that_exists(cli: Cli, poem_file: Path, run: Path) -> None:
    refused(cli, 2, "train", poem_file, "--out", "run", says=("run", "--resume auto", "--overwrite", "--out"))


def test_a_folder_that_is_no_run_is_safe_from_overwrite(cli: Cli, poem_file: Path, tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("Dear")
    refused(cli, 2, "train", poem_file, "--out", "letters", says=("letters",))
    refused(cli, 2, "train", poem_file, "--out", "letters", "--overwrite", says=("letters", "--out"))


def test_a_run_folder_that_is_a_file(cli: Cli, poem_file: Path) -> None:
    refused(cli, 2, "train", poem_file, "--out", poem_file.name, says=("is a file",))


def test_a_run_is_safe_from_overwrite_by_something_that_cannot_start(cli: Cli, run: Path) -> None:
    refused(cli, 2, "train", "nowhere.txt", "--out", "run", "--overwrite")


# Settings


def test_a_preset_that_does_not_exist_and_the_nearest(cli: Cli, poem_file: Path) -> None:
    for command in (("train", poem_file), ("bench",)):
        refused(cli, 2, *command, "--config", "tinny", says=("tinny", "Did you mean tiny?"))


def test_a_settings_file_that_does_not_exist(cli: Cli, poem_file: Path) -> None:
    refused(cli, 2, "train", poem_file, "--config", "my.toml", says=("my.toml", "no such file"))


def test_a_settings_file_that_is_not_toml(cli: Cli, poem_file: Path, tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text("hidden_size = = 8\n")
    refused(cli, 2, "train", poem_file, "--config", "my.toml", says=("my.toml", "line 1"))


def test_a_key_that_does_not_exist_and_the_nearest(cli: Cli, poem_file: Path, tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text("hiden_size = 8\n")
    says = ("my.toml", "hiden_size", "Did you mean hidden_size?")
    refused(cli, 2, "train", poem_file, "--config", "my.toml", says=says)


def test_several_values_out_of_range_are_told_together(cli: Cli, poem_file: Path, tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text('num_layers = 2.5\ncell = "gnu"\nnonsense = 1\n')
    options = ("--hidden-size", "0", "--dropout", "1.5", "--learning-rate", "99")
    says = ("--hidden-size: ", "--dropout: ", "--learning-rate: ", "(got 99.0)", "num_layers", "cell", "nonsense")
    refused(cli, 2, "train", poem_file, "--config", "my.toml", *options, says=says, lines=7)


def test_settings_that_do_not_go_together(cli: Cli, poem_file: Path) -> None:
    refused(cli, 2, "train", poem_file, "--tie-weights", says=("--tie-weights", "--embedding-size", "--hidden-size"))
    refused(cli, 2, "train", poem_file, "--max-steps", "0", says=("--max-steps", "--max-epochs", "--max-minutes"))


@pytest.mark.parametrize("option", ["--hiden-size", "--temperature"])
def test_an_option_that_does_not_exist(cli: Cli, poem_file: Path, option: str) -> None:
    result = refused(cli, 2, "train", poem_file, option, "8", says=(option,), lines=5)
    assert option != "--hiden-size" or "--hidden-size" in result.err


@pytest.mark.parametrize("value", ["many", "1.5", "true", ""])
def test_a_number_that_is_none(cli: Cli, poem_file: Path, value: str) -> None:
    refused(cli, 2, "train", poem_file, "--hidden-size", value, says=("--hidden-size",), lines=5)


@pytest.mark.parametrize(
    "command", [("train", "x"), ("sample", "x"), ("eval", "x"), ("corpus", "get", "x"), ("cache", "clear")]
)
def test_a_missing_value_points_to_the_help_of_the_command(cli: Cli, command: tuple[str, ...]) -> None:
    option = {"train": "--device", "sample": "--length", "eval": "--num-segments", "corpus": "--dir"}
    names = command[:2] if command[0] in ("corpus", "cache") else command[:1]
    says = (f"charlm {' '.join(names)} --help",)
    refused(cli, 2, *command, option.get(command[0], "--cache-dir"), says=says)


def test_a_bad_value_of_a_variable_for_an_option_that_is_no_setting_names_it(
    cli: Cli, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHARLM_EVAL_NUM_SEGMENTS", "0")
    refused(cli, 2, "eval", run, says=("CHARLM_EVAL_NUM_SEGMENTS", "at least 1 (got 0)"))


@pytest.mark.parametrize("value", ["many", "0"])
def test_a_bad_value_of_an_environment_variable_names_it(
    cli: Cli, poem_file: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("CHARLM_TRAIN_HIDDEN_SIZE", value)
    refused(cli, 2, "train", poem_file, says=("CHARLM_TRAIN_HIDDEN_SIZE", value), lines=5)


@pytest.mark.parametrize("command", ["train", "sample", "eval", "score", "inspect", "bench"])
def test_cuda_where_there_is_none(
    cli: Cli, poem_file: Path, run: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    text = {"train": [poem_file, "--out", "new"], "bench": []}.get(command, [run])
    refused(cli, 2, command, *text, "--device", "cuda", says=("--device cuda", "CUDA", "--device cpu"))


@pytest.mark.parametrize("device", ["gpu", "meta"])
def test_a_device_that_is_none(cli: Cli, poem_file: Path, device: str) -> None:
    refused(cli, 2, "train", poem_file, "--device", device, says=(f"--device {device}",))


# Checkpoints

READERS = (("sample",), ("info",), ("eval",), ("score",), ("inspect",), ("train", "--resume"))


@pytest.mark.parametrize("reader", READERS)
def test_a_run_that_does_not_exist(cli: Cli, reader: tuple[str, ...]) -> None:
    refused(cli, 2, *reader, "nowhere", says=("nowhere", "no such run"))


@pytest.mark.parametrize("reader", READERS)
def test_a_folder_that_is_no_checkpoint(cli: Cli, tmp_path: Path, reader: tuple[str, ...]) -> None:
    (tmp_path / "letters").mkdir()
    refused(cli, 3, *reader, "letters", says=("letters", "neither a run nor a checkpoint"))


@pytest.mark.parametrize("reader", READERS[:-1])  # a resume starts it again
def test_a_run_that_was_killed_before_its_first_checkpoint(
    cli: Cli, tmp_path: Path, run: Path, reader: tuple[str, ...]
) -> None:
    for checkpoint in runs.checkpoints(run):
        shutil.rmtree(checkpoint)
    refused(cli, 3, *reader, "run", says=("run", "no checkpoint"))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "vocabulary.json", "manifest.json"])
@pytest.mark.parametrize("reader", READERS)
def test_a_damaged_checkpoint(cli: Cli, run: Path, reader: tuple[str, ...], name: str) -> None:
    damage(run / "step-00000004", name)
    refused(cli, 3, *reader, run / "step-00000004", says=("step-00000004",))


@pytest.mark.parametrize("reader", READERS)
def test_a_run_of_which_every_checkpoint_is_damaged(cli: Cli, run: Path, reader: tuple[str, ...]) -> None:
    for checkpoint in runs.checkpoints(run):
        damage(checkpoint)
    refused(cli, 3, *reader, "run", says=("step-", "damaged"))


def test_a_checkpoint_with_a_file_missing(cli: Cli, run: Path) -> None:
    (run / "step-00000004" / "vocabulary.json").unlink()
    refused(cli, 3, "sample", run / "step-00000004", says=("vocabulary.json", "missing"))


@pytest.mark.parametrize("which", ["newest", "-1", "1.5", "²", ""])
@pytest.mark.parametrize("reader", ["sample", "info", "eval", "score", "inspect"])
def test_a_choice_of_checkpoint_that_is_none(cli: Cli, run: Path, reader: str, which: str) -> None:
    refused(cli, 2, reader, "run", f"--checkpoint={which}", says=(f"--checkpoint {which}", "best, latest"))


@pytest.mark.parametrize("reader", ["sample", "info", "eval", "score", "inspect"])
def test_a_step_that_was_not_saved_and_those_that_were(cli: Cli, run: Path, reader: str) -> None:
    refused(cli, 2, reader, "run", "--checkpoint", "77", says=("77", "1, 2, 3, 4"))


def test_a_resume_of_another_text_or_of_another_shape(cli: Cli, run: Path, tmp_path: Path, poem: str) -> None:
    (tmp_path / "other.txt").write_text(poem + "!", encoding="utf-8")
    refused(cli, 2, "train", "other.txt", "--resume", "run", says=("other.txt", "--out"))
    refused(cli, 2, "train", "--resume", "run", "--hidden-size", "17", says=("hidden_size (16)",))


# Prompts


def test_characters_of_a_prompt_that_the_model_does_not_know(cli: Cli, run: Path) -> None:
    says = ("'☃' (U+2603 SNOWMAN)", "'Ж' (U+0416", "2 characters", "charlm info")
    refused(cli, 1, "sample", "run", "--prompt", "Die ☃ЖЖ☃", says=says)


@pytest.mark.parametrize(
    "option", [("--temperature", "-1"), ("--temperature", "nan"), ("--top-k", "-3"), ("--length", "-5")]
)
def test_ways_of_sampling_that_make_no_sense(cli: Cli, run: Path, option: tuple[str, str]) -> None:
    refused(cli, 2, "sample", "run", *option, says=(option[0],))


# What a model is tried on

TRIERS = pytest.mark.parametrize("command", ["eval", "score", "inspect"])


@TRIERS
def test_texts_that_cannot_be_tried(cli: Cli, run: Path, tmp_path: Path, command: str) -> None:
    (tmp_path / "empty.txt").touch()
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "snow.txt").write_text("Die ☃", encoding="utf-8")
    refused(cli, 2, command, "run", "nowhere.txt", says=("nowhere.txt", "no such file"))
    refused(cli, 1, command, "run", "empty.txt", says=("empty",))
    refused(cli, 1, command, "run", "latin.txt", says=("latin.txt", "0xe9", "offset 3", "--encoding"))
    refused(cli, 1, command, "run", "snow.txt", says=("1 character ", "'☃' (U+2603 SNOWMAN)"))
    refused(cli, 2, command, "run", "snow.txt", "--encoding", "klingon", says=("klingon",))


@TRIERS
def test_parts_that_are_not_there(cli: Cli, run: Path, poem_file: Path, command: str) -> None:
    refused(cli, 2, command, "run", "--split", "test", says=("--split test", "--test-fraction"))
    refused(cli, 2, command, "run", poem_file, "--split", "validation", says=("--split validation",))
    refused(cli, 2, command, "run", "--encoding", "latin-1", says=("--encoding latin-1",))
    refused(cli, 2, command, "run", "--split", "best", says=("--split", "validation"), lines=5)


@TRIERS
def test_a_text_of_the_run_that_has_changed(cli: Cli, poem_file: Path, poem: str, command: str) -> None:
    assert cli("train", poem_file, *TINY, "--max-steps", "1", "--out", "run").code == 0
    poem_file.write_text(poem + "!", encoding="utf-8")
    refused(cli, 2, command, "run", says=("run: ", "poem.txt", "TEXT"))
    poem_file.unlink()  # the cache has it
    assert cli(command, "run").code == 0
    refused(cli, 2, command, "run", "--cache-dir", "elsewhere", says=("run: ", "not found", "poem.txt", "TEXT"))


def test_extra_metrics_that_need_a_text_that_is_gone(cli: Cli, poem_file: Path, tmp_path: Path, poem: str) -> None:
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
def test_ways_of_evaluating_that_make_no_sense(cli: Cli, run: Path, options: tuple[str, str]) -> None:
    refused(cli, 2, "eval", "run", *options, says=options, lines=5)


def test_settings_of_a_dynamic_evaluation(cli: Cli, run: Path) -> None:
    refused(cli, 2, "eval", "run", "--dynamic-decay", "0.1", says=("Add --dynamic",))
    refused(cli, 2, "eval", "run", "--dynamic", "--dynamic-decay", "1.5", says=("--dynamic-decay: ", "1.5"))


@pytest.mark.parametrize(
    "options", [("eval", "--context-plot"), ("score", "--html"), ("inspect", "--html"), ("inspect", "--npz")]
)
def test_results_that_cannot_be_written(
    cli: Cli, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, str]
) -> None:
    command, option = options
    monkeypatch.setattr("charlm.evaluation.passes.iter_predictions", None)  # it is said before the work begins
    monkeypatch.setattr("charlm.evaluation.scores.iter_predictions", None)
    (tmp_path / "folder").mkdir()
    refused(cli, 2, command, "run", option, "nowhere/x", says=("nowhere/x", "cannot be written", "No such file"))
    refused(cli, 2, command, "run", option, "folder", says=("folder", "is a folder"))


# What nobody foresaw


def test_an_unexpected_error_is_a_line_and_a_log(cli: Cli, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_debug_shows_the_traceback_of_a_known_fault(cli: Cli) -> None:
    for arguments in (("--debug", "train", "nowhere.txt"), ("train", "nowhere.txt", "--debug")):
        result = cli(*arguments)
        assert result.code == 2
        assert "Traceback" in result.err
        assert "UsageError" in result.err
