"""The summary of a run at one of its checkpoints, as shown by ``charlm info``."""

from dataclasses import dataclass
from pathlib import Path

from charlm import runs
from charlm.checkpoint.environment import Environment
from charlm.config import TrainSettings
from charlm.corpus.record import CorpusRecord
from charlm.run_corpus import CorpusFile


@dataclass(frozen=True)
class RunSummary:
    run: str
    step: int
    settings: TrainSettings
    parameters: dict[str, int]  # per part of the model, and ``total``
    vocabulary: list[str]
    metrics: dict[str, float]
    training_seconds: float
    corpus: CorpusRecord
    environment: Environment
    checkpoints: list[int]  # steps


def summarize(path: Path, which: str = "best") -> RunSummary:
    """Raises what :func:`charlm.runs.load_model` raises."""
    model = runs.load_model(path, which, data=False)
    run = runs.run_folder_of(path)
    parameters: dict[str, int] = {}
    for name, weight in model.weights.items():
        part = name.rsplit(".", 1)[0] if "." in name else "output"
        part = part.replace("recurrent.layers.", "layer ")
        parameters[part] = parameters.get(part, 0) + weight.numel()
    # Tensor files have no defined order; layer 10 comes after layer 2
    parameters = dict(sorted(parameters.items(), key=lambda part: (part[0].split()[0], len(part[0]), part[0])))
    metrics = dict(model.metrics)
    for entry in runs.read_json_lines(run / runs.METRICS):
        if entry.get("step") == model.step:
            metrics.update({name: value for name, value in entry.items() if name != "step"})
    return RunSummary(
        run=str(run),
        step=model.step,
        settings=model.settings,
        parameters={**parameters, "total": sum(parameters.values())},
        vocabulary=model.vocabulary.characters,
        metrics=metrics,
        training_seconds=model.progress.training_seconds,
        corpus=CorpusFile.find(run, model.corpus) or model.corpus,
        environment=model.environment,
        checkpoints=[runs.step_of(folder) for folder in reversed(runs.list_checkpoints(run))],
    )
