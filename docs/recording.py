"""Records docs/recording.svg: a terminal in which the first commands of README.md run. ``make readme`` calls it.

    python docs/recording.py [--quick]

Needs termtosvg (termtosvg-ng on PyPI) and a Unix system. ``--quick`` trains a few steps and writes to ``build/readme``.
"""

import os
import pty
import shlex
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import readme

TERMTOSVG = (sys.executable, "-m", "termtosvg")
COMMANDS = 3  # of the page, from the first
COLUMNS, ROWS = 106, 24  # as wide as the longest line of a training run
KEY_SECONDS = 0.04  # between two characters typed
FRAME_MILLISECONDS = 150  # at least: fewer frames make a smaller file
PAUSE_MILLISECONDS = 1500  # at most: nobody likes to watch a program being imported
READING_MILLISECONDS = 6000  # before the recording starts again
MAX_BYTES = 300_000

TYPE = f"""
type_and_run() {{
    printf '\\033[32m$\\033[0m '
    for ((i = 0; i < ${{#1}}; i++)); do printf '%s' "${{1:i:1}}"; sleep {KEY_SECONDS}; done
    printf '\\n'; eval "$1${{2:+ $2}}"; sleep 1
}}
"""


def main() -> None:
    quick = "--quick" in sys.argv
    if find_spec("termtosvg") is None:
        raise SystemExit("The recording needs termtosvg: pip install termtosvg-ng.")
    examples = readme.read_examples(readme.PAGE.read_text(encoding="utf-8"))
    lines = [example.code for example in examples if example.language == "console"][:COMMANDS]
    hidden = {"train": "--max-steps 60"} if quick else {}
    script = TYPE + "".join(
        shlex.join(["type_and_run", line, hidden.get(line.split()[1], "")]) + "\n" for line in lines
    )
    target = (readme.WORK if quick else readme.ROOT / "docs") / "recording.svg"
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "session.sh").write_text(script)
        with readme.charlm_in(folder) as environment:
            record(folder, {**environment, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"})
        subprocess.run(
            [
                *(*TERMTOSVG, "render", "session.cast", str(target), "--template", "window_frame"),
                *("--min-frame-duration", f"{FRAME_MILLISECONDS}ms", "--max-frame-duration", f"{PAUSE_MILLISECONDS}ms"),
                *("--loop-delay", f"{READING_MILLISECONDS}ms"),
            ],
            cwd=folder,
            check=True,
        )
    size_bytes = target.stat().st_size
    print(f"{target.relative_to(readme.ROOT)}: {size_bytes / 1e3:.0f} kB", file=sys.stderr)
    if size_bytes > MAX_BYTES:
        raise SystemExit(f"The recording is larger than {MAX_BYTES / 1e3:.0f} kB.")


def record(folder: Path, environment: dict[str, str]) -> None:
    """Run the session in a terminal of its own and write ``session.cast``."""
    command = [*TERMTOSVG, "record", "session.cast", "-g", f"{COLUMNS}x{ROWS}", "-c", "bash session.sh"]
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(folder)
        os.execvpe(command[0], command, environment)
    with os.fdopen(terminal, "rb", buffering=0) as screen:
        try:
            while screen.read(1 << 16):
                pass
        except OSError:  # the terminal is closed: the session is over
            pass
    _, status = os.waitpid(process, 0)
    if status:
        raise SystemExit(f"termtosvg ended with status {os.waitstatus_to_exitcode(status)}.")


if __name__ == "__main__":
    main()
