"""Measure how long the largest pages of ``charlm inspect`` take to open in Chromium without a window.

    charlm train tinyshakespeare
    python benchmarks/opening.py checkpoints/tinyshakespeare

Two pages are measured: one of as many characters as leave room for all units, and one of 20,000 characters. The time is
from the request to the second frame that is drawn after the page's script has run; medians of 7 new browsers.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import charlm  # noqa: E402
from charlm.commands.inspect import MAX_CHARACTERS  # noqa: E402
from charlm.evaluation.evaluation_text import load_run_corpus, take_split  # noqa: E402
from charlm.inspection.traces import signal_names  # noqa: E402
from charlm.reports.inspection import max_characters, trace_for_page, write_page  # noqa: E402
from tests.devtools import browse  # noqa: E402

ROUNDS = 7
IS_DRAWN = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    arguments = parser.parse_args()
    model = charlm.load(arguments.run, device="cpu")
    split = take_split(load_run_corpus(model.checkpoint, arguments.run), "validation")
    settings = model.settings
    most = max_characters(settings.hidden_size * settings.num_layers, len(signal_names(settings.cell)))
    for length in (min(most, MAX_CHARACTERS), MAX_CHARACTERS):
        trace, _, tracked = trace_for_page(model.network, split.text.subrange(range(length)), split.alphabet, [])
        with tempfile.TemporaryDirectory() as folder:
            page = Path(folder) / "page.html"
            with page.open("wb") as file:
                write_page(file, split.name, settings.unit, trace, model.vocabulary.characters, tracked)
            seconds = [open_page(page) for _ in range(ROUNDS)]
            units = sum(len(layer.units) for layer in trace.layers)
            print(
                f"{len(trace):,} characters, {units:,} units, {page.stat().st_size / 1e6:.1f} MB: "
                f"{statistics.median(seconds):.2f} s (from {min(seconds):.2f} to {max(seconds):.2f})"
            )


def open_page(page: Path) -> float:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile, browse(Path(profile)) as browser:
        began = time.perf_counter()
        browser.open(page, width=1400)
        browser.wait_until("document.querySelector('#drawing svg') !== null")
        browser.call("Runtime.evaluate", expression=IS_DRAWN, awaitPromise=True)
        return time.perf_counter() - began


if __name__ == "__main__":
    main()
