"""``charlm eval``."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from charlm.commands.options import (
    SectionedCommand,
    cache_option,
    checkpoint_option,
    common_options,
    device_option,
    given,
    json_option,
    output_file,
    run_path,
    settings_options,
    subject_options,
    threads_option,
)
from charlm.commands.terminal import print_json, standard_output
from charlm.config import DynamicSettings, resolve
from charlm.errors import UsageError


@click.command("eval", cls=SectionedCommand)
@click.argument("run", type=run_path)
@click.argument("text", nargs=-1)
@subject_options
@checkpoint_option
@click.option(
    "--lanes",
    type=click.IntRange(min=1),
    default=1,
    help="Split the text into N parts read in parallel: faster, but approximate.  [default: 1, exact]",
)
@click.option("--floors", is_flag=True, help="Also report n-gram and xz baselines built from the training text.")
@click.option(
    "--windowed",
    type=click.IntRange(min=1),
    metavar="N",
    help="Also report the loss with windows of N characters read independently.",
)
@click.option("--cold-start", is_flag=True, help="Also report the loss by context length, from a zero state.")
@click.option(
    "--curve",
    type=run_path,
    metavar="FILE.svg",
    help="Plot loss by context length to an SVG file; implies --cold-start.",
)
@click.option(
    "--dynamic", is_flag=True, help="Also report dynamic evaluation: keep learning from the text (Krause et al.)."
)
@device_option
@threads_option
@cache_option
@json_option
@common_options
@settings_options({"Dynamic evaluation": DynamicSettings})
@click.pass_context
def command(
    context: click.Context,
    /,
    run: Path,
    text: tuple[str, ...],
    part: str | None,
    encoding: str | None,
    checkpoint: str,
    lanes: int,
    floors: bool,
    windowed: int | None,
    cold_start: bool,
    curve: Path | None,
    dynamic: bool,
    device: str,
    threads: int,
    cache_dir: Path | None,
    as_json: bool,
    quiet: bool,
    **options: object,
) -> None:
    """Measure the loss of the model in RUN on TEXT: files, folders, glob patterns, or - for standard input.

    Without TEXT, uses the validation split of the text the run was trained on. Every character is predicted once, given
    all preceding text. A character outside the vocabulary costs the unknown token plus the cost of telling which
    character it is; a model without an unknown token rejects it.

    \b
    charlm eval checkpoints/play
    charlm eval checkpoints/play hamlet.txt letters/ --encoding latin-1
    charlm eval checkpoints/play --part test --json
    charlm eval checkpoints/play --checkpoint last --lanes 32
    charlm eval checkpoints/play --floors --windowed 256 --cold-start
    charlm eval checkpoints/play --curve cold.svg
    charlm eval checkpoints/play --dynamic --dynamic-segment-length 20
    charlm eval checkpoints/play --dynamic --dynamic-learning-rate 3e-5 --dynamic-decay 0.01
    """
    layers = given(context, DynamicSettings)
    settings = resolve(DynamicSettings, layers)
    if not dynamic and layers[-1][1]:
        raise UsageError("--dynamic-* options only apply to dynamic evaluation.", "Add --dynamic.")
    from charlm import runs
    from charlm.evaluation import subject
    from charlm.evaluation.report import Beside, measure
    from charlm.model.device import choose_device, prepare_process
    from charlm.reports.curve import picture

    place = choose_device(device)
    prepare_process(threads)
    saved = runs.read(run, checkpoint)
    unit = {"character": "char", "byte": "byte"}[saved.settings.unit]

    def progress(what: str, characters: int) -> "tqdm[Any]":
        return tqdm(total=characters, desc=what, unit=unit, unit_scale=True, disable=quiet or None, leave=False)

    model = saved.model(place)
    tried = subject.choose(text, part, encoding, saved, run, cache_dir, quiet)
    own = subject.own_corpus(saved, run, cache_dir, quiet) if floors or dynamic else None
    beside = Beside(settings if dynamic else None, windowed, floors, cold_start or curve is not None)
    with output_file(curve) if curve else nullcontext() as drawing:
        measured = measure(model, tried, own, lanes, beside, progress)
        if drawing is not None:
            seen = [point["characters_seen"] for point in measured["cold_start"]]
            bits = [point["bits_per_character"] for point in measured["cold_start"]]
            drawn = picture(seen, bits, measured["bits_per_character"], f"{run}, {tried.name}")
            drawing.write(drawn.encode("utf-8", "xmlcharrefreplace"))
    report = {"run": str(run), "step": saved.step, **measured}
    with standard_output():
        print_json(report) if as_json else click.echo(_page(report))


def _page(report: dict[str, Any]) -> str:
    unit, lanes = report["unit"], report["lanes"]
    kind = "exact" if report["exact"] else f"approximate: {lanes} part{'s' * (lanes > 1)} in parallel"
    lines = [f"{report['run']}, step {report['step']}, on {report['text']} ({kind})", ""]
    figures = {
        f"nats per {unit}": "nats_per_character",
        f"bits per {unit}": "bits_per_character",
        "bits per byte": "bits_per_byte",  # with a model of bytes, the same once more, and one line
        "perplexity": "perplexity",
    }
    lines += [_line(title, report[name]) for title, name in figures.items()]
    for title, name in ((f"{unit}s", "characters"), (f"unknown {unit}s", "unknown_characters")):
        lines.append(f"  {title:<40}{report[name]:>10,}")
    lines.append(f"  {'seconds':<40}{report['seconds']:>10.1f}")
    beside = []
    if "dynamic_bits_per_character" in report:
        beside.append(_line("dynamic evaluation", report["dynamic_bits_per_character"]))
    if "windowed_bits_per_character" in report:
        window = f"independent windows of {report['windowed_characters']:,} {unit}s"
        beside.append(_line(window, report["windowed_bits_per_character"]))
    if floors := report.get("floors"):
        beside += [_line(f"n-gram, context of {order}", bits) for order, bits in enumerate(floors["ngram_bits"])]
        beside.append(_line("xz", floors["xz_bits"]))
    for point in report.get("cold_start", []):
        beside.append(_line(f"after {point['characters_seen']} {unit}s of context", point["bits_per_character"]))
    return "\n".join([*lines, "", f"For comparison, in bits per {unit}:", *beside] if beside else lines)


def _line(name: str, figure: float) -> str:
    return f"  {name:<40}{figure:>10.4f}"
