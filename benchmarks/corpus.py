"""Measure how fast text of any size is read, and how much memory that takes.

    python benchmarks/corpus.py data/warandpeace.txt --folder /tmp --gigabytes 2

Creates files that repeat the text (as it is, and with half of its paragraphs written in Cyrillic letters or in Chinese
characters with emoji), measures, deletes the files, prints the results and appends them to results/corpus.jsonl.
Reading is measured on one core, with the file in the page cache, from opening it to having the encoded text on disk.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from charlm.checkpoint.environment import describe_environment
from charlm.config import CorpusSettings, TrainSettings, preset_path, read_toml, resolve
from charlm.corpus import cache, loading
from charlm.model.device import configure_torch
from charlm.training.monitor import Monitor
from charlm.training.trainer import Trainer

RESULTS = Path(__file__).parent / "results" / "corpus.jsonl"
REPEATS = 3
PEER_BYTES = 50_000_000  # the other programs hold everything in memory several times
CYRILLIC = str.maketrans("abcdefghijklmnopqrstuvwxyz", "абцдефгхийклмнопярстувшхыз")
CHINESE = str.maketrans("abcdefghijklmnopqrstuvwxyz", "的一是不了人我在有他这为之大来以个中上们到说国和地也")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="Where the files are created.")
    parser.add_argument("--gigabytes", type=float, default=2.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        result = measure(arguments.text, Path(folder), int(arguments.gigabytes * 1e9))
    print(json.dumps(result, indent=1))
    with RESULTS.open("a") as file:
        file.write(json.dumps(result) + "\n")


def measure(text: Path, folder: Path, size_bytes: int) -> dict[str, Any]:
    plain = text.read_text(encoding="utf-8-sig")
    ascii_only, mixed = plain.encode("ascii", "ignore"), _mixed(plain).encode()
    large = _file(folder / "large.txt", ascii_only, size_bytes)
    small = _file(folder / "small.txt", ascii_only, 2_000_000)
    speeds: dict[str, list[float]] = {}
    for name, data in (("ascii", ascii_only), ("mixed", mixed)):
        whole = large if name == "ascii" else _file(folder / "mixed.txt", data, size_bytes // 4)
        part = _file(folder / "part.txt", data, PEER_BYTES)
        for _ in range(REPEATS):  # interleaved, so that a slow minute of the machine affects all
            for reader, how, path in (
                ("charlm", _charlm, whole),
                ("as nanoGPT prepares it", _like_nanogpt, part),
                ("as torch-rnn prepares it", _like_torch_rnn, part),
            ):
                speeds.setdefault(f"{name}: {reader}", []).append(_on_one_core(how, path, folder))
    result: dict[str, Any] = {
        "size_bytes": large.stat().st_size,
        "megabytes_per_second": {name: round(statistics.median(of), 1) for name, of in speeds.items()},
        "open_cached_seconds": round(_open_cached(large, folder / "cache"), 4),
        "anonymous_megabytes": {
            path.stem: {what: _peak_anonymous(path, folder / f"cache-{path.stem}") for what in ("encoding", "cached")}
            for path in (small, large)
        },
        "documents_characters_per_second": _documents(plain, folder),
        "start_seconds": _start(text, folder),
        "environment": describe_environment(torch.device("cpu"), "bf16").model_dump(),
    }
    return result


def _mixed(text: str) -> str:
    paragraphs = text.split("\n\n")
    for index in range(len(paragraphs)):
        if index % 4 == 2:
            paragraphs[index] = paragraphs[index].translate(CYRILLIC)
        elif index % 4 == 3:
            paragraphs[index] = paragraphs[index].translate(CHINESE) + " 👩\u200d🚀"
    return "\n\n".join(paragraphs)


def _file(path: Path, data: bytes, size_bytes: int) -> Path:
    with path.open("wb") as file:
        for _ in range(-(-size_bytes // len(data))):
            file.write(data)
    return path


# Reading


def _charlm(path: Path, folder: Path) -> None:
    cache.load_or_encode(folder / "made-now", [path], CorpusSettings())


def _like_nanogpt(path: Path, folder: Path) -> None:
    """Read the whole text, sort the set of its characters, look each one up in a dictionary."""
    text = path.read_text(encoding="utf-8")
    id_of = {character: id_ for id_, character in enumerate(sorted(set(text)))}
    np.array([id_of[character] for character in text], dtype=np.uint16).tofile(folder / "ids.bin")


def _like_torch_rnn(path: Path, folder: Path) -> None:
    """Read the text line by line, twice: number the characters, then write the numbers."""
    id_of: dict[str, int] = {}
    length = 0
    with path.open(encoding="utf-8") as file:
        for line in file:
            length += len(line)
            for character in line:
                if character not in id_of:
                    id_of[character] = len(id_of) + 1
    ids = np.zeros(length, dtype=np.uint8 if len(id_of) < 256 else np.uint32)
    position = 0
    with path.open(encoding="utf-8") as file:
        for line in file:
            for character in line:
                ids[position] = id_of[character]
                position += 1
    ids.tofile(folder / "ids.bin")


def _on_one_core(read: Callable[[Path, Path], None], path: Path, folder: Path) -> float:
    """Megabytes per second."""
    shutil.rmtree(folder / "made-now", ignore_errors=True)
    with path.open("rb") as file:
        while file.read(1 << 24):  # into the page cache
            pass
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    began = time.perf_counter()
    read(path, folder)
    seconds = time.perf_counter() - began
    os.sched_setaffinity(0, cores)
    return path.stat().st_size / seconds / 1e6


def _open_cached(path: Path, folder: Path) -> float:
    os.utime(path, (1, 1))
    loading.load_corpus([str(path)], CorpusSettings(), 64, folder)
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        loading.load_corpus([str(path)], CorpusSettings(), 64, folder)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


# Memory


def _peak_anonymous(path: Path, folder: Path) -> int:
    """The peak anonymous memory of a short run, in megabytes."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "charlm", "train", str(path), "--config", "tiny", "--max-steps", "30"]
        options = ["--out", f"{out}/run", "--cache-dir", str(folder), "--validation-fraction", "1e-4", "--quiet"]
        process = subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL)
        peak = 0
        while process.poll() is None:
            peak = max([peak, *_anonymous_bytes(process.pid)])
            time.sleep(0.02)
        assert process.returncode == 0
    return round(peak / 1e6)


def _anonymous_bytes(pid: int) -> Iterator[int]:
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon"):
                yield int(line.split()[1]) * 1024
    except OSError:  # it has just ended
        return


def _start(text: Path, folder: Path) -> dict[str, float]:
    """Seconds from the start of the process to the first step of the default preset, and to import torch alone."""
    first_step, imported = [], []
    command = [sys.executable, "-m", "charlm", "train", str(text), "--max-steps", "1", "--log-every", "1"]
    options = ["--out", str(folder / "run"), "--overwrite", "--cache-dir", str(folder / "cache")]
    for _ in range(REPEATS):
        began = time.perf_counter()
        with subprocess.Popen(
            [*command, *options], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        ) as run:
            assert run.stderr is not None
            first_step.append(next(time.perf_counter() - began for line in run.stderr if line.startswith("step 1/")))
            run.stderr.read()
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import torch"], check=True)
        imported.append(time.perf_counter() - began)
    return {
        "to_step_1": round(statistics.median(first_step), 2),
        "import_torch": round(statistics.median(imported), 2),
    }


# Documents


def _documents(text: str, folder: Path) -> dict[str, float]:
    """Training speed in characters per second on names, one per line: as one text, and with each as a document."""
    names = folder / "names.txt"
    names.write_text("\n".join(word for word in text.split() if word.isalpha())[:1_000_000])
    preset = preset_path("default")
    trainers = {}
    configure_torch(0)
    for name, separator in (("plain", ""), ("documents", "\n")):
        layers = [(str(preset), read_toml(preset)), ("benchmark", {"document_separator": separator})]
        settings = resolve(TrainSettings, layers)
        corpus = loading.load_corpus([str(names)], settings, 64, folder / "cache")
        trainers[name] = Trainer(settings, corpus, folder, Monitor(folder, settings, 0, quiet=True))
    speeds: dict[str, list[float]] = {name: [] for name in trainers}
    for round_ in range(8):
        for name, trainer in trainers.items():
            began = time.perf_counter()
            for _ in range(5):
                trainer.train_step()
            if round_:  # the first warms up
                characters = 5 * trainer.settings.batch_size * trainer.settings.sequence_length
                speeds[name].append(characters / (time.perf_counter() - began))
    return {name: round(statistics.median(of)) for name, of in speeds.items()}


if __name__ == "__main__":
    main()
