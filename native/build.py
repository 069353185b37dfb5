"""Compile the native kernels with the C compiler of the system, into the one library that charlm loads.

    python native/build.py

The standard library is enough for it, and nothing is downloaded. Each source that ends in ``_avx2.c`` may use AVX2 and
FMA; the others run on every x86-64 processor and decide which of them may be called. On other architectures there is
nothing to compile: charlm runs on PyTorch's kernels.
"""

import argparse
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
LIBRARY = "charlm_kernels.dll" if sys.platform == "win32" else "charlm_kernels.so"
TARGET = HERE.parent / "charlm" / "model" / "kernels" / LIBRARY
FLAGS = ["-std=c11", "-O3", "-fvisibility=hidden", "-Wall", "-Wextra"]
INSTRUCTIONS = {"_avx2": ["-mavx2", "-mfma"]}  # by the ending of a file's name
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer", "-g"]
ARCHITECTURES = ("x86_64", "amd64")


class NoCompilerError(Exception):
    """Why there will be no library."""


def compile_library(target: Path = TARGET, sanitize: bool = False) -> Path:
    """Raises ``NoCompilerError`` where there is no compiler, or none that can do it."""
    if platform.machine().lower() not in ARCHITECTURES:
        raise NoCompilerError(f"there are no kernels for {platform.machine()}")
    compiler = find_compiler()
    flags = [*FLAGS, *(["-fPIC"] if sys.platform != "win32" else []), *(SANITIZERS if sanitize else [])]
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        objects = []
        for source in sorted(HERE.glob("*.c")):
            objects.append(str(Path(folder) / f"{source.stem}.o"))
            extra = next((flags for ending, flags in INSTRUCTIONS.items() if source.stem.endswith(ending)), [])
            run([*compiler, *flags, *extra, "-c", str(source), "-o", objects[-1]])
        library = Path(folder) / target.name
        run([*compiler, *flags, "-shared", *objects, "-o", str(library), "-pthread", "-lm"])
        library.replace(target)  # a process that has loaded the old one keeps it
    return target


def find_compiler() -> list[str]:
    """``CC``, else Python's own, else what is on the path."""
    candidates = [os.environ.get("CC"), sysconfig.get_config_var("CC"), "cc", "gcc", "clang"]
    for candidate in candidates:
        command = shlex.split(candidate or "")
        if command and shutil.which(command[0]):
            return command
    raise NoCompilerError("no C compiler was found")


def run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise NoCompilerError(f"{shlex.join(command)} failed:\n{result.stdout}{result.stderr}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=TARGET)
    parser.add_argument("--sanitize", action="store_true", help="find errors of memory and undefined behavior")
    arguments = parser.parse_args()
    try:
        print(compile_library(arguments.output, arguments.sanitize))
    except NoCompilerError as error:
        sys.exit(f"charlm's native kernels were not compiled: {error}")
