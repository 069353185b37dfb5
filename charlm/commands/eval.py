"""``charlm eval``."""

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from charlm.commands.layout import Command, option
from charlm.commands.options import (
    cache_option,
    checkpoint_option,
    collect_sources,
    common_options,
    device_option,
    evaluation_text_options,
    integer_option,
    json_option,
    run_argument,
    run_path,
    settings_options,
    text_argument,
    threads_option,
)
from charlm.commands.output import Output, output_file, output_option
from charlm.commands.progress import BalancedBar
from charlm.config import DynamicSettings, resolve
from charlm.errors import UsageError, pluralize
from charlm.records import to_json

if TYPE_CHECKING:
    from charlm.evaluation.report import EvaluationReport


@click.command("eval", cls=Command)
@run_argument
@text_argument
@evaluation_text_options
@checkpoint_option
@integer_option(
    "--num-segments",
    1,
    "Split the text into N segments evaluated in parallel: faster, approximate; 1: exact.",
    default=1,
    metavar="N",
)
@option("--baselines", is_flag=True, help="Also report n-gram and xz baselines built from the training text.")
@integer_option(
    "--independent-windows", 1, "Also report the loss with windows of N characters read independently.", metavar="N"
)
@option("--context-loss", is_flag=True, help="Also report the loss by context length, from a zero state.")
@option(
    "--context-plot",
    type=run_path,
    metavar="FILE.svg",
    help="Plot loss by context length to an SVG file; implies --context-loss.",
)
@option("--dynamic", is_flag=True, help="Also report dynamic evaluation: keep learning from the text (Krause et al.).")
@device_option
@threads_option
@cache_option
@json_option
@output_option
@common_options
@settings_options({"Dynamic evaluation": DynamicSettings})
@click.pass_context
def command(
    context: click.Context,
    /,
    run: Path,
    text: tuple[str, ...],
    split: str | None,
    encoding: str | None,
    checkpoint: str,
    num_segments: int,
    baselines: bool,
    independent_windows: int | None,
    context_loss: bool,
    context_plot: Path | None,
    dynamic: bool,
    device: str,
    threads: int,
    cache_dir: Path | None,
    json: bool,
    output: Output,
    quiet: bool,
    **options: object,
) -> None:
    """Measure the loss of the model in RUN on TEXT.

    Every character is predicted once, given all preceding text. A character outside the vocabulary costs the unknown
    token plus the cost of telling which character it is; a model without an unknown token rejects it.

    \b
    charlm eval checkpoints/play
    charlm eval checkpoints/play hamlet.txt letters/ --encoding latin-1
    charlm eval checkpoints/play --split test --json
    charlm eval checkpoints/play --output report.txt
    charlm eval checkpoints/play --checkpoint latest --num-segments 32
    charlm eval checkpoints/play --baselines --independent-windows 256 --context-loss
    charlm eval checkpoints/play --context-plot context.svg
    charlm eval checkpoints/play --dynamic --dynamic-segment-length 20
    charlm eval checkpoints/play --dynamic --dynamic-learning-rate 3e-5 --dynamic-decay 0.01
    """
    sources = collect_sources(context, DynamicSettings)
    settings = resolve(DynamicSettings, sources)
    if not dynamic and sources[-1].values:
        raise UsageError("--dynamic-* options only apply to dynamic evaluation.", "Add --dynamic.")
    if not json and (context_loss or context_plot):
        output.require("–")
    from charlm import runs
    from charlm.corpus.vocabulary import SHORT_UNITS
    from charlm.evaluation import evaluation_text
    from charlm.evaluation.report import ExtraMetrics, evaluate_all
    from charlm.model.device import choose_device, configure_torch
    from charlm.reports.context_plot import render_context_plot

    torch_device = choose_device(device)
    balancer = configure_torch(threads)
    saved = runs.load_model(run, checkpoint)
    unit = saved.settings.unit

    def progress(what: str, characters: int) -> BalancedBar:
        short = SHORT_UNITS[unit]
        return BalancedBar(balancer, quiet, total=characters, desc=what, unit=short, unit_scale=True, leave=False)

    model = saved.build_model(torch_device)
    evaluated = evaluation_text.select_text(text, split, encoding, saved, run, cache_dir, quiet)
    run_corpus = None
    if options_with_corpus := [name for name, value in (("--baselines", baselines), ("--dynamic", dynamic)) if value]:
        run_corpus = evaluation_text.load_run_corpus(
            saved, run, cache_dir, quiet, instead=f"remove {' and '.join(options_with_corpus)}"
        )
    extra = ExtraMetrics(
        dynamic=settings if dynamic else None,
        independent_window=independent_windows,
        baselines=baselines,
        context_loss=context_loss or context_plot is not None,
    )
    with output_file(context_plot) if context_plot else nullcontext() as svg_file:
        report = evaluate_all(model, evaluated, run_corpus, num_segments, extra, progress)
        if svg_file is not None:
            points = report.context_loss or []
            lengths = [point.context_characters for point in points]
            bits = [point.bits_per_character for point in points]
            svg = render_context_plot(lengths, bits, report.bits_per_character, unit, f"{run}, {evaluated.name}")
            svg_file.write(svg.encode("utf-8", "xmlcharrefreplace"))
    if json:
        output.write_json({"run": str(run), "step": saved.step, **to_json(report, unit)})
    else:
        output.write(_format_report(f"{run}, step {saved.step}", report) + "\n")


def _format_report(model: str, report: "EvaluationReport") -> str:
    unit, segments = report.unit, report.num_segments
    kind = "exact" if report.exact else f"approximate: {pluralize(segments, 'segment')} in parallel"
    lines = [
        f"{model}, on {report.text} ({kind})",
        "",
        _format_loss(f"nats per {unit}", report.nats_per_character),
        _format_loss(f"bits per {unit}", report.bits_per_character),
    ]
    if unit == "character":
        lines.append(_format_loss("bits per byte (UTF-8)", report.bits_per_byte))
    lines += [_format_loss("perplexity", report.perplexity), _format_count(f"{unit}s", report.characters)]
    if report.unknown_characters is not None:
        lines.append(_format_count("unknown characters", report.unknown_characters))
    lines.append(f"  {'seconds':<40}{report.seconds:>10.1f}")
    extra = _format_extra_metrics(report, unit)
    return "\n".join([*lines, "", f"For comparison, in bits per {unit}:", *extra] if extra else lines)


def _format_extra_metrics(report: "EvaluationReport", unit: str) -> list[str]:
    lines = []
    if report.dynamic:
        lines.append(_format_loss("dynamic evaluation", report.dynamic.bits_per_character))
    if windows := report.independent_windows:
        length = pluralize(windows.window_characters, unit)
        lines.append(_format_loss(f"independent windows of {length}", windows.bits_per_character))
    if report.baselines:
        for order, bits in enumerate(report.baselines.ngram_bits):
            lines.append(_format_loss(f"n-gram, context of {order}", bits))
        lines.append(_format_loss("xz", report.baselines.xz_bits))
    for point in report.context_loss or []:
        first = point.context_characters
        last = min(max(2 * first - 1, 0), report.characters - 1)
        context = f"{first}–{last} {unit}s" if last > first else pluralize(first, unit)
        lines.append(_format_loss(f"after {context} of context", point.bits_per_character))
    return lines


def _format_loss(name: str, value: float) -> str:
    return f"  {name:<40}{value:>10.4f}"


def _format_count(name: str, count: int) -> str:
    return f"  {name:<40}{count:>10,}"
