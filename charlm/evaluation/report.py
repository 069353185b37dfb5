"""All that is measured of a model on a text, under the names that people and programs read it by."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from charlm.config import DynamicSettings
from charlm.corpus.loading import Corpus
from charlm.evaluation import cold
from charlm.evaluation.dynamic import dynamic
from charlm.evaluation.passes import evaluate
from charlm.evaluation.subject import Subject, floors_of
from charlm.model.language_model import CharacterModel


class Bar(Protocol):
    def update(self, n: float | None = 1) -> object: ...


Progress = Callable[[str, int], AbstractContextManager[Bar]]  # of what, and how many characters it will read


@dataclass(frozen=True)
class Beside:
    """What is measured beside the one figure, and never mixed up with it."""

    dynamic: DynamicSettings | None = None
    windowed_characters: int | None = None
    floors: bool = False
    cold_start: bool = False


def measure(
    model: CharacterModel, subject: Subject, own: Corpus | None, lanes: int, beside: Beside, progress: Progress
) -> dict[str, Any]:
    """The static figure, always made, and what else is asked for. ``own``, the run's corpus: what learning from the
    text and floors take their training text from.
    """
    text, characters = subject.text, len(subject.text)
    started = time.monotonic()
    with progress("evaluating", characters) as bar:
        static = evaluate(model, text, lanes, on_progress=bar.update)
    report: dict[str, Any] = {
        "text": subject.name,
        "unit": text.vocabulary.unit,
        "exact": static.exact,
        "lanes": static.lanes,
        "nats_per_character": static.nats_per_character,
        "bits_per_character": static.bits_per_character,
        "bits_per_byte": static.bits_per_byte(subject.size_bytes),
        "perplexity": static.perplexity,
        "characters": characters,
        "unknown_characters": static.unknown,
        "bytes": subject.size_bytes,
        "seconds": time.monotonic() - started,
    }
    if beside.dynamic is not None:
        assert own is not None
        with progress("dynamic evaluation", characters) as bar:
            learning = dynamic(model, text, own.part(own.split.train), beside.dynamic, bar.update)
        report["dynamic_nats_per_character"] = learning.nats_per_character
        report["dynamic_bits_per_character"] = learning.bits_per_character
        report["dynamic_settings"] = beside.dynamic.model_dump()
    if beside.windowed_characters is not None:
        with progress("independent windows", characters) as bar:
            alone = cold.windowed(model, text, beside.windowed_characters, bar.update)
        report["windowed_characters"] = beside.windowed_characters
        report["windowed_nats_per_character"] = alone.nats_per_character
        report["windowed_bits_per_character"] = alone.bits_per_character
    if beside.floors:
        assert own is not None
        report["floors"] = asdict(floors_of(subject, own))
    if beside.cold_start:
        with progress("loss by context", cold.curve_characters(text)) as bar:
            points = cold.cold_start(model, text, bar.update)
        report["cold_start"] = [
            {
                "characters_seen": point.characters_seen,
                "nats_per_character": point.nats_per_character,
                "bits_per_character": point.bits_per_character,
            }
            for point in points
        ]
    return report
