"""``charlm sample``."""

import io
import sys
from pathlib import Path

import click

from charlm.commands.options import (
    SectionedCommand,
    common_options,
    device_option,
    given,
    run_path,
    settings_options,
    standard_output,
    threads_option,
)
from charlm.config import SampleSettings, resolve


@click.command("sample", cls=SectionedCommand)
@click.argument("run", type=run_path)
@click.option(
    "--checkpoint", default="best", metavar="best|last|STEP", help="Which checkpoint of the run.  [default: best]"
)
@threads_option
@device_option
@common_options
@settings_options({"Text": SampleSettings})
@click.pass_context
def command(
    context: click.Context, /, run: Path, checkpoint: str, threads: int, device: str, quiet: bool, **options: object
) -> None:
    """Write new text with the model in RUN, a run's folder or one of its checkpoints.

    The text goes to standard output as it is made. Several texts are made side by side and come when all are done, with
    separators on standard error.

    \b
    charlm sample checkpoints/play
    charlm sample checkpoints/play --prompt "ROMEO:" --temperature 0.7
    charlm sample checkpoints/play --top-k 10 --num-samples 3 --seed 42
    """
    settings = resolve(SampleSettings, given(context, SampleSettings))
    from charlm import runs
    from charlm.generation.streams import Sampler
    from charlm.model.device import choose_device, prepare_process

    place = choose_device(device)
    prepare_process(threads)
    chosen = runs.read(run, checkpoint)
    separator = chosen.settings.document_separator
    sampler = Sampler(chosen.model(place), chosen.vocabulary, settings, document_separator=separator)
    if isinstance(sys.stdout, io.TextIOWrapper):  # an output that lacks a character gets a question mark for it
        sys.stdout.reconfigure(errors="replace")
    with standard_output():
        if settings.num_samples == 1:
            sys.stdout.write(settings.prompt)
            for character in sampler.stream():
                sys.stdout.write(character)
                sys.stdout.flush()
            sys.stdout.write("\n")
            return
        for sample in sampler.samples():
            if not quiet:
                click.echo(f"--- {sample.index + 1} of {settings.num_samples}, seed {sample.seed}", err=True)
            sys.stdout.write(f"{settings.prompt}{sample.text}\n")
            sys.stdout.flush()
