"""Generate any number of texts from a model in parallel, character by character."""

import codecs
import secrets
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, nullcontext
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
from charlm.generation.randomness import draw_uniform_blocks
from charlm.generation.sample import Sample
from charlm.model.cells import State
from charlm.model.device import no_tf32
from charlm.model.kernels.sampler import NativeSampler
from charlm.model.language_model import CharacterModel, eval_mode
from charlm.model.stepper import Stepper, StepperPool, prefill

NO_NORMALIZATION = CorpusSettings()  # texts are used unchanged
BATCH = 256  # samples generated in parallel; more take memory but are hardly faster
LONGEST_CALL_SECONDS = 0.02  # of the native sampler, about: nobody sees text come in bursts of it

Numbers = NDArray[np.float64]
Draws = tuple[NDArray[np.int64], Numbers]
"""Ids and their log-probabilities in nats, ``(step, sample)``."""


class Sampler:
    """Generates ``settings.num_samples`` texts from one model and one prompt.

    ``corpus``: preprocessing settings of the training text, also applied to the prompt. After a document separator, the
    state is reset and a new document begins. ``stepper_pool``: that of the model, if it has one.

    Raises ``TextError`` for unknown characters in the prompt, ``UsageError`` if no character is allowed.
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
        self.characters = np.array([*vocabulary.characters, UNKNOWN_PLACEHOLDER], dtype=object)
        self.display = [*vocabulary.characters, UNKNOWN_PLACEHOLDER]
        self.stepper_pool = stepper_pool or StepperPool(model)
        self.precision_context = no_tf32 if settings.precision == "fp32" else nullcontext
        self.separator = vocabulary.to_units(corpus.document_separator)
        self.prompt_ids = self._encode_prompt(normalize_text(settings.prompt, corpus), corpus.document_separator)
        max_partial = len(self.separator) - 1  # characters, to be a whole separator
        self.prompt_end = [self.display[id_] for id_ in self.prompt_ids[max(0, len(self.prompt_ids) - max_partial) :]]

    def _encode_prompt(self, prompt: str, separator: str) -> list[int]:
        """The ids of the prompt's last document."""
        try:
            ids = self.vocabulary.encode(
                prompt.rpartition(separator)[2] if separator else prompt, self.settings.unknown
            )
        except TextError as error:
            choices = "skip drops them" + ", replace maps them to the unknown token" * self.vocabulary.has_unknown
            raise TextError(error.message, f"--unknown {choices}; charlm info lists the vocabulary.") from None
        return [int(id_) for id_ in ids]

    def prefill(self, ids: list[int]) -> tuple[NDArray[np.float32], State]:
        """Logits and state after the start token and these ids."""
        read_ids = torch.tensor([self.vocabulary.start_id, *ids], device=self.model.output_bias.device)
        with eval_mode(self.model), self.precision_context():
            return prefill(self.model, read_ids[:, None])

    @cached_property
    def prompt_state(self) -> tuple[NDArray[np.float32], State]:
        return self.prefill(self.prompt_ids)

    @cached_property
    def start_state(self) -> tuple[NDArray[np.float32], State]:
        """Logits and state before a document's first character."""
        return self.prefill([])

    def next_characters(self, count: int) -> list[tuple[str, float]]:
        """The likeliest characters after the prompt with the model's unfiltered probabilities, in fp32. Bytes are
        characters of the same value; the unknown token is U+FFFD.
        """
        with no_tf32():
            logits = self.prefill(self.prompt_ids)[0][0].astype(np.float64)
        probabilities = np.exp(logits - logits.max())
        probabilities /= probabilities.sum()
        first = np.argsort(-probabilities, kind="stable")[:count]
        return [(self.display[id_], float(probabilities[id_])) for id_ in first]

    def stream(self) -> Iterator[str]:
        """Yield the characters of the first sample."""
        (sample,) = self.new_samples(range(1))
        seen = 0
        for _ in self.generate([sample]):
            yield from sample.pieces[seen:]
            seen = len(sample.pieces)

    def stream_bytes(self) -> Iterator[bytes]:
        """Yield the bytes of the first sample, some at a time."""
        (sample,) = self.new_samples(range(1))
        seen = 0
        for _ in self.generate([sample]):
            yield sample.data_from(seen)
            seen = len(sample.characters)

    def generate_all(self) -> list[Sample]:
        """All samples, finished."""
        return [sample for sample in self.iter_in_order() if sample.finish_reason]

    def iter_in_order(self) -> Iterator[Sample]:
        """Yield samples in index order, each repeatedly while it grows, and finally finished.

        They are generated in batches, so memory does not grow with their number.
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
        """New, empty samples with these indices (default: all), for :meth:`generate`."""
        finish_reason = "" if self.settings.length else "length"
        indices = range(self.settings.num_samples) if indices is None else indices
        samples = [Sample(index, self.seed, finish_reason=finish_reason) for index in indices]
        if self.vocabulary.unit == "byte":
            for sample in samples:
                sample.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        return samples

    def generate(self, samples: list[Sample]) -> Iterator[None]:
        """Extend every unfinished sample by at least one character at a time."""
        if not self.settings.length:
            return
        with closing(self._draw_characters(samples)) as draws:
            for ids, nats in draws:
                characters = self.characters[ids]
                for lane, sample in enumerate(samples):
                    if not sample.finish_reason:  # a finished one keeps its lane
                        self._extend(sample, characters[:, lane].tolist(), nats[:, lane].tolist())
                yield
                if all(sample.finish_reason for sample in samples):
                    return

    def _draw_characters(self, samples: list[Sample]) -> Generator[Draws, None, None]:
        """Draw for each sample, a few steps at a time. The samples get them before the next ones are drawn."""
        numbers = draw_uniform_blocks(self.seed, [sample.index for sample in samples])
        block = next(numbers)
        logits, state = self.prompt_state
        ids, nats = sample_ids(filter_logits(logits.repeat(len(samples), axis=0), self.mask, self.settings), block[0])
        yield ids[None], nats[None]  # the first characters are there before the weights are laid out
        blocks = chain([block[1:]], numbers)
        with self.stepper_pool.borrow(len(samples), self.settings.precision) as stepper:
            with self.precision_context():
                stepper.set_state(state)
            if isinstance(stepper, NativeSampler):
                yield from self._draw_natively(samples, stepper, ids, blocks)
            else:
                yield from self._draw_by_steps(samples, stepper, ids, blocks)

    def _draw_by_steps(
        self, samples: list[Sample], stepper: Stepper, ids: NDArray[np.intp], blocks: Iterator[Numbers]
    ) -> Iterator[Draws]:
        for numbers in chain.from_iterable(blocks):
            with self.precision_context():
                logits = stepper.step(ids)
                if ended := self._ended_documents(samples):
                    logits = logits.copy()
                    logits[ended], fresh = self.start_state
                    stepper.set_state(fresh, ended)
            ids, nats = sample_ids(filter_logits(logits, self.mask, self.settings), numbers)
            yield ids[None], nats[None]

    def _draw_natively(
        self,
        samples: list[Sample],
        sampler: NativeSampler,
        ids: NDArray[np.intp],
        blocks: Iterator[Numbers],
    ) -> Iterator[Draws]:
        """Several steps at once: more and more of them, as long as nobody has to wait for the first.

        A call ends where a document may end, since its next character is drawn from a fresh state.
        """
        settings = self.settings
        may_end = [character == self.separator[-1:] for character in self.vocabulary.characters]
        pauses = np.resize([*may_end, False], self.mask.shape)
        sampler.configure(settings.temperature, settings.top_k, settings.top_p, settings.min_p, self.mask, pauses)
        sampler.read(ids)
        steps, left = 1, settings.length - 1
        for block in blocks:
            while len(block) and left:
                if ended := self._ended_documents(samples):
                    logits = sampler.advance()
                    fresh_logits, fresh = self.start_state
                    sampler.set_state(fresh, ended)
                    logits[ended] = fresh_logits
                began = time.perf_counter()
                drawn, nats = sampler.sample(block[: min(steps, left)])
                steps = 2 * steps if time.perf_counter() - began < LONGEST_CALL_SECONDS / 2 else max(1, steps // 2)
                block, left = block[len(drawn) :], left - len(drawn)
                yield drawn, nats

    def _extend(self, sample: Sample, characters: list[str], nats: list[float]) -> None:
        """Add what was drawn, up to where the sample ends."""
        count, reason = len(characters), ""
        if self.settings.length - len(sample.characters) <= count:
            count, reason = self.settings.length - len(sample.characters), "length"
        if self.settings.stop_at_newline and "\n" in characters[:count]:
            count, reason = characters.index("\n") + 1, "newline"
        for stop in self.stops:
            before = sample.characters[1 - len(stop) :] if len(stop) > 1 else []
            found = "".join(before + characters[:count]).find(stop)
            if found >= 0:
                count, reason = found + len(stop) - len(before), "stop"
        sample.add(characters[:count], nats[:count], reason)

    def _ended_documents(self, samples: list[Sample]) -> list[int]:
        return [lane for lane, sample in enumerate(samples) if self._ends_document(sample)] if self.separator else []

    def _ends_document(self, sample: Sample) -> bool:
        """Whether the sample has just completed a separator, possibly started in the prompt. Finished samples never
        do.
        """
        size = len(self.separator)
        if not size or sample.finish_reason:
            return False
        return [*self.prompt_end, *sample.characters[-size:]][-size:] == list(self.separator)
