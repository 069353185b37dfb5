"""Plan a training run, new or resumed, from a request.

Nothing is written or removed before everything has been checked.
"""

import errno
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from charlm import __version__, runs
from charlm.checkpoint.contents import SavedModel
from charlm.checkpoint.environment import describe_environment
from charlm.checkpoint.writing import encode_config
from charlm.config import (
    TYPICAL_CHARACTERS,
    SettingsSource,
    TrainSettings,
    choose_automatic,
    find_automatic,
    resolve,
)
from charlm.console import announce, is_heard
from charlm.corpus import loading
from charlm.corpus.loading import Corpus
from charlm.corpus.streams import STANDARD_INPUT
from charlm.corpus.windows import count_lanes
from charlm.errors import CharlmError, UsageError
from charlm.evaluation.loss import Evaluation
from charlm.model.device import choose_device, report_out_of_memory
from charlm.model.kernels.choice import check_kernel
from charlm.model.sizes import count_parameters
from charlm.run_corpus import CorpusFile, RunCorpus
from charlm.training.distributed import join_ranks
from charlm.training.estimate import check_memory
from charlm.training.finetuning import ARCHITECTURE_SETTINGS, merge_vocabularies, resolve_for_finetuning
from charlm.training.found import FoundRun, default_run_folder, find_new_run, find_run_to_resume, resolve_on_resume
from charlm.training.monitor import Monitor
from charlm.training.ranks import Ranks
from charlm.training.request import TrainingRequest
from charlm.training.startup_messages import startup_messages
from charlm.training.trainer import Trainer


@dataclass(frozen=True)
class TrainingPlan:
    """A training run that is ready to start: its inputs exist and are consistent. ``ranks``: who trains it together."""

    settings: TrainSettings
    corpus: Corpus
    found: FoundRun
    ranks: Ranks
    pretrained: SavedModel | None = None  # the model to finetune
    chosen: dict[str, Any] = field(default_factory=dict)  # settings that were auto, and their values

    def __post_init__(self) -> None:
        check_memory(self.settings, len(self.corpus.vocabulary), self.ranks.count)
        check_kernel(self.settings)
        settings, characters = self.settings, len(self.corpus.split.train)
        lanes = count_lanes(characters, settings.batch_size, settings.sequence_length)
        self.ranks.divide_lanes(lanes, characters // settings.sequence_length)

    @property
    def run(self) -> Path:
        return self.found.folder

    def facts(self) -> dict[str, Any]:
        """What all processes of a run must have in common."""
        vocabulary = json.dumps(self.corpus.vocabulary.characters)
        return {
            "charlm": __version__,
            "torch": torch.__version__,
            **self.settings.model_dump(mode="json"),
            "corpus": self.corpus.to_record().model_dump(mode="json"),
            "vocabulary": hashlib.sha256(vocabulary.encode()).hexdigest(),
            "run": str(self.run.absolute()),
            "step": self.found.checkpoint.model.step if self.found.checkpoint else 0,
        }

    def startup_messages(self) -> Iterator[str]:
        return startup_messages(self.settings, self.corpus, self.found, self.pretrained, self.chosen, self.ranks.count)

    def train(self, quiet: bool) -> Evaluation:
        """Train to the end, holding the run's lock. Raises what :meth:`Trainer.train` raises."""
        if self.ranks.is_main and is_heard(quiet):
            for line in self.startup_messages():
                announce(line, quiet)
        with report_out_of_memory(self.settings), self.ranks.report_lost_ranks():
            try:
                with self._lock():
                    return self.trainer(quiet).train()
            except OSError as error:
                raise _explain(error, self.run) from None

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Rank 0 holds the lock for all."""
        with runs.lock_run(self.run) if self.ranks.is_main else nullcontext():
            if self.ranks.is_main and runs.list_checkpoints(self.run) != self.found.known_checkpoints:
                raise UsageError(f"{self.run}: another process changed this run just now.", "Try again.")
            yield

    def trainer(self, quiet: bool) -> Trainer:
        """Create the run folder if needed, and the trainer."""
        record = CorpusFile.describe(self.corpus, self.run)
        parameters = count_parameters(len(self.corpus.vocabulary), self.settings)
        monitor = Monitor(self.run, self.settings, parameters, quiet, is_silent=not self.ranks.is_main)
        trainer = Trainer(self.settings, self.corpus, self.run, monitor, self.pretrained, self.ranks)
        # Reject what could not be read again, before anything is removed
        record.encode()
        environment = describe_environment(trainer.device, trainer.precision)
        encode_config(trainer.state.checkpoint(self.settings, self.corpus, {}, environment).model)
        if self.found.checkpoint is not None:
            trainer.restore(self.found.checkpoint)
        if not self.ranks.is_main:
            return trainer
        if self.found.checkpoint is not None:
            runs.truncate_after(self.run, self.found.checkpoint.model.step)
        elif self.found.is_replaced and runs.is_nonempty(self.run):
            runs.remove_run(self.run)
        runs.create_run(self.run, self.settings, record)
        return trainer


def plan_training(request: TrainingRequest) -> TrainingPlan:
    """Check everything and plan the training run. Raises a ``CharlmError`` if it is not possible.

    If there are several processes, rank 0 plans first. So it encodes a text that is not in the cache, and the others
    only plan what is possible.
    """
    ranks = join_ranks()
    with ranks.report_lost_ranks():
        with ranks.main_first():
            plan = _plan(replace(request, quiet=request.quiet or not ranks.is_main), ranks)
        ranks.check_same(plan.facts())
    return plan


def _plan(request: TrainingRequest, ranks: Ranks) -> TrainingPlan:
    if ranks.count > 1 and str(STANDARD_INPUT) in request.corpus_names:
        raise UsageError("-: several processes cannot read standard input.", "Save the text to a file.")
    if request.resume not in (None, "auto") and request.overwrite:
        raise UsageError(
            "--resume and --overwrite cannot be used together.", "--resume continues a run, --overwrite replaces it."
        )
    if request.resume == "auto":
        run = request.out or default_run_folder(request.corpus_names)
        if runs.list_checkpoints(run):
            request = replace(request, resume=run)
        else:  # a run killed before its first save restarts from step 0
            request = replace(request, resume=None, overwrite=request.overwrite or runs.is_run(run))
    if request.resume is None:
        return _plan_new(request, ranks)
    path = Path(request.resume)
    runs.check_path(path)
    if runs.has_settings(path) and not runs.list_checkpoints(path):  # likewise, with its own settings and text
        recorded = None if request.corpus_names else RunCorpus.to_restart(path)
        sources = [SettingsSource.file(path / "config.toml"), *request.settings_sources]
        return _plan_new(replace(request, settings_sources=sources, out=path, overwrite=True), ranks, recorded)
    return _plan_resume(request, ranks, path)


def _plan_new(request: TrainingRequest, ranks: Ranks, recorded: RunCorpus | None = None) -> TrainingPlan:
    """``recorded``: the corpus of an existing run, if no text is named.

    Settings are checked before the text is read. What is ``auto`` is chosen for its size, and checked again.
    """
    settings = resolve(TrainSettings, request.settings_sources, choose_automatic(TYPICAL_CHARACTERS))
    pretrained = runs.load_model(Path(settings.init_from)) if settings.init_from else None
    settings = _resolve(request, pretrained, settings.init_from, TYPICAL_CHARACTERS)
    choose_device(settings.device)
    found = find_new_run(request)
    if recorded is None:
        corpus = loading.load_corpus(
            request.corpus_names, settings, settings.sequence_length, request.cache_folder, request.quiet
        )
    else:
        corpus = recorded.load([], settings, None, request.cache_folder, request.quiet)
    if pretrained is not None:
        corpus = corpus.with_vocabulary(merge_vocabularies(pretrained, corpus.vocabulary))
    settings = _resolve(request, pretrained, settings.init_from, len(corpus.split.train))
    of_pretrained = ARCHITECTURE_SETTINGS if pretrained else ()
    automatic = [name for name in find_automatic(request.settings_sources) if name not in of_pretrained]
    chosen = {name: getattr(settings, name) for name in automatic}
    return TrainingPlan(settings, corpus, found, ranks, pretrained, chosen)


def _resolve(
    request: TrainingRequest, pretrained: SavedModel | None, init_from: str, training_characters: int
) -> TrainSettings:
    automatic = choose_automatic(training_characters)
    if pretrained is None:
        return resolve(TrainSettings, request.settings_sources, automatic)
    return resolve_for_finetuning(request.settings_sources, pretrained, Path(init_from), automatic)


def _plan_resume(request: TrainingRequest, ranks: Ranks, path: Path) -> TrainingPlan:
    found = find_run_to_resume(path, request.out)
    assert found.checkpoint is not None
    model = found.checkpoint.model
    settings = resolve_on_resume(path, model, request.settings_sources)
    recorded = RunCorpus.to_resume(path, found.folder, model.corpus)
    corpus = recorded.load(request.corpus_names, settings, model.vocabulary, request.cache_folder, request.quiet)
    return TrainingPlan(settings, corpus, found, ranks)


def _explain(error: OSError, run: Path) -> CharlmError:
    """Describe a system error and where it occurred: the file it names, else the run."""
    hint = "Free up space, or choose another --out." if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        hint = "Choose another --out, or change who may write there."
    return CharlmError(f"{error.filename or run}: {error.strerror or error}.", hint)
