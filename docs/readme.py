"""Runs the commands of README.md and writes their output and wall time into the page. ``make readme`` calls it.

The commands run in the order of the page, in ``build/readme``, up to the last with an output: the lines of ``bash``
blocks; the ``python`` blocks, whose output is the ``text`` block that follows; and the lines of ``console`` blocks that
start with ``$``, where the output follows each command and a comment gives its wall time. The line ``…`` means omitted
output: as many lines as the page has before and after it are kept.

    python docs/readme.py            # about 15 minutes on 2 cores
    python docs/readme.py --quick    # a few steps per run; writes build/readme/README.md and leaves README.md alone
"""

import argparse
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "README.md"
WORK = ROOT / "build" / "readme"

QUICK = {"train": "--max-steps 20", "bench": "--rounds 1 --hidden-size 16"}  # what makes each command short

BLOCK = re.compile(r"```(bash|console|powershell|python)\n(.*?)```(?:\n\n```text\n(.*?)```)?", re.DOTALL)
MACHINE = re.compile(r"(?<=<!-- machine -->\n).+?\n(?=\n)", re.DOTALL)
OMITTED = "…"

# Runs charlm with downloads redirected to sys.argv[1]: how a machine without network measures a page with downloads.
REDIRECTED = """
import dataclasses, sys
from charlm.commands import main
from charlm.corpus.download import CORPORA
server = sys.argv.pop(1)
for name, corpus in CORPORA.items():
    CORPORA[name] = dataclasses.replace(corpus, url=f"{server}/{name}.txt")
main()
"""


@dataclass(frozen=True)
class Example:
    """A command line or a Python program, and the output that the page shows after it."""

    language: str
    code: str
    output: str | None = None  # "": an output is to come here

    def shorten(self, printed: str) -> str:
        """What the page shows of an output: as many lines before and after ``…`` as now, or all."""
        lines = [line.rstrip() for line in printed.rstrip("\n").split("\n")]
        shown = (self.output or "").rstrip("\n").split("\n")
        if OMITTED in shown:
            first = shown.index(OMITTED)
            last = len(shown) - first - 1
            if len(lines) > first + last:
                lines = [*lines[:first], OMITTED, *lines[len(lines) - last :]]
        return "\n".join(lines) + "\n"


def read_block(language: str, body: str, output: str | None) -> list[Example]:
    """The commands of one block."""
    if language == "python":
        return [Example(language, body, output)]
    examples: list[Example] = []
    if language == "console":
        for piece in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
            line, _, shown = piece.partition("\n")
            examples.append(Example(language, _without_comment(line), shown))
        return examples
    lines = [_without_comment(line) for line in body.splitlines()]
    return [Example(language, line) for line in lines if line.startswith("charlm ")]


def read_examples(page: str) -> list[Example]:
    """Everything on a page that can be run, in order."""
    return [example for block in BLOCK.finditer(page) for example in read_block(*block.groups())]


def _without_comment(line: str) -> str:
    return line.split("  #")[0].strip()


@dataclass
class Session:
    """Commands run one after another in a folder."""

    folder: Path
    environment: dict[str, str]
    quick: bool

    def run(self, example: Example) -> tuple[str, float]:
        """Returns what is printed, and the wall time in seconds."""
        if example.language == "python":
            code = re.sub(r"max_steps=\d+", "max_steps=5", example.code) if self.quick else example.code
            command = [sys.executable, "-c", code]
        else:
            code = example.code + (" " + QUICK.get(shlex.split(example.code)[1], "") if self.quick else "")
            command = ["bash", "-c", code]
        print(code.splitlines()[0], file=sys.stderr, flush=True)
        began = time.perf_counter()
        process = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )
        seconds = time.perf_counter() - began
        if process.returncode:
            raise SystemExit(f"{code}\n{process.stdout}")
        return process.stdout, seconds

    def describe_time(self, example: Example, seconds: float, printed: str) -> str:
        """The wall time of a command, and for ``train`` the training time within it."""
        if not example.code.startswith("charlm train "):
            return _format_time(seconds)
        run = printed.splitlines()[-1]
        process = subprocess.run(
            ["charlm", "info", run, "--json"], cwd=self.folder, env=self.environment, capture_output=True, check=True
        )
        training = float(json.loads(process.stdout)["training_seconds"])
        return f"{_format_time(seconds)}, of which training {_format_time(training)}"


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """The address of a server, on this machine only, of the files in ``folder``."""
    handler = partial(QuietHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def charlm_in(folder: Path) -> Iterator[dict[str, str]]:
    """An environment in which ``charlm`` is this checkout's, with a cache of its own in ``folder``.

    Corpora that ``data/`` has are downloaded from there, so that no network is needed.
    """
    local = ROOT / "data"
    arguments = [sys.executable, "-m", "charlm"]
    with ExitStack() as stack:
        if any(local.glob("*.txt")):
            arguments = [sys.executable, "-c", REDIRECTED, stack.enter_context(serve(local))]
        script = folder / "bin" / "charlm"
        script.parent.mkdir(parents=True)
        script.write_text(f'#!/bin/sh\nexec {shlex.join(arguments)} "$@"\n')
        script.chmod(0o755)
        yield {
            **{name: value for name, value in os.environ.items() if not name.startswith("CHARLM_")},
            "PATH": f"{script.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "PYTHONPATH": str(ROOT),
            "CHARLM_CACHE_DIR": str(folder / "cache"),
        }


def describe_machine() -> str:
    """The processor and the versions that determine how long a command takes."""
    info = Path("/proc/cpuinfo")
    models = re.findall(r"^model name\s*: (.+)$", info.read_text(), re.MULTILINE) if info.exists() else []
    processor = models[0] if models else platform.processor() or platform.machine()
    python = ".".join(platform.python_version_tuple()[:2])
    return f"{processor}, {os.cpu_count()} cores, {platform.system()}, Python {python}, PyTorch {version('torch')}"


def _format_time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


def rewrite(page: str, session: Session) -> str:
    """The page with the output and the time of every command, up to the last that it shows the output of."""
    blocks = list(BLOCK.finditer(page))
    last = max(number for number, block in enumerate(blocks) if block[1] == "console" or block[3] is not None)
    pieces, end = [], 0
    for block in blocks[: last + 1]:
        pieces += [page[end : block.start()], _rewrite_block(block, session)]
        end = block.end()
    return MACHINE.sub(f"Measured on: {describe_machine()}.\n", "".join([*pieces, page[end:]]))


def _rewrite_block(block: re.Match[str], session: Session) -> str:
    language, body, output = block.groups()
    if language == "powershell":  # what the bash blocks do, again
        return block[0]
    examples = read_block(language, body, output)
    results = [session.run(example) for example in examples]
    if language == "console":
        body = "".join(
            f"$ {example.code}    # {session.describe_time(example, seconds, printed)}\n{example.shorten(printed)}"
            for example, (printed, seconds) in zip(examples, results, strict=True)
        )
    elif output is not None:
        output = examples[0].shorten(results[0][0])
    return f"```{language}\n{body}```" + ("" if output is None else f"\n\n```text\n{output}```")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="train a few steps, and leave README.md alone")
    quick = parser.parse_args().quick
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    with charlm_in(WORK) as environment:
        written = rewrite(PAGE.read_text(encoding="utf-8"), Session(WORK, environment, quick))
    target = WORK / "README.md" if quick else PAGE
    target.write_text(written, encoding="utf-8")
    print(target.relative_to(ROOT), file=sys.stderr)


if __name__ == "__main__":
    main()
