"""``charlm score``."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from charlm.commands.layout import Command, option
from charlm.commands.options import (
    cache_option,
    checkpoint_option,
    common_options,
    device_option,
    evaluation_text_options,
    run_argument,
    run_path,
    text_argument,
    threads_option,
)
from charlm.commands.output import Output, output_file, output_option
from charlm.commands.progress import BalancedBar
from charlm.commands.stdio import ignore_broken_pipe, print_path
from charlm.errors import UsageError

if TYPE_CHECKING:
    from charlm.evaluation.evaluation_text import EvaluationText
    from charlm.evaluation.scores import Scores


@click.command("score", cls=Command)
@run_argument
@text_argument
@evaluation_text_options
@checkpoint_option
@option(
    "--html",
    type=run_path,
    metavar="FILE",
    help="Write an HTML page that highlights surprising characters, instead of JSON lines.",
)
@device_option
@threads_option
@cache_option
@output_option
@common_options
def command(
    run: Path,
    text: tuple[str, ...],
    split: str | None,
    encoding: str | None,
    checkpoint: str,
    html: Path | None,
    device: str,
    threads: int,
    cache_dir: Path | None,
    output: Output,
    quiet: bool,
) -> None:
    """Score every character of TEXT with the model in RUN.

    Prints one JSON line per character (for byte-level models, per byte): its log-probability in nats given all
    preceding text, and its rank, 1 for the likeliest. The mean negative log-probability is the loss that charlm eval
    reports.

    \b
    charlm score checkpoints/play hamlet.txt --output hamlet.jsonl
    charlm score checkpoints/play hamlet.txt --encoding latin-1 --html hamlet.html
    echo "To be, or not to be" | charlm score checkpoints/play -
    charlm score checkpoints/play --split test --checkpoint latest
    """
    if html is not None and output.is_file:
        raise UsageError("--html and --output cannot be used together.", "--html names its own file.")
    from charlm import runs
    from charlm.corpus.vocabulary import SHORT_UNITS
    from charlm.evaluation import evaluation_text
    from charlm.evaluation.scores import concatenate, score_characters
    from charlm.model.device import choose_device, configure_torch
    from charlm.reports.surprisal import write_html

    torch_device = choose_device(device)
    balancer = configure_torch(threads)
    saved = runs.load_model(run, checkpoint)
    model = saved.build_model(torch_device)
    scored = evaluation_text.select_text(text, split, encoding, saved, run, cache_dir, quiet)
    hidden = quiet or (html is None and output.is_terminal)  # the lines themselves show the progress
    unit = SHORT_UNITS[saved.settings.unit]
    total = len(scored.text)
    with BalancedBar(balancer, hidden, total=total, desc="scoring", unit=unit, unit_scale=True, leave=False) as bar:
        stretches = score_characters(model, scored.text, on_progress=bar.update)
        if html is None:
            for lines in _format_lines(scored, stretches):
                output.write(lines)
            return
        with output_file(html) as file:
            all_scores = concatenate(stretches)
            title = f"{scored.name}, scored by {run}"
            write_html(
                file,
                title,
                saved.settings.unit,
                scored.text.raw_ids,
                scored.alphabet,
                all_scores.log_probabilities,
                all_scores.ranks,
            )
    with ignore_broken_pipe():
        print_path(html)


def _format_lines(scored: "EvaluationText", stretches: "Iterator[Scores]") -> Iterator[str]:
    """The JSON lines of each stretch of characters, in ASCII, so that no terminal or pipe can corrupt them."""
    unit = scored.text.vocabulary.unit
    json_characters = [str(ord(c)) if unit == "byte" else json.dumps(c) for c in scored.alphabet]
    first = 0
    for stretch in stretches:
        ids = scored.text.raw_ids[first : first + len(stretch.ranks)].tolist()
        first += len(ids)
        yield "".join(
            f'{{"{unit}": {json_characters[id_]}, "log_probability": {log_probability:.6f}, "rank": {rank}}}\n'
            for id_, log_probability, rank in zip(
                ids, stretch.log_probabilities.tolist(), stretch.ranks.tolist(), strict=True
            )
        )
