"""How long it takes to load a model, compared with reading and hashing its weights, which is the least it can take.

    python benchmarks/loading.py

Both take turns in one process, with the files in the page cache; the imports come before. The ratio is the median of
the ratios of all turns.
"""

import argparse
import hashlib
import statistics
import string
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

import charlm
from charlm.checkpoint.contents import WEIGHTS
from charlm.checkpoint.environment import describe_environment
from charlm.checkpoint.writing import write_model
from charlm.model.language_model import CharacterModel

WARMUP_ROUNDS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-layers", type=int, default=3)
    parser.add_argument("--hidden-size", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=21)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(Path(folder), options.num_layers, options.hidden_size)
        weights = model / WEIGHTS
        rounds = [
            (
                measure_seconds(lambda: hashlib.sha256(weights.read_bytes()).digest()),
                measure_seconds(lambda: charlm.load(model, device="cpu")),
            )
            for _ in range(WARMUP_ROUNDS + options.rounds)
        ][WARMUP_ROUNDS:]
        megabytes = weights.stat().st_size / 1e6
    hashing, loading = (1000 * statistics.median(column) for column in zip(*rounds, strict=True))
    environment = describe_environment(torch.device("cpu"), "fp32")
    print(f"{options.num_layers} × {options.hidden_size}, {megabytes:.1f} MB; torch {environment.torch}")
    print(f"{environment.processor}, {environment.threads} threads; medians of {options.rounds} rounds")
    print(f"reading and hashing the weights {hashing:8.1f} ms")
    print(f"loading the model               {loading:8.1f} ms")
    print(f"ratio                           {statistics.median(load / read for read, load in rounds):8.2f}")


def make_model(folder: Path, num_layers: int, hidden_size: int) -> Path:
    """A model of this size that has learned nothing, saved alone."""
    text = folder / "text.txt"
    text.write_text(string.printable * 20)
    run = charlm.train(text, out=folder / "run", config="tiny", max_steps=1, hidden_size=1)
    small = run.load().checkpoint
    settings = small.settings.model_copy(update={"num_layers": num_layers, "hidden_size": hidden_size})
    weights = dict(CharacterModel(len(small.vocabulary), settings).state_dict())
    write_model(folder / "model", replace(small, settings=settings, weights=weights))
    return folder / "model"


def measure_seconds(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
