"""The wheel holds all that the program needs: it works with no checkout near."""

import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT, SMALL


def test_an_installed_wheel_trains_with_a_preset_and_samples(tmp_path: Path, poem_file: Path) -> None:
    def python(*arguments: object, path: Path | None = None) -> str:
        process = subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=tmp_path,
            env={"PATH": "", "PYTHONPATH": str(path or ""), "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert process.returncode == 0, process.stderr
        return process.stdout

    pip = ("-m", "pip", "--disable-pip-version-check", "--quiet")
    python(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, ROOT)
    (wheel,) = tmp_path.glob("charlm-*.whl")
    site = tmp_path / "site"
    python(*pip, "install", "--no-deps", "--target", site, wheel)

    where = python(
        "-c", "import charlm, charlm.config; print(charlm.__file__, charlm.config.presets_folder())", path=site
    )
    assert where.split() == [str(site / "charlm" / "__init__.py"), str(site / "charlm" / "configs")]
    assert (site / "charlm" / "py.typed").exists()
    assert python("-m", "charlm", "train", poem_file, *SMALL, path=site).strip() == str(Path("checkpoints/poem"))
    python("-m", "charlm", "inspect", "checkpoints/poem", "--html", "inside.html", path=site)
    assert "Forget gate" in (tmp_path / "inside.html").read_text(encoding="utf-8")
    python("-m", "charlm", "score", "checkpoints/poem", "--html", "score.html", path=site)
    assert len(python("-m", "charlm", "sample", "checkpoints/poem", "--length", "30", path=site)) >= 30
