"""All metrics of a model on a text, under the names that ``charlm eval --json`` prints."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from charlm.config import DynamicSettings
from charlm.corpus.loading import Corpus
from charlm.evaluation import cold
from charlm.evaluation.dynamic import evaluate_dynamically
from charlm.evaluation.passes import Evaluation, evaluate
from charlm.evaluation.subject import Subject, floors_of
from charlm.model.language_model import CharacterModel


class Bar(Protocol):
    def update(self, n: float | None = 1) -> object: ...


Progress = Callable[[str, int], AbstractContextManager[Bar]]  # of what, and how many characters it will read


@dataclass(frozen=True)
class ExtraMetrics:
    """What is measured in addition to the loss; each answers another question, so none replaces it."""

    dynamic: DynamicSettings | None = None
    independent_window: int | None = None  # characters
    baselines: bool = False
    context_loss: bool = False


def measure(
    model: CharacterModel,
    subject: Subject,
    own: Corpus | None,
    num_segments: int,
    extra: ExtraMetrics,
    progress: Progress,
) -> dict[str, Any]:
    """The loss of a model on a text, and the extra metrics asked for. Keys name the unit of the model.

    ``own``: the corpus of the run, whose training text dynamic evaluation and the baselines need.
    """
    text, unit = subject.text, subject.text.vocabulary.unit
    started = time.monotonic()
    with progress("evaluating", len(text)) as bar:
        static = evaluate(model, text, num_segments, on_progress=bar.update)
    report: dict[str, Any] = {
        "text": subject.name,
        "unit": unit,
        "exact": static.exact,
        "num_segments": static.num_segments,
        **_means(static, unit),
        "bits_per_byte": static.bits_per_byte(subject.size_bytes),
        "perplexity": static.perplexity,
        f"{unit}s": len(text),
        **({"unknown_characters": static.unknown} if unit == "character" else {}),
        "bytes": subject.size_bytes,
        "seconds": time.monotonic() - started,
    }
    if extra.dynamic is not None:
        assert own is not None
        with progress("dynamic evaluation", len(text)) as bar:
            learning = evaluate_dynamically(model, text, own.part(own.split.train), extra.dynamic, bar.update)
        report["dynamic"] = {**_means(learning, unit), "settings": extra.dynamic.model_dump()}
    if extra.independent_window is not None:
        with progress("independent windows", len(text)) as bar:
            alone = cold.independent_window_loss(model, text, extra.independent_window, bar.update)
        report["independent_windows"] = {f"window_{unit}s": extra.independent_window, **_means(alone, unit)}
    if extra.baselines:
        assert own is not None
        report["baselines"] = floors_of(subject, own).record(unit)
    if extra.context_loss:
        with progress("loss by context", cold.curve_characters(text)) as bar:
            points = cold.loss_by_context(model, text, bar.update)
        report["context_loss"] = [
            {f"context_{unit}s": point.context_characters, **_means(point, unit)} for point in points
        ]
    return report


def _means(measured: Evaluation | cold.ContextPoint, unit: str) -> dict[str, float]:
    return {f"nats_per_{unit}": measured.nats_per_character, f"bits_per_{unit}": measured.bits_per_character}
