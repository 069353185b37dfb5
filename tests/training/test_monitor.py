"""TensorBoard and metrics.jsonl hold the same figures, in the run folder itself, and none twice."""

import math
import time
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing import event_accumulator, plugin_event_accumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from charlm import runs
from charlm.config import TrainSettings
from charlm.errors import TrainingInterruptedError
from charlm.model.language_model import Predictions
from charlm.training.monitor import Monitor
from tests.training.conftest import Make, SendSignal, entries, watch_predictions

SCALARS = {
    *("loss", "bits_per_character"),
    *("learning_rate", "gradient_norm", "throughput/characters_per_second"),
    *("progress/training_seconds", "progress/epoch"),
}


def board(run: Path) -> event_accumulator.EventAccumulator:
    read = event_accumulator.EventAccumulator(str(run))
    read.Reload()
    return read


def scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    """The curves of a run, but for those of its layers."""
    read = board(run)
    groups = ("gates/", "update_to_weight/", "gradient_norm_per_layer/")
    tags = [tag for tag in read.Tags()["scalars"] if not tag.startswith(groups)]
    return {tag: [(event.step, event.value) for event in read.Scalars(tag)] for tag in tags}


def shown(run: Path, tag: str) -> list[Any]:
    """What TensorBoard itself shows under a tag: it reads events in another way than the accumulator for scripts."""
    read = plugin_event_accumulator.EventAccumulator(str(run))
    read.Reload()
    return list(read.Tensors(tag))


def texts(run: Path, tag: str) -> list[tuple[int, str]]:
    events = shown(run, f"{tag}/text_summary")
    return [(event.step, event.tensor_proto.string_val[0].decode()) for event in events]


def test_both_hold_the_same_figures(make_trainer: Make) -> None:
    trainer = make_trainer()
    trainer.train()
    drawn, of_validation = scalars(trainer.run), scalars(trainer.run / "validation")
    assert set(drawn) == SCALARS
    assert set(of_validation) == {"loss", "bits_per_character"}  # in one card with training
    curves = {f"{tag}_validation": points for tag, points in of_validation.items()}
    for tag, points in drawn.items():
        curves[f"{tag}_train" if tag in of_validation else tag.replace("/", "_")] = points
    written = entries(trainer.run)
    assert {name for entry in written for name in entry if not name.endswith("_exact")} == {"step", *curves}
    for name, points in curves.items():
        expected = [(entry["step"], entry[name]) for entry in written if name in entry]
        assert [step for step, _ in points] == [step for step, _ in expected]
        assert [value for _, value in points] == pytest.approx([value for _, value in expected], rel=1e-6)


def test_metrics_of_a_byte_level_model_are_named_after_bytes(
    make_trainer: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = make_trainer(unit="byte", max_steps=4)
    trainer.monitor.quiet = False
    exact = trainer.train()
    names = {name for entry in entries(trainer.run) for name in entry}
    assert {"bits_per_byte_train", "bits_per_byte_validation", "bits_per_byte_validation_exact"} <= names
    assert "throughput_bytes_per_second" in names
    tags = {tag.replace("character", "byte") for tag in SCALARS}
    assert set(scalars(trainer.run)) == tags
    experiment = board(trainer.run).summary_metadata["_hparams_/experiment"].plugin_data.content
    metrics = HParamsPluginData.FromString(experiment).experiment.metric_infos
    assert {(metric.name.group, metric.name.tag) for metric in metrics} == {
        ("validation", "loss"),
        ("validation", "bits_per_byte"),
    }
    ((_, text),) = texts(trainer.run, "exact validation")
    assert f"{exact.bits_per_character:.4f} bits per byte" in text
    error = capsys.readouterr().err
    assert "256 bytes" in error
    assert "bytes/s" in error
    for said in (*names, error, text, str(experiment)):
        assert "char" not in said


def test_metrics_are_logged_at_configured_steps(make_trainer: Make) -> None:
    trainer = make_trainer(max_steps=10, log_every=3, evaluate_every=4)
    trainer.train()
    drawn = scalars(trainer.run)
    assert [step for step, _ in drawn["loss"]] == [3, 6, 9]
    assert [step for step, _ in scalars(trainer.run / "validation")["loss"]] == [4, 8, 10]


def test_bits_are_nats_divided_by_log_2(make_trainer: Make) -> None:
    trainer = make_trainer(max_steps=4)
    trainer.train()
    for entry in entries(trainer.run):
        for part in ("train", "validation", "validation_exact"):
            if f"loss_{part}" in entry:
                bits = entry[f"bits_per_character_{part}"]
                assert bits == pytest.approx(entry[f"loss_{part}"] / math.log(2))


def test_train_loss_is_mean_since_last_log(make_trainer: Make) -> None:
    trainer = make_trainer(max_steps=6, log_every=3)
    losses: list[float] = []

    def watch(predictions: Predictions) -> Predictions:
        losses.append(predictions.loss_sum().item() / predictions.num_targets)
        return predictions

    watch_predictions(trainer, watch)
    trainer.train()
    logged = [entry["loss_train"] for entry in entries(trainer.run) if "loss_train" in entry]
    assert logged == pytest.approx([sum(losses[:3]) / 3, sum(losses[3:]) / 3], rel=1e-6)


def test_epoch_and_learning_rate_are_logged(make_trainer: Make) -> None:
    trainer = make_trainer(max_steps=4, log_every=1, schedule="constant", warmup_steps=2, learning_rate=0.01)
    trainer.train()
    logged = [entry for entry in entries(trainer.run) if "loss_train" in entry]
    assert [entry["learning_rate"] for entry in logged] == pytest.approx([0.005, 0.01, 0.01, 0.01])
    windows = trainer.lanes.windows_per_epoch
    assert [entry["progress_epoch"] for entry in logged] == pytest.approx([n / windows for n in (1, 2, 3, 4)])


def test_exact_loss_is_logged_at_best_step(make_trainer: Make) -> None:
    trainer = make_trainer()
    exact = trainer.train()
    last = entries(trainer.run)[-1]
    assert last == {
        "step": runs.load_model(trainer.run, "best").step,
        "loss_validation_exact": exact.nats_per_character,
        "bits_per_character_validation_exact": exact.bits_per_character,
    }
    ((step, text),) = texts(trainer.run, "exact validation")
    assert step == last["step"]
    assert f"{exact.nats_per_character:.4f} nats" in text


def test_the_validation_curve_is_a_run_of_its_own_below_the_run(make_trainer: Make) -> None:
    trainer = make_trainer()
    trainer.train()
    folders = [path.name for path in trainer.run.iterdir() if path.is_dir() and not path.name.startswith("step-")]
    assert folders == ["validation"]
    events = {path.parent for path in trainer.run.rglob("events.out.tfevents.*")}
    assert events == {trainer.run, trainer.run / "validation"}


def test_settings_are_logged_as_hyperparameters(make_trainer: Make) -> None:
    trainer = make_trainer()
    trainer.train()
    plugin = board(trainer.run).summary_metadata
    assert {"_hparams_/experiment", "_hparams_/session_start_info"} <= set(plugin)
    start = plugin["_hparams_/session_start_info"].plugin_data.content
    experiment = plugin["_hparams_/experiment"].plugin_data.content
    assert b"hidden_size" in start
    assert b"parameters" in start
    metrics = HParamsPluginData.FromString(experiment).experiment.metric_infos
    assert ("validation", "loss") in {(metric.name.group, metric.name.tag) for metric in metrics}


def test_settings_and_samples_are_logged_as_text(make_trainer: Make) -> None:
    trainer = make_trainer(sample_length=30)
    trainer.train()
    ((step, settings),) = texts(trainer.run, "settings")
    assert step == 0
    for name in TrainSettings.model_fields:
        assert f"`{name}`" in settings
    assert "| Model | `hidden_size` | `12` |" in settings
    samples = texts(trainer.run, "sample")
    assert [step for step, _ in samples] == [4, 8, 12]
    assert all(text.startswith("<pre>") and text.endswith("</pre>") for _, text in samples)


def test_sample_with_html_is_escaped(tmp_path: Path) -> None:
    monitor = Monitor(tmp_path, TrainSettings(), 1, quiet=True)
    monitor.start(0, 1)
    monitor.log_sample(1, "a <b> & c\n")
    monitor.close()
    assert texts(tmp_path, "sample") == [(1, "<pre>a &lt;b&gt; &amp; c\n</pre>")]


def test_sample_length_zero_logs_no_samples(make_trainer: Make) -> None:
    trainer = make_trainer(sample_length=0)
    trainer.train()
    assert "sample/text_summary" not in board(trainer.run).Tags()["tensors"]


def test_custom_scalars_combine_training_and_validation(make_trainer: Make) -> None:
    trainer = make_trainer(max_steps=2)
    trainer.train()
    assert "custom_scalars__config__" in board(trainer.run).Tags()["tensors"]


def test_resume_logs_no_metric_twice(make_trainer: Make, send_signal_at_step: SendSignal) -> None:
    trainer = make_trainer(keep_checkpoints=9, save_every_minutes=1e-9)
    send_signal_at_step(trainer, 9)
    with pytest.raises(TrainingInterruptedError):
        trainer.train()
    assert [step for step, _ in scalars(trainer.run)["loss"]] == [2, 4, 6, 8]
    _wait_for_the_next_second()
    resumed = make_trainer(resume=trainer.run / "step-00000005")
    resumed.train()
    drawn = scalars(resumed.run)
    assert [step for step, _ in drawn["loss"]] == [2, 4, 6, 8, 10, 12]
    assert [step for step, _ in scalars(resumed.run / "validation")["loss"]] == [4, 8, 12]
    assert [event.step for event in shown(resumed.run, "loss")] == [2, 4, 6, 8, 10, 12]
    assert [step for step, _ in texts(resumed.run, "sample")] == [4, 8, 12]
    written = entries(resumed.run)
    assert [entry["step"] for entry in written if "loss_train" in entry] == [2, 4, 6, 8, 10, 12]
    for step, value in drawn["loss"]:
        (entry,) = [entry for entry in written if entry["step"] == step and "loss_train" in entry]
        assert value == pytest.approx(entry["loss_train"], rel=1e-6)


def test_resume_does_not_log_settings_again(make_trainer: Make, send_signal_at_step: SendSignal) -> None:
    trainer = make_trainer(max_steps=4)
    send_signal_at_step(trainer, 3)
    with pytest.raises(TrainingInterruptedError):
        trainer.train()
    make_trainer(resume=trainer.run).train()
    assert [step for step, _ in texts(trainer.run, "settings")] == [0]


def test_resume_of_finished_run_does_not_evaluate_again(make_trainer: Make) -> None:
    trainer = make_trainer(max_steps=2)
    trainer.train()
    make_trainer(resume=trainer.run).train()
    assert [entry["step"] for entry in entries(trainer.run) if "loss_validation" in entry] == [2]


def test_resume_of_finished_run_logs_exact_loss_once(make_trainer: Make) -> None:
    trainer = make_trainer(max_steps=2)
    trainer.train()
    make_trainer(resume=trainer.run).train()
    assert [entry["step"] for entry in entries(trainer.run) if "loss_validation_exact" in entry] == [2]


def test_metrics_lines_are_written_immediately(make_trainer: Make) -> None:
    trainer = make_trainer(max_steps=4)
    seen: list[int] = []
    whole_step = trainer.train_step

    def step() -> None:
        seen.append(len(entries(trainer.run)))
        whole_step()

    trainer.train_step = step
    trainer.train()
    assert seen == [0, 0, 1, 1]


def test_log_lines_without_terminal(make_trainer: Make, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = make_trainer(max_steps=4)
    trainer.monitor.quiet = False
    trainer.train()
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = [line for line in captured.err.splitlines() if "chars/s" in line]
    assert [line.split()[:2] for line in lines] == [["step", "2/4"], ["step", "4/4"]]
    assert "\r" not in captured.err
    assert "\x1b" not in captured.err


@pytest.mark.parametrize(("terminal", "shown"), [(True, "\\x1b[2Jhello"), (False, "\x1b[2Jhello")])
def test_sample_is_escaped_on_terminal(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    terminal: bool,
    shown: str,
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    monitor = Monitor(tmp_path, TrainSettings(), 1, quiet=False)
    monitor.log_sample(1, "\x1b[2Jhello")
    monitor.close()
    assert shown in capsys.readouterr().err.splitlines()


def test_quiet_prints_nothing_and_records_everything(make_trainer: Make, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = make_trainer(max_steps=4)
    trainer.train()
    assert capsys.readouterr() == ("", "")
    assert set(scalars(trainer.run)) == SCALARS


def _wait_for_the_next_second() -> None:
    """TensorBoard orders the files of a run by names that hold the second; two processes are never this quick."""
    now = time.time()
    time.sleep(math.floor(now) + 1.01 - now)
