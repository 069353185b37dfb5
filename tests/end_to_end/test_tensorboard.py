"""TensorBoard, looked at in a real browser."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser import needs_browser
from tests.conftest import SMALL, Run
from tests.devtools import CHROMIUM


@pytest.fixture
def tensorboard(charlm: Run, tmp_path: Path, poem_file: Path) -> Iterator[str]:
    """The address of a TensorBoard that shows two runs."""
    for name in ("first", "second"):
        process = charlm("train", poem_file, *SMALL, "--out", f"checkpoints/{name}")
        assert process.returncode == 0, process.stderr
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", "checkpoints", "--port", "0"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        for line in server.stderr:
            if address := re.search(r"http://localhost:\d+/", line):
                yield address.group()
                break
        server.terminate()


def page(address: str, tmp_path: Path) -> str:
    """What the browser makes of a page, once its scripts have had ten seconds of the page's own time."""
    assert CHROMIUM is not None
    quiet = "--disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"
    return subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", *quiet.split()),
            *(f"--user-data-dir={tmp_path / 'browser'}", "--virtual-time-budget=10000", "--dump-dom", address),
        ],
        capture_output=True,
        text=True,
        timeout=100,
    ).stdout


@needs_browser
def test_first_page_shows_bits_per_character_of_named_runs(tensorboard: str, tmp_path: Path) -> None:
    shown = page(tensorboard, tmp_path)
    for text in ("first", "second", "first/validation", "second/validation", "bits_per_character"):
        assert text in shown
    first_group = shown.index("bits_per_character")
    assert first_group < shown.index("gates")
