"""What each process does in tests of several: some trainings, one after another, as a script would with the API.

    torchrun … tests/end_to_end/torchrun_session.py TRAININGS.json

``TRAININGS.json``: a list of arguments of :func:`charlm.train`. Besides, ``by_rank`` is a setting that differs from
rank to rank, with ``slow_evaluation`` rank 0 takes these seconds for the exact validation loss, and ``copy_of`` is the
run to resume a copy of.
"""

import hashlib
import json
import os
import shutil
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import charlm
from charlm.training import distributed, trainer

distributed.TIMEOUT = timedelta(seconds=6)  # so that what takes long must not wait in a collective operation
evaluate_best = trainer.evaluate_best
save_final = trainer.Trainer.save_final


def train(
    text: str, by_rank: str | None = None, slow_evaluation: float = 0.0, copy_of: str | None = None, **settings: Any
) -> None:
    if copy_of is not None:
        with distributed.join_ranks().main_first():
            if os.environ["RANK"] == "0":
                shutil.copytree(copy_of, settings["resume"])
    if by_rank is not None:
        settings[by_rank] = settings.get(by_rank, 0) + int(os.environ["RANK"])

    def evaluate_slowly(*details: Any) -> Any:
        time.sleep(slow_evaluation)
        return evaluate_best(*details)

    weights: list[str] = []

    def save_final_and_hash(self: trainer.Trainer) -> None:
        save_final(self)
        data = b"".join(weight.detach().numpy().tobytes() for weight in self.model.parameters())
        weights.append(hashlib.sha256(data).hexdigest())

    trainer.evaluate_best = evaluate_slowly
    trainer.Trainer.save_final = save_final_and_hash  # type: ignore[method-assign]
    run = charlm.train(text, **settings)
    result = {"run": str(run.folder), "loss": run.validation.nats_per_character, "weights": weights}
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    for arguments in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        train(**arguments)
