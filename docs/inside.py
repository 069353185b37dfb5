"""Runs the commands of docs/inside-an-lstm.md in ``build/inside``, then takes its pictures. Needs Chromium.

``python docs/inside.py`` writes to ``docs/inside``. It prints what the page of ``charlm inspect`` says at the character
of each picture: the numbers in docs/inside-an-lstm.md must be these. After a change to training, other units may be the
ones worth showing. ``--keep-run`` does not train again.
"""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from pictures import Camera, browse

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "inside-an-lstm.md"
FOLDER = ROOT / "docs" / "inside"
WORK = ROOT / "build" / "inside"
TEXT = "data/tinyshakespeare.txt"
WIDTH = 960  # of the window: still readable when the pictures are shown 800 pixels wide
TEXT_HEIGHT = 247  # of the shaded text: ten lines
COLORS = 256  # the scales of colors need more than text
HIDDEN = "#text-help, #explanation, .scatters"  # what the pictures do without


@dataclass(frozen=True)
class Picture:
    """Part of the page: ``selector`` names it; ``after`` is the text that ends with the character that is selected."""

    name: str
    unit: str
    signal: str
    after: str
    selector: str


SHADED, CARD, STEP, LAYERS = ".reader", ".reader, #card", "#step-view", "#overview .layer"
COUNTER, NAMES = "1:94", "2:163"  # units
PASSAGE = "PETRUCHIO:\nAnd you, good sir! Pray, have you not a daughter\nCall'd Katharina, fair and virtuous?"
PICTURES = (
    Picture("next", COUNTER, "hidden", "Pray, h", CARD),
    Picture("forget", COUNTER, "forget", "a daughter\n", SHADED),
    Picture("forget-step", COUNTER, "forget", "a daughter\n", STEP),
    Picture("input-step", COUNTER, "input", "fair and", STEP),
    Picture("cell", COUNTER, "cell", "virtuo", SHADED),
    Picture("output-step", COUNTER, "output", "Call'd K", STEP),
    Picture("names", NAMES, "cell", "?\n\nBAPTISTA", SHADED),
    Picture("layers", NAMES, "cell", "BAPTISTA", LAYERS),
)


def run_commands(keep_run: bool) -> None:
    """What a reader would type; a text that is already here is not downloaded again."""
    (WORK / "data").mkdir(parents=True, exist_ok=True)
    if (ROOT / TEXT).exists():
        shutil.copy(ROOT / TEXT, WORK / TEXT)
    (block, *_) = re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    for line in re.findall(r"^charlm .*", block, re.MULTILINE):
        _, *arguments = line.partition("  #")[0].split()
        if arguments[0] == "train":
            if keep_run:
                continue
            arguments.append("--overwrite")
        print(line, file=sys.stderr)
        subprocess.run([sys.executable, "-m", "charlm", *arguments], cwd=WORK, check=True)


def take(browser: Camera, picture: Picture) -> None:
    at = browser.evaluate(f"{_position(picture.after)} + {len(picture.after)}")  # counted from 1
    browser.evaluate(f"location.hash = 'unit={picture.unit}&show={picture.signal}&at={at}'")
    browser.evaluate(
        "{ const top = element => element.getBoundingClientRect().top; "
        f"textPanel.scrollTop += top(spans[{_position(PASSAGE)}]) - top(textPanel) - 1 }}"
    )
    browser.save_area(FOLDER / f"{picture.name}.png", picture.selector, COLORS)
    said = "['legend', 'card', 'step-words'].map(id => document.getElementById(id).innerText).join('\\n')"
    print(f"{picture.name}.png\n{browser.evaluate(said)}\n")


def _position(text: str) -> str:
    """JavaScript for where a text begins in the text of the page, counted from 0."""
    return f"characters.join('').indexOf({json.dumps(text)})"


def main() -> None:
    run_commands("--keep-run" in sys.argv)
    FOLDER.mkdir(exist_ok=True)
    with browse((WORK / "inside.html").as_uri(), WIDTH, 1000) as browser:
        browser.wait_until("document.querySelectorAll('#text span').length > 0")
        browser.evaluate(f"textPanel.style.height = '{TEXT_HEIGHT}px'")
        hide = f"document.querySelectorAll('{HIDDEN}').forEach(element => element.style.display = 'none')"
        browser.evaluate(hide)
        for picture in PICTURES:
            take(browser, picture)


if __name__ == "__main__":
    main()
