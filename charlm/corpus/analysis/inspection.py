"""Inspect a corpus before training: statistics, overlap and baselines in one report."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from charlm.corpus.analysis.baselines import Baselines, compute_baselines
from charlm.corpus.analysis.likeness import Likeness, compare_splits
from charlm.corpus.analysis.overlap import Overlap, find_overlap
from charlm.corpus.analysis.text_statistics import (
    CharacterCount,
    LineEndings,
    LineLengths,
    count_line_endings,
    find_control_characters,
    find_rare_characters,
    measure_line_lengths,
)
from charlm.corpus.loading import Corpus
from charlm.corpus.vocabulary import Vocabulary, format_character

NUM_STAGES = 4
MAX_LISTED = 1000  # maximum rare and control characters listed; their numbers are reported, too
MAX_CHECKED_CHARACTERS = 5_000_000  # validation characters checked for overlap; memory is proportional to them


@dataclass(frozen=True)
class ListedCharacter:
    character: str | int  # for a byte-level text, the byte
    description: str
    count: int


@dataclass(frozen=True)
class InspectionReport:
    """Sizes, characters, lines, splits, overlap and baselines. ``unit``: what a character is here."""

    name: str
    unit: str
    files: int
    size_bytes: int
    characters: int
    distinct_characters: int
    unseen_in_training: int
    most_frequent: str | list[int]
    documents: int
    ranges: dict[str, list[int]]
    bigram_bits: Likeness | None
    rare_characters: int
    rare: list[ListedCharacter]
    control_characters: int  # occurrences
    control: list[ListedCharacter]
    lines: LineLengths
    line_ends: LineEndings
    overlap: Overlap
    baselines: Baselines


def inspect_corpus(corpus: Corpus, on_stage: Callable[[], object] = lambda: None) -> InspectionReport:
    """Inspect a corpus. Calls ``on_stage`` after each of ``NUM_STAGES``.

    Everything is counted on the text itself, including characters that ``min_count`` hides from the model.
    """
    encoded, split, unit = corpus.encoded, corpus.split, corpus.vocabulary.unit
    alphabet = Vocabulary(encoded.alphabet, unit)
    train = encoded.ids[split.train.start : split.train.stop]
    validation = encoded.ids[split.validation.start : split.validation.stop]
    control = find_control_characters(encoded.alphabet, encoded.counts)
    if unit == "byte":
        control = [counted for counted in control if counted.character.isascii()]  # others can be part of any character
    rare = find_rare_characters(encoded.alphabet, encoded.counts)
    frequent = [encoded.alphabet[id_] for id_ in np.argsort(-encoded.counts, kind="stable")[:100]]
    unseen, bigram_bits = corpus.count_unseen_in_training(), compare_splits(train, validation, len(alphabet))
    on_stage()
    lines, endings = measure_line_lengths(encoded.ids, alphabet), count_line_endings(encoded.ids, alphabet)
    on_stage()
    overlap = find_overlap(train, validation[:MAX_CHECKED_CHARACTERS])
    on_stage()
    baselines = compute_baselines(train, validation, alphabet)
    on_stage()
    return InspectionReport(
        name=corpus.name,
        unit=unit,
        files=len(encoded.files),
        size_bytes=sum(file.size_bytes for file in encoded.files),
        characters=len(encoded.ids),
        distinct_characters=len(encoded.alphabet),
        unseen_in_training=unseen,
        most_frequent="".join(frequent) if unit == "character" else list(map(ord, frequent)),
        documents=len(corpus.text.document_starts),
        ranges=split.to_ranges(),
        bigram_bits=bigram_bits,
        rare_characters=len(rare),
        rare=[_list(counted, unit) for counted in rare[:MAX_LISTED]],
        control_characters=sum(counted.count for counted in control),
        control=[_list(counted, unit) for counted in control[:MAX_LISTED]],
        lines=lines,
        line_ends=endings,
        overlap=overlap,
        baselines=baselines,
    )


def _list(counted: CharacterCount, unit: str) -> ListedCharacter:
    character, description = counted.character, counted.description
    if unit == "character":
        return ListedCharacter(character, description, counted.count)
    return ListedCharacter(
        ord(character), description if character.isascii() else format_character(character, unit), counted.count
    )
