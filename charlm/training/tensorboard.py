"""TensorBoard logging. If its files cannot be written, a warning is printed once and training continues."""

import html
import threading
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from charlm import files
from charlm.config import SECTIONS, TrainSettings
from charlm.errors import CharlmWarning
from charlm.runs import VALIDATION_EVENTS

VALIDATION = VALIDATION_EVENTS  # the second run, whose curves TensorBoard draws in the cards of the first

HISTOGRAM_BINS = 50
# The page of TensorBoard that shows all layers together
CUSTOM_SCALARS = {
    "Health": {
        "gates: share of closed values": ["Multiline", ["gates/.* closed$"]],
        "gates: share of open values": ["Multiline", ["gates/.* open$"]],
        "update-to-weight ratio": ["Multiline", ["update_to_weight/.*"]],
        "gradient norm per layer": ["Multiline", ["gradient_norm_per_layer/.*"]],
    }
}


class TensorBoardLogger:
    """Writes TensorBoard events, starting at the step at which it is opened."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.writer: SummaryWriter | None = None
        self.validation_writer: SummaryWriter | None = None
        self.failed = False
        self.hook = threading.excepthook

    def start(self, first_step: int) -> None:
        """Start logging; TensorBoard purges later steps written by an earlier process."""
        self.hook = threading.excepthook
        threading.excepthook = self._on_thread_error
        self._try(lambda: self._open(first_step))

    def _open(self, first_step: int) -> None:
        # TensorBoard purges later steps at every start except the first, so that one must say so
        purge_step = first_step + 1 if first_step else 0
        self.writer = SummaryWriter(self._folder(), purge_step=purge_step, flush_secs=10)
        folder = str(Path(self._folder(), VALIDATION))
        self.validation_writer = SummaryWriter(folder, purge_step=purge_step, flush_secs=10)

    def _folder(self) -> str:
        """The run folder under a UTF-8 name, which TensorBoard requires."""
        name = str(self.run)
        return name if _encodable(name) == name else str(files.link_folder(self.run))

    def log_scalars(self, step: int, values: dict[str, float]) -> None:
        """Training and validation are one tag of two runs, so that TensorBoard draws them in one card."""
        for tag, value in values.items():
            self._try(partial(self._add_scalar, tag, value, step))

    def log_histograms(self, step: int, distributions: dict[str, Tensor]) -> None:
        for tag, values in distributions.items():
            self._try(partial(self._add_histogram, tag, values, step))

    def log_text(self, step: int, tag: str, markdown: str) -> None:
        encodable = _encodable(markdown)
        self._try(lambda: self.writer and self.writer.add_text(tag, encodable, step))

    def log_preformatted(self, step: int, tag: str, text: str) -> None:
        self.log_text(step, tag, f"<pre>{html.escape(text)}</pre>")

    def log_settings(self, settings: TrainSettings, parameters: int) -> None:
        """Log the settings as a table and as hyperparameters, and the layout of plots; once, at the start of a run."""
        dumped = settings.model_dump()
        values = {name: _encodable(value) if isinstance(value, str) else value for name, value in dumped.items()}
        names = [(section, name) for section, kind in SECTIONS.items() for name in kind.model_fields]
        rows = [f"| {section} | `{name}` | `{values[name]}` |" for section, name in names]
        table = "\n".join(["| | setting | value |", "| --- | --- | --- |", *rows, f"| | parameters | {parameters:,} |"])
        self.log_text(0, "settings", table)
        self._try(lambda: self.writer and self.writer.add_custom_scalars(CUSTOM_SCALARS))
        # SummaryWriter.add_hparams would open a sub-run for this; these are the same records, in the run itself.
        metrics = dict.fromkeys(("loss", f"bits_per_{settings.unit}"), None)
        for record in hparams({**values, "parameters": parameters}, metrics):
            self._try(partial(self._add_record, _set_metric_group(record)))

    def _add_scalar(self, tag: str, value: float, step: int) -> None:
        tag, _, part = tag.partition("/") if tag.endswith(("/train", f"/{VALIDATION}")) else (tag, "", "")
        writer = self.validation_writer if part == VALIDATION else self.writer
        if writer is not None:
            writer.add_scalar(tag, value, step)

    def _add_histogram(self, tag: str, values: Tensor, step: int) -> None:
        """Counted by torch: the writer's own ``add_histogram`` would wake numpy's BLAS threads."""
        values = values.flatten().double().cpu()
        if self.writer is None or not values.isfinite().all():
            return
        low, high = (limit.item() for limit in values.aminmax())
        counts, edges = torch.histogram(values, HISTOGRAM_BINS, range=(low, high if high > low else low + 1e-9))
        self.writer.add_histogram_raw(
            tag,
            min=low,
            max=high,
            num=len(values),
            sum=values.sum().item(),
            sum_squares=values.square().sum().item(),
            bucket_limits=edges[1:].tolist(),
            bucket_counts=counts.tolist(),
            global_step=step,
        )

    def _add_record(self, record: Any) -> None:
        if self.writer is not None:
            self.writer._get_file_writer().add_summary(record)

    def close(self) -> None:
        self._try(lambda: self.writer and self.writer.close())
        self._try(lambda: self.validation_writer and self.validation_writer.close())
        threading.excepthook = self.hook

    def _try(self, write: Callable[[], Any]) -> None:
        try:
            write()
        except Exception as error:  # optional: no error here may end training
            self._disable(error)

    def _on_thread_error(self, details: threading.ExceptHookArgs) -> None:
        """Handle errors of the writer's thread, which would otherwise print a traceback."""
        if isinstance(details.exc_value, Exception) and type(details.thread).__module__.startswith("tensorboard."):
            self._disable(details.exc_value)
        else:
            self.hook(details)

    def _disable(self, error: Exception) -> None:
        self.writer = self.validation_writer = None
        if not self.failed:
            self.failed = True
            reason = getattr(error, "strerror", None) or " ".join(f"{type(error).__name__}: {error}".split())
            warnings.warn(
                f"{self.run}: cannot write TensorBoard logs: {reason}. Training continues.", CharlmWarning, stacklevel=2
            )


def _set_metric_group(record: Any) -> Any:
    """A record of hyperparameters whose metrics, if it has any, are those of the validation run."""
    for value in record.value:
        data = HParamsPluginData.FromString(value.metadata.plugin_data.content)
        for metric in data.experiment.metric_infos:
            metric.name.group = VALIDATION
        value.metadata.plugin_data.content = data.SerializeToString()
    return record


def _encodable(text: str) -> str:
    """Escape surrogates, which represent bytes of names that are not UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
