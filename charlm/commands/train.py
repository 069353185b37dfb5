"""``charlm train``."""

from pathlib import Path

import click

from charlm.commands import completion
from charlm.commands.layout import Command, option
from charlm.commands.options import (
    TextName,
    cache_option,
    collect_sources,
    common_options,
    corpus_argument,
    run_path,
    settings_options,
)
from charlm.commands.stdio import ignore_broken_pipe, print_path
from charlm.config import SECTIONS, SettingsSource, TrainSettings, preset_path
from charlm.console import console
from charlm.errors import DivergedError, TrainingInterruptedError, quote


@click.command("train", cls=Command)
@corpus_argument
@option(
    "--config",
    default="default",
    metavar="NAME|FILE.toml",
    shell_complete=completion.configurations,
    help="Preset (default, tiny, large) or TOML file.  [default: default]",
)
@option(
    "--out",
    type=run_path,
    default=None,
    help="Run folder.  [default: checkpoints/NAME, named after the first text]",
    shell_complete=completion.folders,
)
@option(
    "--resume",
    type=TextName(),
    default=None,
    metavar="PATH|auto",
    help="Resume a run; auto: resume if the run exists, else start it.",
    shell_complete=completion.runs_or_auto,
)
@option("--overwrite", is_flag=True, help="Replace an existing run.")
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
    """Train a model on CORPUS.

    Settings are taken from the command line, then from CHARLM_TRAIN_* environment variables, then from --config, then
    from the defaults shown here. Checkpoints, metrics.jsonl and TensorBoard logs are written to the run folder, whose
    path is printed at the end.

    \b
    charlm train play.txt                         defaults: about 5 minutes on 2 cores
    charlm train play.txt --config tiny           quick test: a few seconds
    charlm train play.txt --max-minutes 60        train for an hour
    charlm train --resume checkpoints/play        resume an interrupted run
    torchrun … -m charlm train play.txt           several processes or GPUs: see docs/scaling.md
    tensorboard --logdir checkpoints              follow the run in a browser
    """
    sources = collect_sources(context, TrainSettings)
    preset = preset_path(config)
    if resume is None or context.get_parameter_source("config") is not click.core.ParameterSource.DEFAULT:
        sources = [SettingsSource.file(preset), *sources]
    from charlm.training.plan import plan_training  # torch comes with it, so only once the command line is right
    from charlm.training.request import TrainingRequest

    plan = plan_training(TrainingRequest(corpus, sources, out, resume, overwrite, cache_dir, quiet))
    try:
        exact = plan.train(quiet)
    except (DivergedError, TrainingInterruptedError) as error:
        if plan.ranks.is_main:
            raise
        raise SystemExit(error.exit_code) from None  # all processes stopped together, and the first says why
    if not plan.ranks.is_main:
        return
    if not quiet:
        unit = plan.settings.unit
        console.print_line(
            f"Best checkpoint, exact validation loss: {exact.nats_per_character:.4f} nats, "
            f"{exact.bits_per_character:.4f} bits per {unit}.\n"
            f'Generate text with: charlm sample {quote(plan.run)} --prompt "…"',
        )
    with ignore_broken_pipe():
        print_path(plan.run)
