"""Messages before training starts: the text, the model, and changes of a resumed run."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from charlm import runs
from charlm.checkpoint.contents import SavedModel
from charlm.checkpoint.environment import describe_environment
from charlm.config import OptimizationSettings, TrainSettings
from charlm.corpus.analysis import likeness
from charlm.corpus.loading import Corpus
from charlm.corpus.windows import count_lanes
from charlm.errors import pluralize
from charlm.model.device import choose_device, choose_precision
from charlm.model.language_model import CharacterModel
from charlm.model.sharing import choose_threads
from charlm.training.found import FoundRun


def startup_messages(
    settings: TrainSettings,
    corpus: Corpus,
    found: FoundRun,
    pretrained: SavedModel | None,
    chosen: Mapping[str, Any],
    processes: int = 1,
) -> Iterator[str]:
    """``chosen``: the settings that were ``auto``, and their values."""
    yield from _describe_corpus(settings, corpus)
    if chosen:
        values = ", ".join(f"{name} {value}" for name, value in chosen.items())
        yield f"Chosen for {len(corpus.split.train):,} {settings.unit}s of training text: {values}."
    if found.checkpoint is None and (advice := likeness.advise_shuffling(corpus, settings)):
        yield advice
    lanes = count_lanes(len(corpus.split.train), settings.batch_size, settings.sequence_length)
    if lanes < settings.batch_size:
        yield f"The text is short: the batch size is {lanes} instead of {settings.batch_size}."
    device = choose_device(settings.device)
    parameters = sum(map(math.prod, CharacterModel.shapes(len(corpus.vocabulary), settings).values()))
    yield (
        f"Model: {settings.cell.upper()}, {pluralize(settings.num_layers, 'layer')} × "
        f"{pluralize(settings.hidden_size, 'unit')}, {pluralize(parameters, 'parameter')}; "
        f"{device}, {choose_precision(settings.precision, device)}."
    )
    if processes > 1:
        yield f"{processes} processes, each with {pluralize(lanes // processes, 'text stream')}."
    if pretrained is not None:
        more = len(corpus.vocabulary) - len(pretrained.vocabulary)
        yield f"Finetuning {pretrained.folder}; {pluralize(more, f'new {settings.unit}')}."
    if found.checkpoint is not None:
        saved = found.checkpoint.model
        yield f"Resuming {found.folder} from step {saved.step}."
        if later := runs.list_later_checkpoints(found.folder, saved.step):
            yield f"Removing later checkpoints: {', '.join(folder.name for folder in reversed(later))}."
        yield from _describe_changes(settings, saved, lanes // processes, processes)


def _describe_corpus(settings: TrainSettings, corpus: Corpus) -> Iterator[str]:
    what = "" if corpus.names else ", the source code of Python's standard library"
    yield (
        f"Text: {corpus.name}{what}: {len(corpus.text):,} {settings.unit}s, "
        f"{len(corpus.encoded.alphabet):,} distinct; {len(corpus.split.train):,} for training, "
        f"{len(corpus.split.validation):,} for validation."
    )
    if documents := len(corpus.text.document_starts):
        yield f"{pluralize(documents, 'document')}."
    if corpus.vocabulary.has_unknown:
        occurrences, distinct = corpus.count_unknown()
        rare, total = pluralize(distinct, "rare character"), pluralize(occurrences, "occurrence")
        yield f"Mapped to the unknown token: {rare} ({total})."
    if lacking := corpus.count_unseen_in_training():
        yield f"Outside the training split only: {pluralize(lacking, f'distinct {settings.unit}')}."


def _describe_changes(settings: TrainSettings, saved: SavedModel, lanes: int, processes: int) -> Iterator[str]:
    """Describe what changed since the checkpoint was saved. ``lanes``: of each process."""
    device = choose_device(settings.device)
    precision = choose_precision(settings.precision, device)
    threads = choose_threads(settings.threads, settings, lanes, precision)
    now = describe_environment(device, precision, threads, processes).model_dump()
    then = saved.environment.model_dump()
    names = [name for name in {**now, **then} if now.get(name) != then.get(name)]
    if changed := ", ".join(f"{name} {then.get(name, 'none')} → {now.get(name, 'none')}" for name in names):
        yield (
            f"The environment changed ({changed}): results may not be bit-identical to those of an uninterrupted run."
        )
    if moves := saved.progress.thread_changes:
        steps = ", ".join(str(change.step) for change in moves)
        yield f"The number of threads changed at step {steps}, so this run cannot be reproduced bit for bit."
    before = saved.settings
    learning = [*OptimizationSettings.model_fields, "precision"]
    if new := [name for name in learning if getattr(before, name) != getattr(settings, name)]:
        changes = ", ".join(f"{name} {getattr(before, name)} → {getattr(settings, name)}" for name in new)
        yield f"Changed settings: {changes}; the learning rate now follows the new schedule."
