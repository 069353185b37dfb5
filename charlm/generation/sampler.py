"""Texts from a model, a character at a time as they are made, any number side by side."""

import codecs
import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray

from charlm.config import CorpusSettings, SampleSettings
from charlm.corpus.decoding import normalize_text
from charlm.corpus.vocabulary import UNKNOWN_PLACEHOLDER, Vocabulary
from charlm.errors import TextError
from charlm.generation.filters import filter_logits, make_mask, sample_ids
from charlm.model.cells import State
from charlm.model.device import no_tf32
from charlm.model.language_model import CharacterModel, eval_mode
from charlm.model.stepper import StepperPool, prefill

NO_NORMALIZATION = CorpusSettings()  # of a text: nothing in it is changed
BATCH = 256  # samples that are made side by side; memory grows with it, and hardly the speed beyond
RANDOM_BLOCK = 256  # random numbers of a stream that are made at once


@dataclass
class Sample:
    """One text as it is made."""

    index: int
    seed: int  # of all samples of one sampler; (seed, index) decide what is drawn
    characters: list[str] = field(default_factory=list)
    log_probability_nats: float = 0.0  # of what was drawn, by the distributions that it was drawn from
    last_piece: str = ""  # the text of the last step; nothing while a character of several bytes is under way
    finish_reason: str = ""  # "length", "stop" or "newline"; empty until the sample ends
    pieces: list[str] = field(default_factory=list)  # of the text
    decoder: codecs.IncrementalDecoder | None = None  # where characters are bytes

    @property
    def text(self) -> str:
        """Where characters are bytes, those that are not UTF-8 are shown as U+FFFD; :attr:`data` has them all."""
        return "".join(self.pieces)

    @property
    def data(self) -> bytes:
        """What was generated, as bytes: those of a byte-level model, or the UTF-8 of the text."""
        return self.data_from(0)

    def data_from(self, first: int) -> bytes:
        """The same from a character on."""
        return "".join(self.characters[first:]).encode("utf-8" if self.decoder is None else "latin-1")

    def add(self, character: str) -> None:
        self.last_piece = character
        if self.decoder is not None:  # text is told in whole characters
            self.last_piece = self.decoder.decode(character.encode("latin-1"), final=bool(self.finish_reason))
        self.pieces.append(self.last_piece)


class Sampler:
    """Generates ``settings.num_samples`` texts from one model and one prompt.

    ``corpus``: preprocessing settings of the training text, also applied to the prompt. After a document separator, the
    state is reset and a new document begins. ``stepper_pool``: that of the model, if it has one.

    Raises ``TextError`` if the prompt has unknown characters, ``UsageError`` if nothing may be drawn.
    """

    def __init__(
        self,
        model: CharacterModel,
        vocabulary: Vocabulary,
        settings: SampleSettings,
        corpus: CorpusSettings = NO_NORMALIZATION,
        stepper_pool: StepperPool | None = None,
    ) -> None:
        self.model = model
        self.vocabulary = vocabulary
        self.settings = settings
        self.seed = secrets.randbits(63) if settings.seed == "random" else settings.seed
        self.mask = make_mask(vocabulary, settings)
        self.stops = [vocabulary.to_units(stop) for stop in settings.stop]
        self.display = [*vocabulary.characters, UNKNOWN_PLACEHOLDER]
        self.stepper_pool = stepper_pool or StepperPool(model)
        self.precision_context = no_tf32 if settings.precision == "fp32" else nullcontext
        self.separator = vocabulary.to_units(corpus.document_separator)
        self.prompt_ids = self._encode_prompt(normalize_text(settings.prompt, corpus), corpus.document_separator)
        max_partial = len(self.separator) - 1  # characters, to be a whole separator
        self.prompt_end = [self.display[id_] for id_ in self.prompt_ids[max(0, len(self.prompt_ids) - max_partial) :]]

    def _encode_prompt(self, prompt: str, separator: str) -> list[int]:
        """The ids of a prompt from its last document on."""
        try:
            ids = self.vocabulary.encode(
                prompt.rpartition(separator)[2] if separator else prompt, self.settings.unknown
            )
        except TextError as error:
            choices = "skip drops them" + ", replace maps them to the unknown token" * self.vocabulary.has_unknown
            raise TextError(error.message, f"--unknown {choices}; charlm info lists the vocabulary.") from None
        return [int(id_) for id_ in ids]

    def prefill(self, ids: list[int]) -> tuple[NDArray[np.float32], State]:
        """Logits and state after a text that starts with these ids."""
        read_ids = torch.tensor([self.vocabulary.start_id, *ids], device=self.model.output_bias.device)
        with eval_mode(self.model), self.precision_context():
            return prefill(self.model, read_ids[:, None])

    @cached_property
    def prompt_state(self) -> tuple[NDArray[np.float32], State]:
        return self.prefill(self.prompt_ids)

    @cached_property
    def start_state(self) -> tuple[NDArray[np.float32], State]:
        """Before a document's first character."""
        return self.prefill([])

    def next_characters(self, count: int) -> list[tuple[str, float]]:
        """The most probable characters after the prompt, with the model's own probabilities: nothing narrows them, and
        they are of fp32. Bytes are shown as the characters of their numbers, the unknown symbol as U+FFFD.
        """
        with no_tf32():
            logits = self.prefill(self.prompt_ids)[0][0].astype(np.float64)
        probabilities = np.exp(logits - logits.max())
        probabilities /= probabilities.sum()
        first = np.argsort(-probabilities, kind="stable")[:count]
        return [(self.display[id_], float(probabilities[id_])) for id_ in first]

    def stream(self) -> Iterator[str]:
        """The characters of the first sample."""
        samples = self.new_samples(range(1))
        for _ in self.generate(samples):
            yield samples[0].last_piece

    def stream_bytes(self) -> Iterator[bytes]:
        """The same, each character as its bytes."""
        samples = self.new_samples(range(1))
        for _ in self.generate(samples):
            yield samples[0].data_from(-1)

    def generate_all(self) -> list[Sample]:
        """All samples, finished."""
        return [sample for sample in self.iter_in_order() if sample.finish_reason]

    def iter_in_order(self) -> Iterator[Sample]:
        """Samples in the order of their indices, each as often as it may have grown, the last time finished.

        They are generated a batch at a time, so memory does not grow with their number.
        """
        for first in range(0, self.settings.num_samples, BATCH):
            batch = self.new_samples(range(first, min(first + BATCH, self.settings.num_samples)))
            finished = 0
            for _ in chain([None], self.generate(batch)):
                while finished < len(batch):
                    yield batch[finished]
                    if not batch[finished].finish_reason:
                        break
                    finished += 1

    def new_samples(self, indices: Sequence[int] | None = None) -> list[Sample]:
        """The samples of these indices, or all, before their first characters, for :meth:`generate`."""
        finish_reason = "" if self.settings.length else "length"
        indices = range(self.settings.num_samples) if indices is None else indices
        samples = [Sample(index, self.seed, finish_reason=finish_reason) for index in indices]
        if self.vocabulary.unit == "byte":
            for sample in samples:
                sample.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        return samples

    def generate(self, samples: list[Sample]) -> Iterator[None]:
        """At each step, add a character to every sample that has not ended."""
        logits, state = self.prompt_state
        logits = logits.repeat(len(samples), axis=0)
        stepper = None
        indices = [sample.index for sample in samples]
        with ExitStack() as stack:
            for uniform in uniform_numbers(self.seed, indices) if self.settings.length else ():
                ids, log_probabilities = sample_ids(filter_logits(logits, self.mask, self.settings), uniform)
                for sample, id_, nats in zip(samples, ids.tolist(), log_probabilities.tolist(), strict=True):
                    self._add(sample, self.vocabulary.characters[id_], nats)
                yield
                if all(sample.finish_reason for sample in samples):
                    return
                with self.precision_context():
                    if stepper is None:  # no sooner: the first characters are there before it is laid out
                        stepper = stack.enter_context(self.stepper_pool.borrow(len(samples), self.settings.precision))
                        stepper.set_state(state)
                    logits = stepper.step(ids)
                    ended = [lane for lane, sample in enumerate(samples) if self._ends_document(sample)]
                    if ended:
                        logits = logits.copy()
                        logits[ended], start_state = self.start_state
                        stepper.set_state(start_state, ended)

    def _add(self, sample: Sample, character: str, nats: float) -> None:
        if sample.finish_reason:  # it keeps its place among the others, and what is drawn for it does not count
            sample.last_piece = ""
            return
        sample.characters.append(character)
        sample.log_probability_nats += nats
        if self.stops and any(self._ends_with(sample, stop) for stop in self.stops):
            sample.finish_reason = "stop"
        elif self.settings.stop_at_newline and character == "\n":
            sample.finish_reason = "newline"
        elif len(sample.characters) == self.settings.length:
            sample.finish_reason = "length"
        sample.add(character)

    def _ends_with(self, sample: Sample, text: str) -> bool:
        return sample.characters[-len(text) :] == list(text)

    def _ends_document(self, sample: Sample) -> bool:
        """Whether a separator is complete, which may have begun in the prompt. One that has ended begins none."""
        size = len(self.separator)
        if not size or sample.finish_reason:
            return False
        return [*self.prompt_end, *sample.characters[-size:]][-size:] == list(self.separator)


def uniform_numbers(seed: int, indices: Sequence[int]) -> Iterator[NDArray[np.float64]]:
    """Numbers from 0 to below 1, ``(stream,)`` at each step; those of a stream depend on the seed and its index."""
    generators = [np.random.Generator(np.random.PCG64(derive_seed(seed, index))) for index in indices]
    while True:
        yield from np.stack([generator.random(RANDOM_BLOCK) for generator in generators], axis=1)


def derive_seed(seed: int, index: int) -> int:
    """A seed for each index, far from those of neighbouring seeds: splitmix64 (Steele, Lea and Flood 2014)."""
    mask = (1 << 64) - 1
    z = (seed + (index + 1) * 0x9E3779B97F4A7C15) & mask
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & mask
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
    return (z ^ (z >> 31)) >> 1
