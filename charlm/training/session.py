"""From what was asked for to a trainer that is ready: a fresh run, or one that goes on; everything is checked first.

Nothing is written or removed before all of it is known to be right.
"""

import errno
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from charlm import runs, texts
from charlm.checkpoint.contents import Checkpoint, SavedModel
from charlm.checkpoint.environment import describe_environment
from charlm.checkpoint.writing import encode_config
from charlm.config import (
    CorpusSettings,
    Layer,
    ModelSettings,
    OptimizationSettings,
    RegularizationSettings,
    TrainSettings,
    read_toml,
    resolve,
)
from charlm.console import console
from charlm.corpus import likeness, loading, sources
from charlm.corpus.loading import Corpus
from charlm.corpus.recorded import RecordedCorpus
from charlm.errors import CharlmError, UsageError, pluralize, quote
from charlm.evaluation.passes import Evaluation
from charlm.model.device import choose_device, choose_precision, explained_memory, prepare_process
from charlm.model.language_model import CharacterModel
from charlm.model.sharing import choose_threads
from charlm.model.sizes import count_parameters
from charlm.training.estimate import check_memory
from charlm.training.finetuning import SHAPE, grown_vocabulary
from charlm.training.monitor import Monitor
from charlm.training.trainer import Trainer

# What a resume may not change: the state that was saved would not fit, or would not mean the same
FIXED = (
    *ModelSettings.model_fields,
    *RegularizationSettings.model_fields,
    *CorpusSettings.model_fields,
    "batch_size",
    "sequence_length",
    "beta1",
    "beta2",
    "weight_decay",
    "seed",
    "init_from",
)

RESERVED = re.compile(r"con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]", re.IGNORECASE)  # by Windows


@dataclass(frozen=True)
class Plan:
    """A training that can start: all its inputs were found and fit together."""

    settings: TrainSettings
    corpus: Corpus
    run: Path
    saved: Checkpoint | None
    overwrite: bool
    seen: list[str]  # the checkpoints that were there
    origin: SavedModel | None = None  # whose weights it starts from

    def train(self, quiet: bool) -> Evaluation:
        """Train to the end, alone in the run folder. Raises what :meth:`Trainer.train` raises."""
        if not quiet:
            for line in self.announcement():
                console.say(line)
        with explained_memory(self.settings):
            try:
                with runs.locked(self.run):
                    if [folder.name for folder in runs.checkpoints(self.run)] != self.seen:
                        raise UsageError(f"{self.run}: another process changed this run just now.", "Try again.")
                    trainer = self.trainer(quiet)
                    return trainer.train()
            except OSError as error:
                raise _explain(error, self.run) from None

    def __post_init__(self) -> None:
        check_memory(self.settings, len(self.corpus.vocabulary))

    def trainer(self, quiet: bool) -> Trainer:
        """Make the run folder, where it is new, and the trainer."""
        record = self.corpus.file_record(self.run)
        parameters = count_parameters(len(self.corpus.vocabulary), self.settings)
        monitor = Monitor(self.run, self.settings, parameters, quiet)
        trainer = Trainer(self.settings, self.corpus, self.run, monitor, self.origin)
        prepare_process(trainer.balancer.most)
        # What could not be read again is refused here, before anything is removed
        texts.encode(record)
        environment = describe_environment(trainer.device, trainer.precision)
        encode_config(trainer.state.checkpoint(self.settings, self.corpus, {}, environment).model)
        if self.saved is not None:
            trainer.restore(self.saved)
            runs.forget_after(self.run, self.saved.model.step)
        elif self.overwrite and runs.is_occupied(self.run):
            runs.remove(self.run)
        runs.start(self.run, self.settings, record)
        return trainer

    def announcement(self) -> Iterable[str]:
        """What people should know before it starts, a line each."""
        corpus, settings, text = self.corpus, self.settings, self.corpus.text
        what = "" if corpus.names else ", the source code of Python's standard library"
        yield (
            f"Text: {corpus.name}{what}: {len(text):,} {settings.unit}s, {len(corpus.encoded.alphabet):,} distinct; "
            f"{len(corpus.split.train):,} for training, {len(corpus.split.validation):,} for validation."
        )
        if documents := len(text.document_starts):
            yield f"{pluralize(documents, 'document')}."
        if text.vocabulary.has_unknown:
            occurrences, distinct = corpus.unknown()
            rare, total = pluralize(distinct, "rare character"), pluralize(occurrences, "occurrence")
            yield f"Mapped to the unknown token: {rare} ({total})."
        if lacking := corpus.only_outside_training():
            yield f"Outside the training split only: {pluralize(lacking, f'distinct {settings.unit}')}."
        if self.saved is None and (advice := likeness.advice(corpus, settings)):
            yield advice
        lanes = min(settings.batch_size, len(corpus.split.train) // settings.sequence_length)
        if lanes < settings.batch_size:
            yield f"The text is short: the batch size is {lanes} instead of {settings.batch_size}."
        device = choose_device(settings.device)
        parameters = sum(map(math.prod, CharacterModel.shapes(len(text.vocabulary), settings).values()))
        yield (
            f"Model: {settings.cell.upper()}, {pluralize(settings.num_layers, 'layer')} × "
            f"{pluralize(settings.hidden_size, 'unit')}, {pluralize(parameters, 'parameter')}; "
            f"{device}, {choose_precision(settings.precision, device)}."
        )
        if self.origin is not None:
            more = len(text.vocabulary) - len(self.origin.vocabulary)
            yield f"Finetuning {self.origin.folder}; {pluralize(more, f'new {settings.unit}')}."
        if self.saved is not None:
            saved = self.saved.model
            yield f"Resuming {self.run} from step {saved.step}."
            if later := runs.later_checkpoints(self.run, saved.step):
                yield f"Removing later checkpoints: {', '.join(folder.name for folder in reversed(later))}."
            precision = choose_precision(settings.precision, device)
            threads = choose_threads(settings.threads, settings, lanes, precision)
            now = describe_environment(device, precision, threads).model_dump()
            then = saved.environment.model_dump()
            names = [name for name in {**now, **then} if now.get(name) != then.get(name)]
            if changed := ", ".join(f"{name} {then.get(name, 'none')} → {now.get(name, 'none')}" for name in names):
                yield (
                    f"The environment changed ({changed}): results may not be bit-identical to those of an "
                    "uninterrupted run."
                )
            if moves := saved.progress.thread_changes:
                steps = ", ".join(str(change.step) for change in moves)
                yield f"The number of threads changed at step {steps}, so this run cannot be reproduced bit for bit."
            before = saved.settings
            learning = [*OptimizationSettings.model_fields, "precision"]
            if new := [name for name in learning if getattr(before, name) != getattr(settings, name)]:
                changes = ", ".join(f"{name} {getattr(before, name)} → {getattr(settings, name)}" for name in new)
                yield f"Changed settings: {changes}; the learning rate now follows the new schedule."


def _explain(error: OSError, run: Path) -> CharlmError:
    """What failed, and where: the file that the system names, else the run."""
    hint = "Free up space, or choose another --out." if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        hint = "Choose another --out, or change who may write there."
    return CharlmError(f"{error.filename or run}: {error.strerror or error}.", hint)


def plan(
    corpus_names: Sequence[str],
    layers: Sequence[Layer],
    out: Path | None = None,
    resume: str | Path | None = None,
    overwrite: bool = False,
    cache_folder: Path | None = None,
    quiet: bool = True,
) -> Plan:
    """Check everything and plan the training.

    ``resume`` is the path of a run or checkpoint, ``auto`` (the run that ``out`` or the corpus's name gives, if it
    is there), or ``None`` for a fresh run. ``cache_folder`` keeps encoded texts; none: the user's own.
    Raises a ``CharlmError`` for whatever cannot be.
    """
    if resume not in (None, "auto") and overwrite:
        raise UsageError(
            "--resume and --overwrite cannot be used together.", "--resume continues a run, --overwrite replaces it."
        )
    if resume == "auto":
        run = out or default_run(corpus_names)
        resume = str(run) if runs.checkpoints(run) else None
        overwrite = overwrite or (resume is None and runs.is_run(run))  # killed before its first save: again from 0
    if resume is None:
        return _fresh(corpus_names, layers, out, overwrite, cache_folder, quiet)
    path = Path(resume)
    runs.check_path(path)
    if runs.has_settings(path) and not runs.checkpoints(path):  # likewise: its settings and its text, from step 0
        record = None if corpus_names else texts.read(path)
        layers = [(str(path / "config.toml"), read_toml(path / "config.toml")), *layers]
        hint = _where_now(path)
        recorded = RecordedCorpus(path, record, record, hint, hint) if record else None
        return _fresh(corpus_names, layers, path, True, cache_folder, quiet, recorded)
    return _resumed(corpus_names, layers, path, out, cache_folder, quiet)


def default_run(corpus_names: Sequence[str]) -> Path:
    return Path("checkpoints") / portable_name(sources.name_of(corpus_names))


def portable_name(name: str) -> str:
    """A name that a folder may have on every system, as near to ``name`` as can be."""
    name = re.sub(r'[<>:"/\\|?*\x00-\x1f\x7f]', "_", name).rstrip(". ")
    start, dot, rest = name.partition(".")
    return f"{start}_{dot}{rest}" if RESERVED.fullmatch(start.rstrip()) else name or "corpus"


def _fresh(
    corpus_names: Sequence[str],
    layers: Sequence[Layer],
    out: Path | None,
    overwrite: bool,
    cache_folder: Path | None,
    quiet: bool,
    recorded: RecordedCorpus | None = None,
) -> Plan:
    """``recorded``: the text of the run, if it had one that is not named again."""
    settings, origin = resolve(TrainSettings, layers), None
    if settings.init_from:
        settings, origin = _shaped(layers, Path(settings.init_from))
    choose_device(settings.device)
    run = out or default_run(corpus_names)
    runs.check_path(run)
    if run.exists() and not run.is_dir():
        raise UsageError(f"{run}: is a file.", "Choose another --out.")
    occupied = runs.is_occupied(run)
    if occupied and not runs.is_run(run):
        only = "; --overwrite only replaces charlm runs" if overwrite else ""
        raise UsageError(f"{run}: the folder is not empty and is not a run{only}.", "Choose another --out.")
    if occupied and not overwrite:
        raise UsageError(
            f"{run}: a run already exists here.",
            "Continue it with --resume auto, replace it with --overwrite, or choose another folder with --out.",
        )
    if recorded is None:
        corpus = loading.load(corpus_names, settings, settings.sequence_length, cache_folder, quiet)
    else:
        corpus = recorded.load([], settings, None, cache_folder, quiet)
    if origin is not None:
        corpus = corpus.known_by(grown_vocabulary(origin, corpus.vocabulary))
    return Plan(settings, corpus, run, None, overwrite, [folder.name for folder in runs.checkpoints(run)], origin)


def _shaped(layers: Sequence[Layer], path: Path) -> tuple[TrainSettings, SavedModel]:
    """The settings of a training that starts from another's model, whose shape comes before a preset's."""
    origin = runs.load_model(path)
    shape = {name: getattr(origin.settings, name) for name in SHAPE}
    presets = [layer for layer in layers if layer[0].endswith(".toml")]  # what is asked for comes after them
    asked = [layer for layer in layers if layer not in presets]
    settings = resolve(TrainSettings, [*presets, (str(path), shape), *asked])
    if changed := [name for name in SHAPE if getattr(settings, name) != shape[name]]:
        raise UsageError(
            f"--init-from {path}: cannot change {', '.join(f'{name} ({shape[name]})' for name in changed)}.",
            "Remove these options, or train a new model.",
        )
    return settings, origin


def _resumed(
    corpus_names: Sequence[str],
    layers: Sequence[Layer],
    path: Path,
    out: Path | None,
    cache_folder: Path | None,
    quiet: bool,
) -> Plan:
    run = path.absolute().parent if runs.is_checkpoint(path) else path
    if out is not None and out.resolve() != run.resolve():
        raise UsageError(f"--out {out}: a resumed run cannot move from its folder, {run}.", "Remove --out.")
    seen = [folder.name for folder in runs.checkpoints(run)]
    checkpoint = runs.load_checkpoint(path)
    saved = checkpoint.model
    runs.check_later(run, saved.step)
    if not runs.has_settings(run):
        raise UsageError(f"{path}: not inside a run folder.", "Move the checkpoint back into its run folder.")
    settings = resolve(TrainSettings, [(str(saved.folder), saved.settings.model_dump()), *layers])
    changed = [name for name in FIXED if getattr(settings, name) != getattr(saved.settings, name)]
    if changed:
        raise UsageError(
            f"{path}: resuming cannot change "
            + ", ".join(f"{name} ({getattr(saved.settings, name)!r})" for name in changed)
            + ".",
            "Remove these options, or start a new run with --out checkpoints/NAME.",
        )
    finetune = f"charlm train TEXT --init-from {quote(path)} --out NEW_RUN"
    another = f"To train the model on another text, or on more: {finetune}"
    files = texts.find(run, saved.corpus)
    recorded = RecordedCorpus(run, saved.corpus, files, _where_now(path), another)
    corpus = recorded.load(corpus_names, settings, saved.vocabulary, cache_folder, quiet)
    return Plan(settings, corpus, run, checkpoint, False, seen)


def _where_now(path: Path) -> str:
    """What to do when the text of a run is not found, or has changed."""
    return (
        f"Pass the original text (corpus.json lists its files): charlm train TEXT --resume {quote(path)}; "
        "or start a new run with --out checkpoints/NAME."
    )
