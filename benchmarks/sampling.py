"""Measure what int8 costs in bits per character when sampling, and how long the first character takes.

    charlm train data/tinyshakespeare.txt --hidden-size 512 --max-minutes 7 --out checkpoints/sampling
    python benchmarks/sampling.py checkpoints/sampling

The validation split of the run is read by the step-by-step network that `charlm sample` uses, once in each precision.
For speed compared with plain PyTorch, use `charlm bench`.
"""

import argparse
import math
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import charlm
from charlm.evaluation.evaluation_text import load_run_corpus
from charlm.model.device import configure_torch
from charlm.model.stepper import Stepper

FIRST_CHARACTERS = 7  # how many times the first character is measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--characters", type=int, default=100_000)
    arguments = parser.parse_args()
    configure_torch(0)
    model = charlm.load(arguments.run)
    seconds = []
    for _ in range(FIRST_CHARACTERS):
        began = time.perf_counter()
        next(model.stream("\n", seed=1))
        seconds.append(time.perf_counter() - began)
    print(
        f"first character: {seconds[0] * 1e3:.1f} ms the first time, median {statistics.median(seconds) * 1e3:.1f} ms"
    )
    corpus = load_run_corpus(model.checkpoint, arguments.run)
    text = corpus.subrange(corpus.split.validation)
    ids = text[: arguments.characters]
    exact = bits(model, ids, "fp32")
    print(f"{len(ids):,} characters, bits per character: fp32 {exact:.5f}, auto {bits(model, ids, 'auto'):.5f}")


def bits(model: charlm.Model, ids: np.ndarray, precision: str) -> float:
    """The mean of -log2 p over all ids, one step at a time, starting from the start token."""
    stepper = Stepper(model.network, 1, precision)
    stepper.set_state(model.network.zero_state(1))
    total, read = 0.0, np.array([model.vocabulary.start_id])
    with torch.inference_mode():
        for id_ in tqdm(ids, desc=precision):
            logits = stepper.step(read)[0].astype(np.float64)
            total += float(np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[id_])
            read = np.array([id_])
    return total / len(ids) / math.log(2)


if __name__ == "__main__":
    main()
