"""All metrics of a model on a text, as ``charlm eval`` reports them."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Protocol

from charlm.config import DynamicSettings
from charlm.corpus.analysis.baselines import Baselines
from charlm.corpus.loading import Corpus
from charlm.evaluation import context
from charlm.evaluation.dynamic import evaluate_dynamically
from charlm.evaluation.evaluation_text import EvaluationText, compute_baselines_for
from charlm.evaluation.loss import evaluate
from charlm.model.language_model import CharacterModel


class Bar(Protocol):
    def update(self, n: float | None = 1) -> object: ...


Progress = Callable[[str, int], AbstractContextManager[Bar]]  # from a description and the number of characters to read


@dataclass(frozen=True)
class ExtraMetrics:
    """Optional metrics, reported in addition to the loss, never instead of it."""

    dynamic: DynamicSettings | None = None
    independent_window: int | None = None  # characters
    baselines: bool = False
    context_loss: bool = False


@dataclass(frozen=True)
class DynamicLoss:
    """The loss of a model that keeps learning from the text."""

    nats_per_character: float
    bits_per_character: float
    settings: DynamicSettings


@dataclass(frozen=True)
class IndependentWindowLoss:
    """The loss in independent windows."""

    window_characters: int
    nats_per_character: float
    bits_per_character: float


@dataclass(frozen=True, kw_only=True)
class EvaluationReport:
    """The loss of a model on a text, and the extra metrics that were asked for. ``unit``: what a character is."""

    text: str
    unit: str
    exact: bool
    num_segments: int
    nats_per_character: float
    bits_per_character: float
    bits_per_byte: float
    perplexity: float
    characters: int
    unknown_characters: int | None = None  # of a byte-level model, no byte is unknown
    size_bytes: int = field(metadata={"key": "bytes"})
    seconds: float
    dynamic: DynamicLoss | None = None
    independent_windows: IndependentWindowLoss | None = None
    baselines: Baselines | None = None
    context_loss: list[context.ContextPoint] | None = None


def evaluate_all(
    model: CharacterModel,
    evaluated: EvaluationText,
    run_corpus: Corpus | None,
    num_segments: int,
    extra: ExtraMetrics,
    progress: Progress,
) -> EvaluationReport:
    """Measure a model on a text.

    ``run_corpus``: the corpus of the run, whose training text dynamic evaluation and the baselines need.
    """
    text, unit = evaluated.text, evaluated.text.vocabulary.unit
    started = time.monotonic()
    with progress("evaluating", len(text)) as bar:
        static = evaluate(model, text, num_segments, on_progress=bar.update)
    report = EvaluationReport(
        text=evaluated.name,
        unit=unit,
        exact=static.exact,
        num_segments=static.num_segments,
        nats_per_character=static.nats_per_character,
        bits_per_character=static.bits_per_character,
        bits_per_byte=static.bits_per_byte(evaluated.size_bytes),
        perplexity=static.perplexity,
        characters=len(text),
        unknown_characters=static.unknown if unit == "character" else None,
        size_bytes=evaluated.size_bytes,
        seconds=time.monotonic() - started,
    )
    if extra.dynamic is not None:
        assert run_corpus is not None
        with progress("dynamic evaluation", len(text)) as bar:
            dynamic = evaluate_dynamically(
                model, text, run_corpus.subrange(run_corpus.split.train), extra.dynamic, bar.update
            )
        loss = DynamicLoss(dynamic.nats_per_character, dynamic.bits_per_character, extra.dynamic)
        report = replace(report, dynamic=loss)
    if extra.independent_window is not None:
        with progress("independent windows", len(text)) as bar:
            windows = context.independent_window_loss(model, text, extra.independent_window, bar.update)
        report = replace(
            report,
            independent_windows=IndependentWindowLoss(
                extra.independent_window, windows.nats_per_character, windows.bits_per_character
            ),
        )
    if extra.baselines:
        assert run_corpus is not None
        report = replace(report, baselines=compute_baselines_for(evaluated, run_corpus))
    if extra.context_loss:
        with progress("loss by context", context.count_curve_characters(text)) as bar:
            report = replace(report, context_loss=context.loss_by_context(model, text, bar.update))
    return report
