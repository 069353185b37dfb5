"""``charlm corpus``: get texts and look at them before training."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from charlm.commands.layout import Command, argument, option
from charlm.commands.options import (
    cache_option,
    common_options,
    corpus_argument,
    given,
    json_option,
    settings_options,
)
from charlm.commands.output import Output, output_option
from charlm.commands.terminal import print_path, standard_output
from charlm.config import CorpusSettings, TrainSettings, preset_path, read_toml, resolve
from charlm.console import console, open_bar
from charlm.corpus import download
from charlm.errors import CharlmError, pluralize
from charlm.records import to_json

SUGGESTED = ("tiny", "default")  # presets whose training time is estimated; on a GPU, large too
SHOWN = 10  # entries of a list in the report for people; JSON has more
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
                    (name, f"{_description(corpus)}; from {corpus.address}; {corpus.checksum_source}")
                    for name, corpus in download.CORPORA.items()
                ]
            )


def _description(corpus: download.Published) -> str:
    return f"{corpus.description}; {corpus.size_bytes / 1e6:,.1f} MB; {corpus.licence}"


@command.command("get", cls=DownloadCommand, short_help="Download and verify a well-known corpus.")
@argument("name", description="Name of a corpus, listed below.")
@option(
    "--dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=download.DOWNLOADS,
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
    path = download.place(name, dir)
    if download.is_there(name, dir):
        if not quiet:
            console.say(f"{path} already exists and its checksum is correct.")
    else:
        size_bytes = download.CORPORA[name].size_bytes
        with open_bar(quiet, total=size_bytes, desc=name, unit="B", unit_scale=True, leave=False) as bar:
            download.get(name, dir, bar.update)
    with standard_output():
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
    settings = resolve(CorpusSettings, given(context, CorpusSettings))
    from charlm.corpus import loading
    from charlm.corpus.analysis import inspection, likeness

    loaded = loading.load(corpus, settings, 1, cache_dir, quiet)
    stages = inspection.STAGES + len(SUGGESTED)
    with open_bar(quiet, total=stages, desc="inspecting", leave=False) as bar:
        report = to_json(inspection.inspect_corpus(loaded, bar.update), settings.unit)
        report["advice"] = likeness.advice(loaded, settings)
        report.update(_presets(loaded, settings, bar))
    output.write_json(report) if json else output.write(_page(report) + "\n")


def _presets(corpus: Any, settings: CorpusSettings, bar: Any) -> dict[str, Any]:
    """Seconds of training time with each preset on this machine, and the one to begin with."""
    from charlm.corpus.split import is_enough
    from charlm.model.device import choose_device
    from charlm.training.estimate import training_seconds

    on_gpu = choose_device("auto").type == "cuda"
    seconds = {}
    for name in (*SUGGESTED, "large") if on_gpu else SUGGESTED:
        preset = preset_path(name)
        values = {**read_toml(preset), **settings.model_dump()}
        whole = resolve(TrainSettings, [(str(preset), values)])
        with suppress(CharlmError):  # it would not fit into memory
            if is_enough(corpus.split, whole.sequence_length):
                seconds[name] = round(training_seconds(whole, corpus), 1)
        bar.update()
    wanted = ["default", "tiny"]
    if len(corpus.text) > 10_000_000:  # what that preset was made for
        wanted.insert(0, "large")
    suggested = next((name for name in wanted if name in seconds), None)
    return {"training_seconds": seconds, "suggested_preset": suggested}


def _page(report: dict[str, Any]) -> str:
    unit = report["unit"]
    lines = [
        f"{report['name']}: {pluralize(report['files'], 'file')}, {pluralize(report['size_bytes'], 'byte')}, "
        + f"{report[f'{unit}s']:,} characters, " * (unit == "character")
        + f"{report[f'distinct_{unit}s']:,} distinct {unit}s",
        "",
        *_row("Split", ", ".join(f"{name} {end - start:,}" for name, (start, end) in report["ranges"].items())),
    ]
    if unseen := report["unseen_in_training"]:
        lines += _row("", f"outside the training split only: {pluralize(unseen, f'distinct {unit}')}")
    if report["advice"]:
        lines += _row("", report["advice"])
    if report["documents"]:
        lines += _row("Documents", f"{report['documents']:,}")
    of = report["lines"]
    ends = {name: count for name, count in report["line_ends"].items() if count}
    named = {"crlf": "\\r\\n", "lone_lf": "\\n", "lone_cr": "\\r"}
    mixed = "mixed: " * (len(ends) > 1) + ", ".join(f"{count:,} {named[name]}" for name, count in ends.items())
    unify = "; unify them with --newline lf" * (len(ends) > 1 and unit == "character")
    frequent = report["most_frequent"][:60]
    lines += [
        *_row(
            "Lines",
            f"{of['lines']:,}; length: median {of['median']:,.0f}, mean {of['mean']:,.1f}, longest {of['longest']:,}",
        ),
        *_row("Line endings", (mixed or "none") + unify),
        *_row("Most frequent", repr(bytes(frequent) if unit == "byte" else frequent)),
        *_listed(
            f"Rare {unit}s",
            report["rare"],
            f"{report[f'rare_{unit}s']:,} with fewer than 10 occurrences" + "; see --min-count" * (unit == "character"),
        ),
        *_listed(f"Control {unit}s", report["control"], pluralize(report[f"control_{unit}s"], "occurrence")),
        *_row("Overlap", _overlap(report["overlap"], unit)),
        *_baselines(report["baselines"], unit),
    ]
    if report["suggested_preset"]:
        took = ", ".join(_preset(name, seconds) for name, seconds in report["training_seconds"].items())
        lines += _row("Training time", took)
        lines += _row("", f"suggested preset: charlm train … --config {report['suggested_preset']}")
    else:
        why = "the text is too short, or its vocabulary is too large for this machine's memory"
        lines += _row("Training time", f"no preset fits: {why}")
    return "\n".join(lines)


def _row(title: str, text: str) -> list[str]:
    return [f"{title:<{TITLE_WIDTH}}{text}"]


def _listed(title: str, characters: list[dict[str, Any]], total: str) -> list[str]:
    if not characters:
        return _row(title, "none")
    lines = _row(title, total)
    for entry in characters[:SHOWN]:
        lines += _row("", f"{entry['count']:>9,} × {entry['description']}")
    return lines + _row("", "…") * (len(characters) > SHOWN)


def _overlap(overlap: dict[str, Any], unit: str) -> str:
    covered, longest, length = overlap[f"validation_{unit}s"], overlap["longest"], overlap["min_length"]
    if not covered:
        checked = overlap[f"validation_{unit}s_checked"]
        return f"no passage of {length} {unit}s occurs both in training and in the first {checked:,} of validation"
    passage = longest[0]
    return (
        f"{covered:,} validation {unit}s also occur in training, in passages of {length} or more; "
        f"longest: {passage['length']:,}, at validation offset {passage['validation_start']:,}"
    )


def _baselines(baselines: dict[str, Any], unit: str) -> list[str]:
    ngrams = baselines["ngram_bits"]
    best = min(range(len(ngrams)), key=ngrams.__getitem__)
    lines = _row(
        "Baselines",
        f"bits per {unit} on {baselines[f'validation_{unit}s']:,} validation {unit}s, built from "
        f"{baselines[f'train_{unit}s']:,} training {unit}s",
    )
    for order, bits in enumerate(ngrams):
        lines += _row("", f"{bits:6.3f}  n-gram, context of {order}" + ": the best n-gram model" * (order == best))
    return lines + _row("", f"{baselines['xz_bits']:6.3f}  xz")


def _preset(name: str, seconds: float) -> str:
    return f"{name} {seconds:.0f} s" if seconds < 100 else f"{name} {seconds / 60:.1f} min"
