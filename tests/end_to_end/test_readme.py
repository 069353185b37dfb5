"""The README: its commands run and print what it shows, its numbers are those of the benchmarks, its links work."""

import contextlib
import dataclasses
import hashlib
import importlib.util
import io
import math
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from charlm.config import SettingsSource
from charlm.corpus import download
from tests.commands.conftest import Cli, cli
from tests.conftest import ROOT, SMALL

__all__ = ["cli"]  # a fixture

README = (ROOT / "README.md").read_text(encoding="utf-8")
BENCHMARKS = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
TIME = r"[\d.]+ (s|min)"


@pytest.fixture(scope="module")
def page() -> Iterator[ModuleType]:
    """``docs/readme.py``, which reads and writes the page."""
    spec = importlib.util.spec_from_file_location("readme", ROOT / "docs" / "readme.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["readme"] = module  # where dataclasses look up the names of their fields' types
    spec.loader.exec_module(module)
    yield module
    del sys.modules["readme"]


@pytest.fixture
def corpora(page: ModuleType, tmp_path: Path, poem: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Has all downloads come from this machine, and be short."""
    texts = {"tinyshakespeare": "ROMEO:\nBut soft! what light\n" + poem, "warandpeace": "☃" + poem}
    folder = tmp_path / "served"
    folder.mkdir()
    for name, text in texts.items():
        data = text.encode()
        (folder / f"{name}.txt").write_bytes(data)
        corpus = download.CORPORA[name]
        checksum = hashlib.new(corpus.checksum_algorithm, data).hexdigest()
        monkeypatch.setitem(
            download.CORPORA, name, dataclasses.replace(corpus, size_bytes=len(data), checksum=checksum)
        )
    with page.serve(folder) as address:
        for name in texts:
            served = dataclasses.replace(download.CORPORA[name], url=f"{address}/{name}.txt")
            monkeypatch.setitem(download.CORPORA, name, served)
        yield


def shape(printed: str) -> list[str]:
    """The lines of an output without its numbers, texts and column widths: what stays the same whatever was trained."""
    lines = [line for line in printed.splitlines() if line.strip()]
    lines = [re.sub(r"(?<=: )'.*'|(?<![\w'])('([^'\\]|\\.)*'|\"([^\"\\]|\\.)*\")(?!:)", "TEXT", line) for line in lines]
    return [" ".join(re.sub(r"\d[\d,]*(\.\d+)?k?", "NUMBER", line).split()) for line in lines]


def check_output(code: str, shown: str, printed: str) -> None:
    """The page shows the labels, units and order of what a command prints."""
    words = shlex.split(code) if code.startswith("charlm ") else [code]
    if words[1:2] == ["sample"] and not {"--json", "--next-probabilities"} & set(words):  # nothing but text
        prompt = words[words.index("--prompt") + 1]
        assert shown.startswith(prompt), code
        assert printed.startswith(prompt), code
        return
    expected, found = shape(shown), shape(printed)
    if "…" not in expected:
        assert found == expected, code
        return
    first = expected[: expected.index("…")]
    last = expected[len(first) + 1 :]
    assert found[len(found) - len(last) :] == last, code
    rest = iter(found)
    assert all(line in rest for line in first), (code, first, found)  # in this order


def test_readme_commands_print_the_shown_output(
    cli: Cli, page: ModuleType, corpora: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHARLM_CACHE_DIR", "cache")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    examples = page.read_examples(README)
    assert len([example for example in examples if example.output]) >= 8
    for example in examples:
        if example.language == "python":
            short = f"{', '.join(f'{name}={value}' for name, value in SMALL_SETTINGS.items())}"
            with contextlib.redirect_stdout(io.StringIO()) as output:
                exec(example.code.replace("max_steps=200", short), {})
            printed = output.getvalue()
        else:
            arguments = shlex.split(example.code)[1:]
            if arguments[0] == "train":
                arguments += [*SMALL, "--evaluate-every", "4"] if "--resume" not in arguments else ["--max-steps", "12"]
            result = cli(*arguments)
            assert result.code == 0, f"{example.code}\n{result.err}"
            printed = result.err + result.out
        if example.output:
            check_output(example.code, example.output, printed)


SMALL_SETTINGS = {"hidden_size": 8, "batch_size": 4, "sequence_length": 16, "max_steps": 2, "threads": 1}


def test_shown_outputs_have_wall_and_training_time() -> None:
    blocks = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    assert len(lines) >= 8
    for line in lines:
        training = f", of which training {TIME}" if "charlm train" in line else ""
        assert re.fullmatch(rf"\$ .+ {{4}}# {TIME}{training}", line), line


def test_readme_names_the_machine(page: ModuleType) -> None:
    (named,) = page.MACHINE.findall(README)
    assert re.search(r"\d+ cores, .+, Python 3\.\d+, PyTorch 2\.\d+", named)


@pytest.mark.parametrize(
    ("now", "printed", "shown"),
    [
        ("", "1\n2\n3\n", "1\n2\n3\n"),
        ("old\n", "1\n2 \n3\n", "1\n2\n3\n"),
        ("a\n…\nb\nc\n", "1\n2\n3\n4\n5\n", "1\n…\n4\n5\n"),
        ("…\nb\n", "1\n2\n3\n", "…\n3\n"),
        ("a\n…\nb\n", "1\n2\n", "1\n2\n"),
    ],
)
def test_output_is_shortened_like_the_page(page: ModuleType, now: str, printed: str, shown: str) -> None:
    assert page.Example("console", "charlm", now).shorten(printed) == shown


def test_rewriting_replaces_only_outputs_and_times(page: ModuleType) -> None:
    class Session(page.Session):
        def run(self, example: object) -> tuple[str, float]:
            return f"{example.code.strip()} ran\n", 2.5

    text = (
        "# A\n\n```bash\ncharlm a  # why\nmake b\n```\n\n```console\n$ charlm c  # 1 s\nold\n$ charlm d\n```\n\n"
        "```python\ne()\n```\n\n```text\nold\n```\n\n<!-- machine -->\nOld.\n\n```bash\ncharlm f\n```\n"
    )
    session = Session(Path(), {}, quick=False)
    written = page.rewrite(text, session)
    assert written == (
        "# A\n\n```bash\ncharlm a  # why\nmake b\n```\n\n"
        "```console\n$ charlm c    # 2.5 s\ncharlm c ran\n$ charlm d    # 2.5 s\ncharlm d ran\n```\n\n"
        "```python\ne()\n```\n\n```text\ne() ran\n```\n\n"
        f"<!-- machine -->\nMeasured on: {page.describe_machine()}.\n\n```bash\ncharlm f\n```\n"
    )
    assert page.rewrite(written, session) == written


# Numbers


def presets() -> dict[str, list[str]]:
    """The cells of the table of presets, by the preset's name."""
    rows = re.findall(r"^\| \[`(\w+)`\].*?\| (.*) \|$", README, re.MULTILINE)
    return {name: cells.split(" | ") for name, cells in rows}


def test_preset_and_speed_numbers_match_benchmarks() -> None:
    table = re.search(r"## Benchmarks\n\n(.*?)\n\n", README, re.DOTALL)
    assert table is not None
    speeds = re.findall(r"\d[\d,.]+", "\n".join(table[1].splitlines()[2:]))
    measured = [number for name in ("tiny", "default") for number in presets()[name][2:]]
    assert len(speeds) >= 8
    assert len(measured) == 8
    for number in [*speeds, *measured]:
        assert re.search(rf"(?<![\d.,]){re.escape(number)}(?![\d,])", BENCHMARKS), number


def test_text_numbers_match_tables() -> None:
    measured = {name: cells[2:] for name, cells in presets().items() if name != "large"}
    seconds = {name: float(cells[1].removesuffix(" s")) for name, cells in measured.items()}
    nats = {name: float(cells[3]) for name, cells in measured.items()}
    default, tiny = nats["default"], nats["tiny"]
    claim = f"{default:.2f} nats ({default / math.log(2):.2f} bits) per character on tiny Shakespeare, in "
    assert f"{claim}{seconds['default'] / 60:.1f} minutes on 2 cores" in README
    assert f"{default:.2f} in {seconds['default'] / 60:.1f} min, {tiny:.2f} in {seconds['tiny']:.0f} s" in README
    for label in ("training", "sampling one text"):
        (row,) = re.findall(rf"^\| {label} \|.*$", README, re.MULTILINE)
        assert f"{re.findall(r'[(]([0-9.]+×)[)]', row)[-1]} as fast" in README


def test_preset_parameter_counts_match_models() -> None:
    from charlm.config import TrainSettings, preset_path, resolve
    from charlm.model.language_model import CharacterModel

    for name in ("tiny", "default"):
        settings = resolve(TrainSettings, [SettingsSource.file(preset_path(name))])
        model, parameters = presets()[name][:2]
        assert model == f"{settings.num_layers} × {settings.hidden_size}"
        count = sum(parameter.numel() for parameter in CharacterModel(65, settings).parameters())
        assert parameters == f"{count:,}"
