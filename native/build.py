"""Compile the native kernels with the C compiler of the system, into the one library that charlm loads.

    python native/build.py

The standard library is enough for it, and nothing is downloaded. Each source that ends in an instruction set, as in
``_avx2.c``, may use it; the others run on every x86-64 processor and decide which of them may be called. On other
architectures there is nothing to compile: charlm runs on PyTorch's kernels.

With ``--emulate``, AVX-512 and AMX are functions in C, so that a processor without them can test what uses them.
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
AVX2 = ["-mavx2", "-mfma"]
AVX512 = [f"-mavx512{part}" for part in ("f", "bw", "dq", "vl", "bf16")]
AMX = ["-mamx-tile", "-mamx-bf16"]
INSTRUCTIONS = {"_avx2": AVX2, "_avx512": [*AVX2, *AVX512], "_amx": AMX}  # by the ending of a file's name
BF16 = ("_avx512", "_amx")  # left out, both, if the compiler is too old to know them
EMULATION = HERE / "emulation"
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer", "-g"]
ARCHITECTURES = ("x86_64", "amd64")


class NoCompilerError(Exception):
    """Why there will be no library."""


def compile_library(target: Path = TARGET, sanitize: bool = False, emulate: bool = False) -> Path:
    """Raises ``NoCompilerError`` where there is no compiler, or none that can do it."""
    if platform.machine().lower() not in ARCHITECTURES:
        raise NoCompilerError(f"there are no kernels for {platform.machine()}")
    compiler = find_compiler()
    flags = [*FLAGS, *(["-fPIC"] if sys.platform != "win32" else []), *(SANITIZERS if sanitize else [])]
    sources = find_sources(emulate)
    if not emulate and not accepts(compiler, [*AVX512, *AMX]):
        sources = [source for source in sources if not source.stem.endswith(BF16)]
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        objects = []
        for source in sources:
            objects.append(str(Path(folder) / f"{source.stem}.o"))
            run([*compiler, *flags, *options(source, emulate), "-c", str(source), "-o", objects[-1]])
        library = Path(folder) / target.name
        run([*compiler, *flags, "-shared", *objects, "-o", str(library), "-pthread", "-lm"])
        library.replace(target)  # a process that has loaded the old one keeps it
    return target


def find_sources(emulate: bool) -> list[Path]:
    sources = {source.name: source for source in HERE.glob("*.c")}
    if emulate:
        sources |= {source.name: source for source in EMULATION.glob("*.c")}
    return [source for _, source in sorted(sources.items())]


def options(source: Path, emulate: bool) -> list[str]:
    """The instructions that a source may use."""
    if emulate and source.stem.endswith(BF16):
        return [*AVX2, "-O1", "-Wno-psabi", "-I", str(EMULATION)]  # they compile faster, and nobody waits for them
    return next((flags for ending, flags in INSTRUCTIONS.items() if source.stem.endswith(ending)), [])


def accepts(compiler: list[str], flags: list[str]) -> bool:
    command = [*compiler, *flags, "-E", "-x", "c", os.devnull]
    return subprocess.run(command, capture_output=True).returncode == 0


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
    parser.add_argument("--output", type=Path)
    parser.add_argument("--sanitize", action="store_true", help="find errors of memory and undefined behavior")
    parser.add_argument("--emulate", action="store_true", help="AVX-512 and AMX in C: slow, to test their kernels")
    arguments = parser.parse_args()
    if arguments.emulate and not arguments.output:
        parser.error("--emulate needs --output: charlm must not load that library by itself")
    try:
        print(compile_library(arguments.output or TARGET, arguments.sanitize, arguments.emulate))
    except NoCompilerError as error:
        sys.exit(f"charlm's native kernels were not compiled: {error}")
