"""``charlm train``."""

from pathlib import Path

import click

from charlm.commands.options import (
    SectionedCommand,
    cache_option,
    common_options,
    given,
    run_path,
    settings_options,
)
from charlm.commands.terminal import standard_output
from charlm.config import SECTIONS, TrainSettings, preset_path, read_toml


@click.command("train", cls=SectionedCommand)
@click.argument("corpus", nargs=-1)
@click.option("--config", default="default", help="Settings: a preset (default, tiny, large) or a TOML file.")
@click.option("--out", type=run_path, default=None, help="Run folder.  [default: checkpoints/NAME of the text]")
@click.option(
    "--resume", default=None, metavar="PATH|auto", help="Go on with a run; auto: if there is one, else start."
)
@click.option("--overwrite", is_flag=True, help="Replace the run that stands in the run folder.")
@cache_option
@common_options
@settings_options(SECTIONS)
@click.pass_context
def command(
    context: click.Context,
    /,
    corpus: tuple[str, ...],
    config: str,
    out: Path | None,
    resume: str | None,
    overwrite: bool,
    cache_dir: Path | None,
    quiet: bool,
    **options: object,
) -> None:
    """Train a model on CORPUS, text files; without any, on the built-in corpus: this Python's standard library.

    Settings come from flags, then CHARLM_TRAIN_… variables, then --config, then the defaults shown here. The run folder
    gets checkpoints, metrics.jsonl and TensorBoard's files; its path is printed at the end.

    \b
    charlm train play.txt                         the defaults: about 5 minutes on 2 cores
    charlm train play.txt --config tiny           some seconds, to have a look
    charlm train play.txt --max-minutes 60        an hour
    charlm train --resume checkpoints/play        go on where it stopped
    tensorboard --logdir checkpoints              watch
    """
    layers = given(context, TrainSettings)
    preset = preset_path(config)
    if resume is None or context.get_parameter_source("config") is not click.core.ParameterSource.DEFAULT:
        layers = [(str(preset), read_toml(preset)), *layers]
    from charlm.training import session  # torch comes with it, so only once the command line is known to be right

    plan = session.plan(
        corpus, layers, out=out, resume=resume, overwrite=overwrite, cache_folder=cache_dir, quiet=quiet
    )
    if not quiet:
        for line in plan.announcement():
            click.echo(line, err=True)
    exact = plan.train(quiet)
    if not quiet:
        unit = plan.settings.unit
        click.echo(
            f"Validation: {exact.nats_per_character:.4f} nats, {exact.bits_per_character:.4f} bits per {unit} "
            f"(exact, of the best checkpoint).\n"
            f'Sample from it: charlm sample {plan.run} --prompt "…"',
            err=True,
        )
    with standard_output():
        click.echo(plan.run)
