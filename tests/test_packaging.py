"""What a wheel has in it, with a C compiler and without."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from charlm.model.kernels.library import PATH
from tests.conftest import ROOT

PARTS = ("charlm", "configs", "native", "hatch_build.py", "pyproject.toml", "README.md", "LICENSE")
BUILD = "import sys, hatchling.build; print(hatchling.build.build_wheel(sys.argv[1]))"


@pytest.mark.parametrize("has_compiler", [True, False])
def test_a_wheel_has_the_library_where_there_is_a_compiler_and_is_for_all_where_not(
    tmp_path: Path, has_compiler: bool
) -> None:
    if has_compiler and not PATH.is_file():
        pytest.skip("nothing is compiled on this machine")
    for part in PARTS:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, tmp_path / part)
    environment = {**os.environ, "PYTHONPATH": ""}
    if not has_compiler:
        (tmp_path / "empty").mkdir()
        environment |= {"CC": "", "PATH": str(tmp_path / "empty")}
    command = [sys.executable, "-c", BUILD, str(tmp_path)]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    library = tmp_path / "charlm" / "model" / "kernels" / PATH.name
    assert library.is_file() or not PATH.is_file()  # one that was there before stays, for who works in this folder
    name = result.stdout.split()[-1]
    assert ("py3-none-any" in name) is not has_compiler
    with zipfile.ZipFile(tmp_path / name) as wheel:
        assert (f"charlm/model/kernels/{PATH.name}" in wheel.namelist()) is has_compiler
