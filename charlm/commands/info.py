"""``charlm info``."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import click

from charlm.commands import completion
from charlm.commands.layout import Command, argument, option
from charlm.commands.options import checkpoint_option, common_options, format_value, json_option, run_path
from charlm.commands.output import Output, output_option
from charlm.config import SECTIONS
from charlm.errors import CharlmError, CharlmWarning, UsageError, pluralize
from charlm.records import to_json

if TYPE_CHECKING:
    from charlm.model.system import SystemReport
    from charlm.summary import RunSummary


@click.command("info", cls=Command)
@argument(
    "runs",
    type=run_path,
    nargs=-1,
    description="Run folders, or checkpoints of runs.",
    shell_complete=completion.runs,
)
@option("--system", is_flag=True, help="Show this machine and what charlm runs on it instead; needs no run.")
@checkpoint_option
@json_option
@output_option
@common_options
def command(runs: tuple[Path, ...], system: bool, checkpoint: str, json: bool, output: Output, quiet: bool) -> None:
    """Show a run's settings, parameter counts, vocabulary, metrics and environment; compare several RUNS in a table.

    \b
    charlm info checkpoints/play
    charlm info checkpoints/*/
    charlm info checkpoints/play --json --output play.json
    charlm info --system
    """
    if system == bool(runs):
        raise UsageError("info needs either RUNS or --system.", "See charlm info --help.")
    if system:
        from charlm.model.system import describe_system

        report = describe_system()
        output.write_json(to_json(report)) if json else output.write(_system_page(report) + "\n")
        return
    from charlm.summary import summarize

    summaries = []
    for run in runs:
        try:
            summaries.append(summarize(run, checkpoint))
        except CharlmError as error:
            if not summaries and run is runs[-1]:  # there is nothing to show
                raise
            warnings.warn(f"skipped: {error.message}", CharlmWarning, stacklevel=1)
    if json:
        output.write_json(to_json(summaries if len(runs) > 1 else summaries[0]))
    else:
        output.write((_format_table(summaries) if len(runs) > 1 else _format_run(summaries[0])) + "\n")


def _system_page(report: "SystemReport") -> str:
    fixed = " (OMP_NUM_THREADS)" if report.threads_fixed else ""
    lines = {
        "charlm": f"{report.charlm}, Python {report.python}, torch {report.torch}, numpy {report.numpy}",
        "System": report.system,
        "Processor": f"{report.processor}, {pluralize(report.processors, 'processor')} available",
        "Memory": f"{report.memory_bytes / 2**30:.1f} GiB available",
        "Device": f"{report.device}, {report.precision}",
        "Threads": f"{report.threads}{fixed}",
        "Native kernels": report.native_kernels,
        "Training": f"{report.training_kernel} (default preset)",
        "Sampling": f"{report.sampling_kernel} (default preset)",
    }
    return "\n".join(f"{name + ':':<16}{value}" for name, value in lines.items())


def _format_run(run: "RunSummary") -> str:
    lines = [f"{run.run}, step {run.step}", ""]
    for title, kind in SECTIONS.items():
        settings = [f"{name} {format_value(getattr(run.settings, name))}" for name in kind.model_fields]
        lines.append(f"{title}: {', '.join(settings)}")
    lines += ["", f"Parameters: {run.parameters['total']:,}"]
    lines += [f"  {part:<12} {count:>12,}" for part, count in run.parameters.items() if part != "total"]
    lines += ["", f"Vocabulary: {_format_vocabulary(run)}"]
    lines += ["", "Metrics at this checkpoint:"]
    lines += [f"  {name:<32} {_format_number(value)}" for name, value in run.metrics.items()]
    lines += [
        "",
        "Environment: " + ", ".join(f"{name} {value}" for name, value in run.environment.model_dump().items()),
    ]
    lines += ["Checkpoints: " + ", ".join(str(step) for step in run.checkpoints)]
    return "\n".join(lines)


def _format_vocabulary(run: "RunSummary") -> str:
    size, unit = len(run.vocabulary), run.settings.unit
    if unit == "byte":
        return f"{size} bytes"
    return f"{pluralize(size, unit)}: {''.join(run.vocabulary)!r}"[:2000]


def _format_table(runs: "list[RunSummary]") -> str:
    rows = [("run", "step", "model", "parameters", "vocabulary", "val nats", "val bits", "exact nats", "minutes")]
    for run in runs:
        settings, metrics = run.settings, run.metrics
        rows.append(
            (
                run.run,
                str(run.step),
                f"{settings.num_layers} × {settings.hidden_size} {settings.cell}",
                f"{run.parameters['total']:,}",
                str(len(run.vocabulary)),
                _format_number(metrics.get("loss_validation")),
                _format_number(metrics.get(f"bits_per_{settings.unit}_validation")),
                _format_number(metrics.get("loss_validation_exact")),
                f"{run.training_seconds / 60:.1f}",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _format_number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2g}" if 0 < abs(value) < 1e-3 else f"{value:.4f}"
