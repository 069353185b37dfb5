"""``charlm plot``."""

from pathlib import Path

import click

from charlm.commands.layout import Command, argument, option
from charlm.commands.options import common_options, run_path
from charlm.commands.output import output_file
from charlm.commands.stdio import ignore_broken_pipe, print_path
from charlm.errors import UsageError


@click.command("plot", cls=Command)
@argument("runs", type=run_path, nargs=-1, required=True, description="Run folders.")
@option(
    "--x",
    "x_axis",
    type=click.Choice(["steps", "characters", "minutes"]),
    default="steps",
    help="Horizontal axis: steps, characters trained on, or minutes of training time.  [default: steps]",
)
@option(
    "--output",
    type=run_path,
    default=Path("learning-curves.svg"),
    metavar="FILE",
    help="Picture to write, as .svg, .png or .pdf.  [default: learning-curves.svg]",
)
@common_options
def command(runs: tuple[Path, ...], x_axis: str, output: Path, quiet: bool) -> None:
    """Plot the learning curves of RUNS: training and validation loss, in nats and in bits per character.

    \b
    charlm plot checkpoints/play
    charlm plot checkpoints/*/ --x minutes --output runs.png
    """
    from charlm.reports.learning_curves import FORMATS, draw_learning_curves, read_curve

    picture_format = output.suffix.lower().removeprefix(".")
    if picture_format not in FORMATS:
        raise UsageError(f"{output}: the name must end in .svg, .png or .pdf.", "Choose another --output.")
    curves = [read_curve(run, x_axis) for run in runs]
    if len({curve.unit for curve in curves}) > 1:
        raise UsageError("Losses per character and per byte cannot be compared.", "Plot these runs apart.")
    with output_file(output) as file:
        file.write(draw_learning_curves(curves, x_axis, picture_format))
    if not quiet:
        with ignore_broken_pipe():
            print_path(output)
