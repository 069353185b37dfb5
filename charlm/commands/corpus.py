"""``charlm corpus``: download and inspect texts before training."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from charlm.commands import completion
from charlm.commands.layout import Command, argument, option
from charlm.commands.options import (
    FilePath,
    cache_option,
    collect_sources,
    common_options,
    corpus_argument,
    json_option,
    settings_options,
)
from charlm.commands.output import Output, output_option
from charlm.commands.stdio import ignore_broken_pipe, print_path
from charlm.config import CorpusSettings, SettingsSource, TrainSettings, choose_automatic, preset_path, resolve
from charlm.console import console, open_bar
from charlm.corpus import download
from charlm.errors import CharlmError, pluralize
from charlm.records import to_json

if TYPE_CHECKING:
    from tqdm import tqdm

    from charlm.corpus.analysis.baselines import Baselines
    from charlm.corpus.analysis.inspection import InspectionReport, ListedCharacter
    from charlm.corpus.analysis.overlap import Overlap
    from charlm.corpus.loading import Corpus

TIMED_PRESETS = ("tiny", "default")  # presets whose training time is estimated; on a GPU, large too
MAX_LISTED = 10  # entries per list in the printed report; JSON has more
TITLE_WIDTH = 20


@click.group("corpus")
def command() -> None:
    """Download and inspect texts.

    \b
    charlm corpus get tinyshakespeare
    charlm corpus inspect play.txt
    """


class DownloadCommand(Command):
    """A command whose help lists the corpora that can be downloaded."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Corpora"):
            formatter.write_dl(
                [
                    (name, f"{_describe_corpus(corpus)}; from {corpus.url}; {corpus.checksum_source}")
                    for name, corpus in download.CORPORA.items()
                ]
            )


def _describe_corpus(corpus: download.DownloadableCorpus) -> str:
    return f"{corpus.description}; {corpus.size_bytes / 1e6:,.1f} MB; {corpus.license}"


@command.command("get", cls=DownloadCommand, short_help="Download and verify a well-known corpus.")
@argument("name", description="Name of a corpus, listed below.", shell_complete=completion.corpora)
@option(
    "--dir",
    type=FilePath(path_type=Path, file_okay=False),
    default=download.DOWNLOAD_FOLDER,
    help="Folder for NAME.txt; charlm train NAME looks in data.  [default: data]",
)
@common_options
def get(name: str, dir: Path, quiet: bool) -> None:
    """Download the corpus NAME, verify its checksum and print its path.

    An existing file is verified and never overwritten.

    \b
    charlm corpus get tinyshakespeare
    charlm train tinyshakespeare
    """
    path = download.download_path(name, dir)
    if download.is_downloaded(name, dir):
        if not quiet:
            console.print_line(f"{path} already exists and its checksum is correct.")
    else:
        size_bytes = download.CORPORA[name].size_bytes
        with open_bar(quiet, total=size_bytes, desc=name, unit="B", unit_scale=True, leave=False) as bar:
            download.download_corpus(name, dir, bar.update)
    with ignore_broken_pipe():
        print_path(path)


@command.command("inspect", cls=Command, short_help="Show statistics of a text, and baselines for a model.")
@corpus_argument
@cache_option
@json_option
@output_option
@common_options
@settings_options({"Data": CorpusSettings})
@click.pass_context
def inspect(
    context: click.Context,
    /,
    corpus: tuple[str, ...],
    cache_dir: Path | None,
    json: bool,
    output: Output,
    quiet: bool,
    **options: object,
) -> None:
    """Inspect CORPUS before training on it.

    Reports size, characters, rare and control characters, line lengths, overlap between training and validation text,
    the estimated training time of each preset, and baselines to beat: bits per character of n-gram models and of xz.

    \b
    charlm corpus inspect play.txt
    charlm corpus inspect letters/ --document-per-file --json
    zcat old.txt.gz | charlm corpus inspect - --encoding cp1252
    """
    settings = resolve(CorpusSettings, collect_sources(context, CorpusSettings))
    from charlm.corpus import loading
    from charlm.corpus.analysis import inspection, likeness

    loaded = loading.load_corpus(corpus, settings, 1, cache_dir, quiet)
    stages = inspection.NUM_STAGES + len(TIMED_PRESETS)
    with open_bar(quiet, total=stages, desc="inspecting", leave=False) as bar:
        report = inspection.inspect_corpus(loaded, bar.update)
        advice = likeness.advise_shuffling(loaded, settings)
        presets = _time_presets(loaded, settings, bar)
    if json:
        output.write_json({**to_json(report, settings.unit), "advice": advice, **to_json(presets)})
    else:
        output.write(_format_report(report, advice, presets) + "\n")


@dataclass(frozen=True)
class PresetTimes:
    """Estimated seconds of training with each preset on this machine, and the suggested preset."""

    training_seconds: dict[str, float]
    suggested_preset: str | None


def _time_presets(corpus: "Corpus", settings: CorpusSettings, bar: "tqdm[object]") -> PresetTimes:
    from charlm.corpus.split import is_long_enough
    from charlm.model.device import choose_device
    from charlm.training.estimate import estimate_seconds

    on_gpu = choose_device("auto").type == "cuda"
    seconds = {}
    for name in (*TIMED_PRESETS, "large") if on_gpu else TIMED_PRESETS:
        preset = preset_path(name)
        sources = [SettingsSource.file(preset), SettingsSource.command_line(settings.model_dump())]
        train_settings = resolve(TrainSettings, sources, choose_automatic(len(corpus.split.train)))
        with suppress(CharlmError):  # does not fit into memory
            if is_long_enough(corpus.split, train_settings.sequence_length):
                seconds[name] = round(estimate_seconds(train_settings, corpus), 1)
        bar.update()
    wanted = ["default", "tiny"]
    if len(corpus.text) > 10_000_000:  # what that preset was made for
        wanted.insert(0, "large")
    suggested = next((name for name in wanted if name in seconds), None)
    return PresetTimes(seconds, suggested)


def _format_report(report: "InspectionReport", advice: str | None, presets: PresetTimes) -> str:
    unit, lines, most_frequent = report.unit, report.lines, report.most_frequent
    ends = {"\\r\\n": report.line_ends.crlf, "\\n": report.line_ends.lone_lf, "\\r": report.line_ends.lone_cr}
    endings = [f"{count:,} {name}" for name, count in ends.items() if count]
    mixed = "mixed: " * (len(endings) > 1) + ", ".join(endings)
    unify = "; unify them with --newline lf" * (len(endings) > 1 and unit == "character")
    report_lines = [
        f"{report.name}: {pluralize(report.files, 'file')}, {pluralize(report.size_bytes, 'byte')}, "
        + f"{report.characters:,} characters, " * (unit == "character")
        + f"{report.distinct_characters:,} distinct {unit}s",
        "",
        *_format_row("Split", ", ".join(f"{name} {end - start:,}" for name, (start, end) in report.ranges.items())),
    ]
    if report.unseen_in_training:
        unseen = pluralize(report.unseen_in_training, f"distinct {unit}")
        report_lines += _format_row("", f"outside the training split only: {unseen}")
    if advice:
        report_lines += _format_row("", advice)
    if report.documents:
        report_lines += _format_row("Documents", f"{report.documents:,}")
    report_lines += [
        *_format_row(
            "Lines",
            f"{lines.lines:,}; length: median {lines.median:,.0f}, mean {lines.mean:,.1f}, longest {lines.longest:,}",
        ),
        *_format_row("Line endings", (mixed or "none") + unify),
        *_format_row(
            "Most frequent", repr(most_frequent[:60] if isinstance(most_frequent, str) else bytes(most_frequent[:60]))
        ),
        *_format_characters(
            f"Rare {unit}s",
            report.rare,
            f"{report.rare_characters:,} with fewer than 10 occurrences" + "; see --min-count" * (unit == "character"),
        ),
        *_format_characters(f"Control {unit}s", report.control, pluralize(report.control_characters, "occurrence")),
        *_format_row("Overlap", _format_overlap(report.overlap, unit)),
        *_format_baselines(report.baselines, unit),
    ]
    if presets.suggested_preset:
        report_lines += _format_row(
            "Training time", ", ".join(map(_format_duration, *zip(*presets.training_seconds.items(), strict=True)))
        )
        report_lines += _format_row("", f"suggested preset: charlm train … --config {presets.suggested_preset}")
    else:
        why = "the text is too short, or its vocabulary is too large for this machine's memory"
        report_lines += _format_row("Training time", f"no preset fits: {why}")
    return "\n".join(report_lines)


def _format_row(title: str, text: str) -> list[str]:
    return [f"{title:<{TITLE_WIDTH}}{text}"]


def _format_characters(title: str, characters: list["ListedCharacter"], total: str) -> list[str]:
    if not characters:
        return _format_row(title, "none")
    lines = _format_row(title, total)
    for listed in characters[:MAX_LISTED]:
        lines += _format_row("", f"{listed.count:>9,} × {listed.description}")
    return lines + _format_row("", "…") * (len(characters) > MAX_LISTED)


def _format_overlap(overlap: "Overlap", unit: str) -> str:
    length = overlap.min_length
    if not overlap.validation_characters:
        checked = overlap.validation_characters_checked
        return f"no passage of {length} {unit}s occurs both in training and in the first {checked:,} of validation"
    passage = overlap.longest[0]
    return (
        f"{overlap.validation_characters:,} validation {unit}s also occur in training, in passages of {length} or "
        f"more; longest: {passage.length:,}, at validation offset {passage.validation_start:,}"
    )


def _format_baselines(baselines: "Baselines", unit: str) -> list[str]:
    best = min(baselines.ngram_bits)
    lines = _format_row(
        "Baselines",
        f"bits per {unit} on {baselines.validation_characters:,} validation {unit}s, built from "
        f"{baselines.train_characters:,} training {unit}s",
    )
    for order, bits in enumerate(baselines.ngram_bits):
        lines += _format_row(
            "", f"{bits:6.3f}  n-gram, context of {order}" + ": the best n-gram model" * (bits == best)
        )
    return lines + _format_row("", f"{baselines.xz_bits:6.3f}  xz")


def _format_duration(name: str, seconds: float) -> str:
    return f"{name} {seconds:.0f} s" if seconds < 100 else f"{name} {seconds / 60:.1f} min"
