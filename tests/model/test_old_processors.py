"""The library as it was built here, on older processors: their emulator ends a program at an unknown instruction."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from charlm.model.kernels.library import PATH
from tests.model.test_native import needs_native

EMULATOR = "qemu-x86_64"  # Debian's package qemu-user
DRIVER = Path(__file__).with_name("old_processor.c")


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not (PATH.is_file() and shutil.which(EMULATOR) and shutil.which("gcc")):
        give_up = pytest.fail if EMULATOR in os.environ.get("CHARLM_TEST_REQUIRES", "") else pytest.skip
        give_up(f"needs the library, gcc and {EMULATOR}")
    path = tmp_path_factory.mktemp("driver") / "driver"
    subprocess.run(["gcc", "-O1", str(DRIVER), "-o", str(path), "-ldl"], check=True)
    return path


def run(*command: str | Path) -> list[str]:
    result = subprocess.run([*command, PATH], capture_output=True, text=True)
    assert result.returncode == 0, result
    return result.stdout.splitlines()


def test_a_processor_without_avx2_is_asked_for_none(driver: Path) -> None:
    assert run(EMULATOR, "-cpu", "Nehalem", driver) == ["no AVX-512, no AVX2"]


@needs_native
def test_a_layer_needs_no_more_than_avx2_and_is_the_same_everywhere(driver: Path) -> None:
    emulated, here = run(EMULATOR, "-cpu", "Haswell", driver), run(driver)
    assert emulated[0] == "no AVX-512, with AVX2"
    assert len(emulated) == 1 + 4 * 8
    assert emulated[1:] == here[1:]
