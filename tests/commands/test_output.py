"""What a command prints arrives whole, wherever it goes: a terminal, a pipe, a file."""

import errno
import io
import json
import os
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from charlm.commands.output import TerminalOutput, open_output
from charlm.commands.stdio import configure_stdio
from charlm.config import SettingsSource
from charlm.errors import CharlmError, UsageError
from charlm.generation.escaping import escape_control_characters
from charlm.generation.sample import Sample
from charlm.generation.sampler import Sampler
from charlm.training.plan import plan_training
from charlm.training.request import TrainingRequest
from tests.commands.conftest import Cli

CHINESE = "天地玄黃，宇宙洪荒。\n"


@pytest.fixture(scope="session")
def chinese(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose characters few encodings have."""
    folder = tmp_path_factory.mktemp("chinese")
    (folder / "text.txt").write_text(CHINESE * 60, encoding="utf-8")
    settings = {"hidden_size": 8, "embedding_size": 4, "sequence_length": 16, "max_steps": 1, "threads": 1}
    plan = plan_training(
        TrainingRequest(
            [str(folder / "text.txt")], [SettingsSource("test", {**settings, "sample_length": 0})], out=folder / "run"
        )
    )
    plan.trainer(quiet=True).train()
    return folder / "run"


class Stream(io.TextIOWrapper):
    """Standard output, with an encoding of its own, as a pipe or as a terminal."""

    def __init__(self, encoding: str, errors: str = "strict", is_terminal: bool = False) -> None:
        self.written = io.BytesIO()
        super().__init__(self.written, encoding=encoding, errors=errors)
        self.is_terminal = is_terminal

    def isatty(self) -> bool:
        return self.is_terminal


Piped = Callable[..., tuple[int, bytes, str]]


@pytest.fixture
def piped(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Piped:
    """Calls ``charlm`` with an output of a certain encoding, which the user has set or has not."""

    def call(
        *arguments: object, encoding: str = "cp1252", wanted: str | None = None, is_terminal: bool = False
    ) -> tuple[int, bytes, str]:
        stream = Stream(encoding, is_terminal=is_terminal)
        if wanted is None:
            monkeypatch.delenv("PYTHONIOENCODING", raising=False)
        else:
            monkeypatch.setenv("PYTHONIOENCODING", wanted)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", stream)
            result = cli(*arguments)
            stream.flush()
        return result.code, stream.written.getvalue(), result.err

    return call


# Encodings


@pytest.mark.parametrize("arguments", [("info",), ("sample", "--length", "9"), ("sample", "--next-probabilities", "9")])
@pytest.mark.parametrize("wanted", [None, "utf-8", ":strict"])
def test_pipe_output_is_utf_8_by_default(
    piped: Piped, chinese: Path, arguments: tuple[str, ...], wanted: str | None
) -> None:
    encoding = wanted if wanted == "utf-8" else "cp1252"
    code, data, errors = piped(arguments[0], chinese, *arguments[1:], encoding=encoding, wanted=wanted)
    assert (code, errors) == (0, "")
    assert set(data.decode("utf-8")) & set(CHINESE.strip())
    assert "?" not in data.decode("utf-8")


def test_pythonioencoding_is_used(piped: Piped, trained: Path) -> None:
    fixed = ("sample", trained, "--prompt", "Wölfe", "--length", "30", "--seed", "1")
    plain = piped(*fixed)[1].decode("utf-8")
    for encoding in ("cp1252", "utf-16", "utf-8-sig"):
        code, data, _ = piped(*fixed, encoding=encoding, wanted=encoding)
        assert (code, data.decode(encoding)) == (0, plain)


@pytest.mark.parametrize(
    "arguments", [("info",), ("sample", "--length", "9", "--seed", "1"), ("sample", "--next-probabilities", "9")]
)
def test_unencodable_output_error_suggests_output_option(
    piped: Piped, chinese: Path, arguments: tuple[str, ...]
) -> None:
    code, data, errors = piped(arguments[0], chinese, *arguments[1:], wanted="cp1252")
    assert code == 1
    assert "--output FILE" in errors
    assert "cp1252" in errors
    assert len(errors.splitlines()) <= 2
    assert b"?" not in data


def test_corpus_inspect_output_is_lossless(piped: Piped, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(CHINESE * 300, encoding="utf-8")
    code, data, errors = piped("corpus", "inspect", "text.txt", "--quiet", wanted="cp1252")
    assert (code, "--output FILE" in errors, b"?" in data) == (1, True, False)
    assert piped("corpus", "inspect", "text.txt", "--quiet", "--output", "report.txt", wanted="cp1252")[:2] == (0, b"")
    assert "天" in (tmp_path / "report.txt").read_text("utf-8")


def test_pythonioencoding_error_handler_is_used(piped: Piped, chinese: Path) -> None:
    fixed = ("sample", chinese, "--length", "9", "--seed", "1", "--prompt", "天")
    stream_errors = "cp1252:backslashreplace"
    code, data, _ = piped(*fixed, wanted=stream_errors)
    assert code == 0
    assert data.startswith(b"\\u5929")


def test_json_output_is_ascii(piped: Piped, chinese: Path) -> None:
    code, data, _ = piped("sample", chinese, "--length", "9", "--json", wanted="ascii", encoding="ascii")
    assert code == 0
    assert set(json.loads(data)["text"]) <= set(CHINESE)


def test_help_has_no_question_marks_in_any_encoding(piped: Piped) -> None:
    code, data, _ = piped("sample", "--help", wanted="cp1252")
    assert code == 0
    assert b"\\u2265" in data
    assert b"?" not in data


def test_bench_does_not_start_if_output_is_unencodable(piped: Piped, monkeypatch: pytest.MonkeyPatch) -> None:
    from charlm.benchmark import report

    monkeypatch.setattr(report, "run_benchmark", lambda *_: pytest.fail("it ran"))
    code, _, errors = piped("bench", wanted="ascii", encoding="ascii")
    assert (code, "--output FILE" in errors) == (1, True)


def test_terminal_escapes_unencodable_characters(piped: Piped, chinese: Path) -> None:
    code, data, _ = piped("sample", chinese, "--prompt", "天", "--length", "9", is_terminal=True)
    assert code == 0
    assert data.startswith(b"\\u5929")
    assert b"?" not in data
    assert piped("info", chinese, is_terminal=True)[0] == 0


def test_non_utf_8_file_name_is_printed_unchanged(
    piped: Piped, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.name == "nt" or sys.platform == "darwin":
        pytest.skip("names are Unicode there")
    (tmp_path / os.fsdecode(b"caf\xe9")).symlink_to(trained)
    assert piped("info", os.fsdecode(b"caf\xe9"))[1].startswith(b"caf\xe9, step")
    assert piped("info", os.fsdecode(b"caf\xe9"), "--output", "page")[0] == 0
    assert (tmp_path / "page").read_bytes().startswith(b"caf\xe9, step")


def test_line_endings_are_not_translated(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream("utf-8")
    stream.reconfigure(newline="\r\n")  # as on Windows
    monkeypatch.setattr(sys, "stdout", stream)
    configure_stdio()
    with open_output(None) as output:
        output.write("one\r\ntwo\n")
    assert stream.written.getvalue() == b"one\r\ntwo\n"


# Files


def commands(trained: Path, text: Path) -> dict[str, tuple[object, ...]]:
    return {
        "sample": ("sample", trained, "--length", "30", "--seed", "1", "--prompt", "Wölfe"),
        "next": ("sample", trained, "--next-probabilities", "9"),
        "samples": ("sample", trained, "--length", "9", "--seed", "1", "--num-samples", "3", "--json"),
        "score": ("score", trained, text),
        "info": ("info", trained),
        "infos": ("info", trained, trained),
        "info json": ("info", trained, "--json"),
        "eval": ("eval", trained, text),
        "inspect": ("corpus", "inspect", text, "--json"),
        "bench": ("bench", "--config", "tiny", "--rounds", "1", "--json"),
    }


@pytest.mark.parametrize("name", list(commands(Path(), Path())))
@pytest.mark.usefixtures("bench_in_this_process")
def test_output_file_equals_standard_output(
    cli: Cli, trained: Path, poem_file: Path, tmp_path: Path, name: str
) -> None:
    command = commands(trained, poem_file)[name]
    (tmp_path / "out").write_bytes(b"old")
    result = cli(*command, "--quiet", "--output", "out")
    assert (result.code, result.out, result.err) == (0, "", "")
    written = (tmp_path / "out").read_text("utf-8")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    if name in ("eval", "inspect", "bench"):  # these have seconds in them
        assert len(written) > 50
        return
    assert written == cli(*command, "--quiet", "--output", "-").out == cli(*command, "--quiet").out


@pytest.mark.parametrize("name", list(commands(Path(), Path())))
def test_unwritable_output_fails_before_computation(
    cli: Cli, trained: Path, poem_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from charlm import runs, summary
    from charlm.benchmark import report
    from charlm.corpus import loading

    for module, work in (
        (report, "run_benchmark"),
        (runs, "load_model"),
        (summary, "summarize"),
        (loading, "load_corpus"),
    ):
        monkeypatch.setattr(module, work, lambda *_, **__: pytest.fail("the work was begun"))
    command = commands(trained, poem_file)[name]
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    places = [tmp_path / "missing" / "out", tmp_path / "folder", trained, poem_file / "out", tmp_path / "loop", ""]
    for place in places:
        result = cli(*command, "--output", place)
        assert (result.code, result.out) == (2, ""), place
        assert len(result.err.splitlines()) <= 3
        assert "Traceback" not in result.err


def test_read_only_output_file_is_not_replaced(
    cli: Cli, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").write_bytes(b"old")
    (tmp_path / "out").chmod(stat.S_IRUSR)
    if os.access(tmp_path / "out", os.W_OK):  # the superuser may write everything
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "out")
    result = cli("info", trained, "--output", "out")
    assert result.code == 2
    assert "out: " in result.err
    assert (tmp_path / "out").read_bytes() == b"old"


def test_inputs_and_run_files_are_not_overwritten(cli: Cli, trained: Path, poem_file: Path) -> None:
    before = poem_file.read_bytes()
    for command in (("score", trained, poem_file), ("eval", trained, poem_file), ("corpus", "inspect", poem_file)):
        assert cli(*command, "--output", poem_file).code == 2
    assert cli("sample", trained, "--prompt-file", poem_file, "--output", poem_file).code == 2
    assert poem_file.read_bytes() == before
    for name in ("config.toml", "corpus.json", "metrics.jsonl", "step-00000004/model.safetensors", "step-00000004/x"):
        assert cli("info", trained, "--output", trained / name).code == 2, name
    assert cli("info", trained / "step-00000004", "--output", trained / "step-00000004" / "x").code == 2


@pytest.mark.skipif(os.name == "nt", reason="needs device files and named pipes")
def test_devices_and_pipes_are_not_replaced(cli: Cli, trained: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place in (os.devnull, tmp_path / "pipe"):
        result = cli("info", trained, "--output", place)
        assert result.code == 2
        assert str(place) in result.err
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_output_can_be_set_by_environment_variable(
    cli: Cli, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHARLM_INFO_OUTPUT", "page.txt")
    assert cli("info", trained).out == ""
    assert (tmp_path / "page.txt").read_text("utf-8") == cli("info", trained, "--output", "-").out


def test_interrupted_command_writes_no_file(
    cli: Cli, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: Sampler) -> Iterator[Sample]:
        sample = self.new_samples()[0]
        yield sample
        raise KeyboardInterrupt

    monkeypatch.setattr(Sampler, "iter_in_order", interrupted)
    assert cli("sample", trained, "--prompt", "Die", "--output", "out").code == 130
    assert list(tmp_path.iterdir()) == []


def test_parameter_counts_have_fixed_order(cli: Cli, trained: Path) -> None:
    parts = [list(json.loads(cli("info", trained, "--json").out)["parameters"]) for _ in range(5)]
    assert parts == [["embedding", "layer 0", "layer 1", "output", "total"]] * 5


def test_messages_escape_unencodable_characters(cli: Cli, chinese: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream("cp1252")
    monkeypatch.setenv("PYTHONIOENCODING", "cp1252:replace")  # Python itself leaves standard error alone
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        assert cli("sample", chinese, "--prompt", "雪").code == 1
        stream.flush()
    assert b"\\u96ea" in stream.written.getvalue()
    assert b"?" not in stream.written.getvalue()


def test_output_follows_symbolic_link(cli: Cli, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("page.txt")
    for _ in range(2):
        assert cli("info", trained, "--output", "link").code == 0
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "page.txt").read_text("utf-8") == cli("info", trained).out


def test_failed_command_keeps_existing_output_file(cli: Cli, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"old")
    assert cli("sample", trained, "--prompt", "☃", "--output", "out").code == 1
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("out", b"old")]


@pytest.mark.parametrize("option", [("--interactive",), ("--html", "page.html")])
def test_output_that_would_stay_empty_is_rejected(cli: Cli, trained: Path, option: tuple[str, ...]) -> None:
    command = "sample" if option == ("--interactive",) else "score"
    result = cli(command, trained, *option, "--output", "out")
    assert result.code == 2
    assert "--output" in result.err
    assert not Path("out").exists()


# Faults of standard output


class Full(Stream):
    @property
    def buffer(self) -> "Full":  # type: ignore[override]
        return self

    def write(self, piece: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_full_disk_behind_stdout_is_reported_in_one_line(
    cli: Cli, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Full("utf-8"))
        result = cli("sample", trained, "--length", "9")
    assert result.code == 1
    assert "No space left on device" in result.err
    assert len(result.err.splitlines()) <= 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_device_does_not_crash(charlm: Callable[..., object], trained: Path, tmp_path: Path) -> None:
    import subprocess

    from tests.conftest import ROOT

    with Path("/dev/full").open("wb") as full:
        process = subprocess.run(
            [sys.executable, "-m", "charlm", "info", trained],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
        )
    assert process.returncode == 1
    assert "No space left" in process.stderr
    assert len(process.stderr.splitlines()) <= 2


def test_failed_write_is_reported_and_keeps_existing_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").write_bytes(b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match="No space left"), open_output(tmp_path / "out") as output:
        output.write("new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("out", b"old")]


# Terminals


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, é 漢 👩\u200d🚀\t\n", "plain, é 漢 👩\u200d🚀\t\n"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("one\r\ntwo\rthree", "one\ntwo\\rthree"),
        ("a\u202eb\u2066c", "a\\u202eb\\u2066c"),
        ("\x00\x7f\x9b", "\\x00\\x7f\\x9b"),
    ],
)
@pytest.mark.parametrize("piecewise", [False, True])
def test_terminal_control_sequences_are_escaped(text: str, shown: str, piecewise: bool) -> None:
    stream = Terminal()
    output = TerminalOutput(stream)
    for piece in text if piecewise else [text]:
        output.write(piece)
    assert stream.getvalue() == shown


def test_text_and_its_pieces_are_escaped_alike() -> None:
    text = "a\r\n\r\x1b[31m\r\r\n"
    stream = Terminal()
    output = TerminalOutput(stream)
    for piece in text:
        output.write(piece)
    assert stream.getvalue() == escape_control_characters(text) == "a\n\\r\\x1b[31m\\r\n"


@pytest.mark.parametrize("piecewise", [False, True])
def test_terminal_shows_bytes_as_text_and_escapes_invalid_ones(piecewise: bool) -> None:
    data = "é 漢\n".encode() + b"\xff\x80\x1b[31m\xc3"
    stream = Terminal()
    output = TerminalOutput(stream)
    for piece in [data[i : i + 1] for i in range(len(data))] if piecewise else [data]:
        output.write_raw(piece)
    output.write_raw(b"", final=True)
    assert stream.getvalue() == "é 漢\n\\xff\\x80\\x1b[31m\\xc3"


def test_text_only_stream_receives_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    with open_output(None) as output:
        output.write("\x1b[31m\r\x00é")
    assert sys.stdout.getvalue() == "\x1b[31m\r\x00é"  # type: ignore[attr-defined]


def test_surrogates_are_an_error_in_every_encoding(tmp_path: Path) -> None:
    with pytest.raises(CharlmError), open_output(tmp_path / "out") as output:
        output.write("\ud800")
    assert list(tmp_path.iterdir()) == []
