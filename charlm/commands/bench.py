"""``charlm bench``."""

from typing import TYPE_CHECKING

import click

from charlm.commands import completion
from charlm.commands.layout import Command, option
from charlm.commands.options import (
    collect_sources,
    common_options,
    integer_option,
    json_option,
    settings_options,
)
from charlm.commands.output import Output, output_option
from charlm.config import (
    TYPICAL_CHARACTERS,
    BatchSettings,
    BenchSettings,
    DeviceSettings,
    ModelSettings,
    RegularizationSettings,
    SettingsSource,
    SourceKind,
    TrainSettings,
    choose_automatic,
    preset_path,
    resolve,
)
from charlm.console import open_bar
from charlm.errors import CharlmError, pluralize
from charlm.records import to_json

if TYPE_CHECKING:
    from charlm.benchmark.report import BenchmarkReport


@click.command("bench", cls=Command)
@option(
    "--config",
    default="default",
    metavar="NAME|FILE.toml",
    help="Preset or TOML file.  [default: default]",
    shell_complete=completion.configurations,
)
@integer_option("--rounds", 1, "Timed rounds; the median is reported.", default=5)
@json_option
@output_option
@common_options
@settings_options(
    {
        "Model": ModelSettings,
        "Regularization": RegularizationSettings,
        "Batching": BatchSettings,
        "Device": DeviceSettings,
    }
)
@click.pass_context
def command(
    context: click.Context,
    /,
    config: str,
    rounds: int,
    json: bool,
    output: Output,
    quiet: bool,
    **options: object,
) -> None:
    """Benchmark training and sampling, in characters per second, against plain PyTorch loops.

    Training on random ids is compared with the same model built on nn.LSTM, and with a model shaped like char-rnn's
    (embedding size = hidden size). Sampling, of one text and of 64 in parallel, is compared with calling nn.LSTM or
    nn.LSTMCell once per character. Where charlm's own kernels run, charlm also competes without them (--kernel torch).
    A setting that is auto has its value for a text of 1,000,000 characters.
    All candidates take turns within one run. The machine's matrix multiplication speed is reported for reference.

    \b
    charlm bench
    charlm bench --hidden-size 512 --batch-size 64 --sequence-length 64
    charlm bench --config tiny --json
    """
    if not json:
        output.require("×")
    preset = preset_path(config)
    automatic = choose_automatic(TYPICAL_CHARACTERS)
    train_settings = resolve(TrainSettings, [SettingsSource.file(preset)], automatic)
    preset_values = train_settings.model_dump(include=set(BenchSettings.model_fields))
    settings = resolve(
        BenchSettings,
        [SettingsSource(str(preset), preset_values, SourceKind.FILE), *collect_sources(context, BenchSettings)],
        automatic,
    )
    from charlm.benchmark import report
    from charlm.model.device import OUT_OF_MEMORY_MESSAGES, configure_torch

    configure_torch(settings.threads)
    try:
        with open_bar(quiet, total=report.count_measurements(settings, rounds), desc="measuring", leave=False) as bar:
            result = report.run_benchmark(settings, rounds, bar.update)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(words in str(error) for words in OUT_OF_MEMORY_MESSAGES):
            raise
        raise CharlmError("Out of memory.", "Reduce --batch-size, --sequence-length or --hidden-size.") from None
    output.write_json(to_json(result)) if json else output.write(_format_report(result) + "\n")


def _format_report(result: "BenchmarkReport") -> str:
    settings, environment = result.settings, result.environment
    lines = [
        f"{settings.num_layers} × {settings.hidden_size} {settings.cell}, embedding {settings.embedding_size}, "
        f"batch {settings.batch_size} × {settings.sequence_length}, "
        f"{environment.precision} on {environment.gpu or environment.device}, "
        f"{pluralize(environment.threads, 'thread')}, "
        f"torch {environment.torch}; median of {pluralize(result.rounds, 'round')}"
    ]
    for title, speeds in (
        ("training", result.training_characters_per_second),
        ("sampling one text", result.sampling_1_characters_per_second),
        ("sampling 64 texts in parallel", result.sampling_64_characters_per_second),
    ):
        lines += ["", f"{title}, characters per second"]
        for name, speed in speeds.items():
            ratio = "" if name == "charlm" else f"   charlm is {speeds['charlm'] / speed:.2f}× as fast"
            lines.append(f"  {name:<44}{speed:>10,.0f}{ratio}")
    matmuls = ", ".join(f"{speed:,.0f} GFLOP/s in {precision}" for precision, speed in result.matrix_gflops.items())
    lines += ["", f"matrix multiplication: {matmuls}; charlm training: {result.training_gflops:,.0f} GFLOP/s."]
    lines += [f"kernel: {result.kernel}."]
    return "\n".join(lines)
