"""Takes the pictures of README.md, of the runs that ``docs/readme.py`` left in ``build/readme``. Needs Chromium.

``python docs/pictures.py`` writes to ``docs``, with ``--quick`` to ``build/readme``.
"""

import base64
import io
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.request import urlopen

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.devtools import Browser  # noqa: E402

WORK = ROOT / "build" / "readme"
RUNS = ("default", "gru", "tinyshakespeare")  # shown in TensorBoard
TENSORBOARD_VIEW = "darkMode=false&smoothing=0&tagFilter=bits_per_character#timeseries"
COLORS = 64  # of a picture: enough for text and lines, a third of the bytes
MARGIN = 2  # pixels around one element of a page
PATIENCE_SECONDS = 60

CURVES_ARE_DRAWN = "document.querySelectorAll('line-chart canvas, line-chart path').length > 0"
CLOSE_SETTINGS = "document.querySelector('[aria-label=\"Close side pane\"]').click()"


class Camera(Browser):
    """A browser whose pictures are small files."""

    def save_area(self, path: Path, selector: str | None = None, colors: int = COLORS) -> None:
        """Save what the window shows, or the area of one or several elements of the page and a margin around it."""
        time.sleep(2)  # for what moves to come to rest
        area = {"clip": self._area_of(selector), "captureBeyondViewport": True} if selector else {}
        data = base64.b64decode(self.call("Page.captureScreenshot", format="png", **area)["data"])
        picture = Image.open(io.BytesIO(data)).convert("RGB").quantize(colors, dither=Image.Dither.NONE)
        picture.save(path, optimize=True)
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1e3:.0f} kB", file=sys.stderr)

    def _area_of(self, selector: str) -> dict[str, float]:
        elements = f"[...document.querySelectorAll({json.dumps(selector)})].map(each => each.getBoundingClientRect())"
        sides = "[min('left') + scrollX, min('top') + scrollY, max('right') + scrollX, max('bottom') + scrollY]"
        left, top, right, bottom = self.evaluate(
            f"(places => {{ const min = side => Math.min(...places.map(place => place[side])), "
            f"max = side => Math.max(...places.map(place => place[side])); return {sides} }})({elements})"
        )
        size = {"width": right - left + 2 * MARGIN, "height": bottom - top + 2 * MARGIN}
        return {"x": left - MARGIN, "y": top - MARGIN, **size, "scale": 1}


@contextmanager
def browse(address: str, width: int, height: int) -> Iterator[Camera]:
    """A browser that has loaded a page. It takes pictures at twice the resolution, so that they are sharp anywhere."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        camera = Camera(Path(profile))
        try:
            camera.open(address, width, height, scale=2)
            yield camera
        finally:
            camera.close()


@contextmanager
def serve_tensorboard(folder: Path) -> Iterator[str]:
    """The address of a TensorBoard that has read ``RUNS``, and shows no others."""
    runs = [run for run in RUNS if (folder / run).is_dir()]
    with ExitStack() as stack:
        logdir = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for run in runs:
            shutil.copytree(folder / run, logdir / run, ignore=shutil.ignore_patterns("step-*"))
        command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir), "--port", "0"]
        server = stack.enter_context(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
        try:
            assert server.stderr is not None
            found = (re.search(r"http://localhost:\d+/", line) for line in server.stderr)
            address = next(filter(None, found)).group()
            deadline = time.monotonic() + PATIENCE_SECONDS
            while not set(runs) <= set(json.load(urlopen(f"{address}data/plugin/scalars/tags"))):
                if time.monotonic() > deadline:
                    raise SystemExit("TensorBoard did not load the runs.")
                time.sleep(0.5)
            yield address
        finally:
            server.terminate()


def main() -> None:
    target = WORK if "--quick" in sys.argv else ROOT / "docs"
    with browse((WORK / "surprise.html").as_uri(), width=900, height=640) as browser:
        browser.wait_until("document.querySelectorAll('span.s3').length > 0")
        browser.save_area(target / "score.png")
    with (
        serve_tensorboard(WORK / "checkpoints") as address,
        browse(f"{address}?{TENSORBOARD_VIEW}", width=1200, height=600) as browser,
    ):
        browser.wait_until(CURVES_ARE_DRAWN)
        browser.evaluate(CLOSE_SETTINGS)
        browser.save_area(target / "tensorboard.png")


if __name__ == "__main__":
    main()
