"""``charlm corpus``: what is done to texts before anything is trained on them."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from charlm.commands.options import (
    SectionedCommand,
    cache_option,
    common_options,
    given,
    json_option,
    settings_options,
)
from charlm.commands.terminal import print_json, standard_output
from charlm.config import CorpusSettings, TrainSettings, preset_path, read_toml, resolve
from charlm.corpus import download
from charlm.errors import CharlmError

SUGGESTED = ("tiny", "default")  # whose time is taken; on a GPU, large too
SHOWN = 10  # of a list, where people read it; JSON has more


@click.group("corpus")
def command() -> None:
    """Download and inspect texts; clear the cache.

    \b
    charlm corpus get tinyshakespeare
    charlm corpus inspect play.txt
    charlm corpus clean
    """


class KnownCorpora(click.Command):
    """A command whose help lists the corpora that can be had."""

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


@command.command("get", cls=KnownCorpora, short_help="Download and verify a well-known corpus.")
@click.argument("name")
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=download.DOWNLOADS,
    help="Folder for NAME.txt; charlm train NAME looks in data.  [default: data]",
)
@common_options
def get(name: str, folder: Path, quiet: bool) -> None:
    """Download the corpus NAME, verify its checksum and print its path.

    An existing file is verified and never overwritten.

    \b
    charlm corpus get tinyshakespeare
    charlm train tinyshakespeare
    """
    path = download.place(name, folder)
    if download.is_there(name, folder):
        if not quiet:
            click.echo(f"{path} already exists and its checksum is correct.", err=True)
    else:
        size_bytes = download.CORPORA[name].size_bytes
        with tqdm(total=size_bytes, desc=name, unit="B", unit_scale=True, disable=quiet or None, leave=False) as bar:
            download.get(name, folder, bar.update)
    with standard_output():
        click.echo(path)


@command.command("inspect", cls=SectionedCommand, short_help="Show statistics of a text, and baselines for a model.")
@click.argument("corpus", nargs=-1)
@cache_option
@json_option
@common_options
@settings_options({"Text": CorpusSettings})
@click.pass_context
def inspect(
    context: click.Context,
    /,
    corpus: tuple[str, ...],
    cache_dir: Path | None,
    as_json: bool,
    quiet: bool,
    **options: object,
) -> None:
    """Inspect CORPUS before training on it: files, folders, glob patterns, or - for standard input.

    Reports size, characters, rare and control characters, line lengths, overlap between training and validation text,
    the estimated training time of each preset, and baselines to beat: bits per character of n-gram models and of xz.

    \b
    charlm corpus inspect play.txt
    charlm corpus inspect letters/ --document-per-file --json
    zcat old.txt.gz | charlm corpus inspect - --encoding cp1252
    """
    settings = resolve(CorpusSettings, given(context, CorpusSettings))
    from charlm.corpus import inspection, loading

    loaded = loading.load(corpus, settings, 1, cache_dir, quiet)
    stages = inspection.STAGES + len(SUGGESTED)
    with tqdm(total=stages, desc="inspecting", disable=quiet or None, leave=False) as bar:
        report = inspection.inspect(loaded, bar.update)
        report.update(_presets(loaded, settings, bar))
    with standard_output():
        print_json(report) if as_json else click.echo(_page(report))


@command.command("clean", short_help="Clear the cache of encoded texts.")
@cache_option
@common_options
def clean(cache_dir: Path | None, quiet: bool) -> None:
    """Clear the cache of encoded texts. They are rebuilt when needed; your texts and runs are not touched.

    \b
    charlm corpus clean
    """
    from charlm.corpus import cache

    folder = cache_dir or cache.default_folder()
    freed_bytes = cache.clean(folder)
    if not quiet:
        click.echo(f"Freed {freed_bytes / 1e6:,.1f} MB in {folder}.", err=True)


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
    files = f"{report['files']:,} file{'s' * (report['files'] > 1)}, "
    lines = [
        f"{report['name']}: {files}{report['size_bytes']:,} bytes, {report['characters']:,} {unit}s, "
        f"{report['distinct_characters']:,} distinct",
        "",
        "Split        " + ", ".join(f"{name} {end - start:,}" for name, (start, end) in report["ranges"].items()),
    ]
    if report["only_outside_training"]:
        lines.append(
            f"             {report['only_outside_training']:,} distinct {unit}s never occur in the training split"
        )
    if report["documents"]:
        lines.append(f"Documents    {report['documents']:,}")
    of = report["lines"]
    ends = {name: count for name, count in report["line_ends"].items() if count}
    named = {"crlf": "\\r\\n", "lone_lf": "\\n", "lone_cr": "\\r"}
    mixed = "mixed: " * (len(ends) > 1) + ", ".join(f"{count:,} {named[name]}" for name, count in ends.items())
    lines += [
        f"Lines        {of['lines']:,}; length: median {of['median']:,.0f}, mean {of['mean']:,.1f}, "
        f"longest {of['longest']:,}",
        f"Line ends    {mixed or 'none'}" + ("; unify them with --newline lf" if len(ends) > 1 else ""),
        f"Frequent     {report['most_frequent'][:60]!r}",
        *_listed(
            "Rare", report["rare_characters"], report["rare"], f"{unit}s occur fewer than 10 times; see --min-count"
        ),
        *_listed("Control", report["control_characters"], report["control"], "occurrences"),
        _repeated(report["repeats"], unit),
        "",
        *_floors(report["floors"], unit),
        "",
    ]
    if report["suggested_preset"]:
        took = ", ".join(_preset(name, seconds) for name, seconds in report["training_seconds"].items())
        lines += [
            f"Training     {took}",
            f"             suggested preset: charlm train … --config {report['suggested_preset']}",
        ]
    else:
        lines += [
            "Training     no preset fits: the text is too short, or its vocabulary too large for this machine's memory"
        ]
    return "\n".join(lines)


def _listed(title: str, count: int, characters: list[dict[str, Any]], what: str) -> list[str]:
    lines = [f"{title:<13}{count:,} {what}" if count else f"{title:<13}none"]
    lines += [f"             {entry['count']:>9,} × {entry['description']}" for entry in characters[:SHOWN]]
    return [*lines, "             …"] if len(characters) > SHOWN else lines


def _repeated(repeats: dict[str, Any], unit: str) -> str:
    covered, longest = repeats["validation_characters"], repeats["longest"]
    if not covered:
        return (
            f"Overlap      no passage of {repeats['at_least']} {unit}s occurs both in training and in the first "
            f"{repeats['validation_looked_at']:,} of validation"
        )
    stretch = longest[0]
    return (
        f"Overlap      {covered:,} validation {unit}s also occur in training, in passages of {repeats['at_least']}+; "
        f"longest: {stretch['length']:,}, at validation offset {stretch['validation_start']:,}"
    )


def _floors(floors: dict[str, Any], unit: str) -> list[str]:
    best = min(range(len(floors["ngram_bits"])), key=floors["ngram_bits"].__getitem__)
    return [
        f"Baselines    bits per {unit} on {floors['validation_characters']:,} validation {unit}s, built from "
        f"{floors['train_characters']:,} training {unit}s",
        *(
            f"             {bits:6.3f}  order {order}{'  best n-gram model' if order == best else ''}"
            for order, bits in enumerate(floors["ngram_bits"])
        ),
        f"             {floors['xz_bits']:6.3f}  xz",
    ]


def _preset(name: str, seconds: float) -> str:
    return f"{name} {seconds:.0f} s" if seconds < 100 else f"{name} {seconds / 60:.1f} min"
