"""What a device other than the CPU changes, with its capabilities stood in for: nothing of this needs one."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from charlm.checkpoint.contents import Checkpoint
from charlm.checkpoint.environment import describe_environment
from charlm.config import TrainSettings
from charlm.errors import CharlmError, UsageError
from charlm.model import device as device_module
from charlm.model.device import choose_precision, no_tf32, report_out_of_memory, synchronize
from charlm.model.kernels import torch as torch_kernel
from charlm.model.recurrent import RecurrentLayer
from charlm.training import optimizer as optimizer_module
from charlm.training.optimizer import make_optimizer, optimizer_state_dict, restore_optimizer, step_if_finite
from charlm.training.randomness import rng_states, set_rng_states
from charlm.training.state import TrainingState
from charlm.training.trainer import Trainer
from tests.training.conftest import Make, assert_same_training, make_trainer, watch_predictions, with_infinite_loss

__all__ = ["make_trainer"]  # a fixture
CPU, CUDA, MPS = (torch.device(name) for name in ("cpu", "cuda", "mps"))
ENVIRONMENT = describe_environment(torch.device("cpu"), "fp32")


@pytest.fixture
def without_found_inf(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on MPS, whose fused AdamW does not read ``found_inf``."""
    monkeypatch.setattr(optimizer_module, "FUSED_ON", ())


def test_adamw_is_fused_only_where_found_inf_works() -> None:
    assert optimizer_module.FUSED_ON == ("cpu", "cuda")
    on_meta = nn.Linear(2, 2, device="meta")  # stands for any other device
    assert not make_optimizer(on_meta, TrainSettings()).defaults["fused"]
    assert make_optimizer(nn.Linear(2, 2), TrainSettings()).defaults["fused"]


@pytest.mark.usefixtures("without_found_inf")
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_step_changes_nothing_without_found_inf(bad: float) -> None:
    layer = nn.Linear(3, 3)
    optimizer = make_optimizer(layer, TrainSettings())
    for finite, gradient in ((True, 1.0), (False, bad), (True, 0.5)):
        before = [weight.detach().clone() for weight in layer.parameters()]
        moments = {name: tensor.clone() for name, tensor in optimizer_state_dict(layer, optimizer).items()}
        for weight in layer.parameters():
            weight.grad = torch.full_like(weight, gradient)
        step_if_finite(optimizer, torch.tensor(finite))
        same = all(torch.equal(old, new) for old, new in zip(before, layer.parameters(), strict=True))
        assert same is not finite
        if not finite:
            assert all(torch.equal(moments[n], tensor) for n, tensor in optimizer_state_dict(layer, optimizer).items())


@pytest.mark.usefixtures("without_found_inf")
def test_skipping_and_resume_are_exact_without_found_inf(make_trainer: Make) -> None:
    def take(trainer: Trainer, steps: int) -> Checkpoint:
        for _ in range(steps):
            trainer.train_step()
        return copy.deepcopy(trainer.state.checkpoint(trainer.settings, trainer.corpus, {}, ENVIRONMENT))

    whole = make_trainer(max_steps=6, dropout=0.3)
    half = make_trainer(run="other", max_steps=6, dropout=0.3)
    watch_predictions(whole, lambda found: with_infinite_loss(found) if whole.counters.steps == 1 else found)
    saved = take(whole, 3)
    expected = take(whole, 3)
    half.restore(saved)
    assert_same_training(take(half, 3), expected)
    assert whole.state.since_log.tolist()[-1] == 1
    assert all(weight.isfinite().all() for weight in whole.model.parameters())


@pytest.mark.usefixtures("without_found_inf")
def test_unfused_optimizer_is_restored_exactly() -> None:
    layers = [nn.Linear(3, 3) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    first, second = (make_optimizer(layer, TrainSettings()) for layer in layers)

    def step(layer: nn.Module, optimizer: Any) -> None:
        for weight in layer.parameters():
            weight.grad = torch.ones_like(weight)
        step_if_finite(optimizer, torch.tensor(True))

    step(layers[0], first)
    layers[1].load_state_dict(layers[0].state_dict())
    restore_optimizer(layers[1], second, {n: t.clone() for n, t in optimizer_state_dict(layers[0], first).items()})
    for layer, optimizer in zip(layers, (first, second), strict=True):
        step(layer, optimizer)
    for one, other in zip(layers[0].parameters(), layers[1].parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("device", [CUDA, MPS], ids=str)
def test_dropout_generator_is_saved_and_restored(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator()  # stands for that of the device
    module: Any = torch.cuda if device.type == "cuda" else torch.mps
    monkeypatch.setattr(module, "get_rng_state", lambda *_: generator.get_state())
    monkeypatch.setattr(module, "set_rng_state", lambda state, *_: generator.set_state(state))
    states = rng_states(device)
    assert set(states) == {"rng_state.cpu", f"rng_state.{device.type}"}
    expected = torch.rand(3, generator=generator), torch.rand(3)
    set_rng_states(device, states)
    assert torch.equal(torch.rand(3, generator=generator), expected[0])
    assert torch.equal(torch.rand(3), expected[1])


def test_checkpoint_of_other_device_restores_cpu_generator(make_trainer: Make) -> None:
    trainer = make_trainer()
    trainer.train_step()
    on_mps = ENVIRONMENT.model_copy(update={"device": "mps"})
    saved = trainer.state.checkpoint(trainer.settings, trainer.corpus, {}, on_mps)
    other: TrainingState = make_trainer(run="other").state
    other.restore(saved)
    assert_same_training(saved, other.checkpoint(trainer.settings, trainer.corpus, {}, ENVIRONMENT))


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"architecture": "x86_64", "avx512_bf16": True}, "bf16"),
        ({"architecture": "x86_64", "amx_bf16": True, "avx512_bf16": False}, "bf16"),
        ({"architecture": "x86_64", "avx512_f": True, "avx2": True}, "fp32"),
        ({"architecture": "aarch64", "bf16": True, "sve_bf16": True, "i8mm": True}, "fp32"),
        ({"architecture": "arm64", "bf16": True, "neon": True}, "fp32"),
        ({}, "fp32"),
    ],
    ids=str,
)
def test_auto_precision_is_bf16_only_where_measured(
    capabilities: dict[str, Any], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    monkeypatch.setattr(device_module, "cpu_supports_bf16", lambda: True)
    assert choose_precision("auto", CPU) == expected
    assert choose_precision("auto", MPS) == choose_precision("auto", CUDA) == "fp32"


def test_bf16_without_kernel_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_module, "cpu_supports_bf16", lambda: False)
    monkeypatch.setattr(device_module, "_cpu_has_bf16", lambda: True)
    assert choose_precision("auto", CPU) == "fp32"
    with pytest.raises(UsageError, match="bf16"):
        choose_precision("bf16", CPU)


@pytest.mark.parametrize("device", [CPU, CUDA, MPS], ids=str)
def test_synchronize_waits_only_for_gpu(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: waited.append("cuda"))
    monkeypatch.setattr(torch.mps, "synchronize", lambda: waited.append("mps"))
    synchronize(device)
    assert waited == ([] if device == CPU else [device.type])


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_weights_are_flattened_for_cudnn_when_moved_or_copied(cell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []
    layer = RecurrentLayer(cell, 3, 5)
    layer.float()
    monkeypatch.setattr(torch_kernel, "uses_cudnn", lambda weights: True)
    modes = {"LSTM": 2, "GRU": 3, "RNN_TANH": 1}
    monkeypatch.setattr(torch.backends.cudnn.rnn, "get_cudnn_mode", lambda name: modes[name])
    monkeypatch.setattr(torch, "_use_cudnn_rnn_flatten_weight", lambda: True)
    monkeypatch.setattr(torch, "_cudnn_rnn_flatten_weight", lambda *arguments: calls.append(arguments))
    layer.to(CPU)
    (weights, per_layer, *sizes), *others = calls
    assert not others
    assert [tuple(weight.shape) for weight in weights] == [tuple(w.shape) for w in torch_kernel.kernel_weights(layer)]
    reference = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[cell](3, 5)
    copied = copy.deepcopy(layer)
    assert all(one is other for one, other in zip(calls[-1][0], torch_kernel.kernel_weights(copied), strict=True))
    monkeypatch.setattr(torch.backends.cudnn, "is_acceptable", lambda weight: True)
    monkeypatch.setattr(torch.Tensor, "is_cuda", True, raising=False)
    reference.flatten_parameters()  # what nn.LSTM passes
    assert calls[-1][1:] == (per_layer, *sizes)


@pytest.mark.parametrize(
    "message",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB",
        "MPS backend out of memory (MPS allocated: 8.00 GB)",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory",
        "DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes.",
    ],
)
def test_every_out_of_memory_error_is_reported(message: str) -> None:
    with pytest.raises(CharlmError, match="Out of memory"), report_out_of_memory(TrainSettings()):
        raise RuntimeError(message)


def test_other_errors_are_not_reported_as_oom() -> None:
    with pytest.raises(RuntimeError, match="shapes"), report_out_of_memory(TrainSettings()):
        raise RuntimeError("shapes do not fit")


def test_no_tf32_works_with_new_torch_settings() -> None:
    product, kernel = torch.backends.cuda.matmul, torch.backends.cudnn.rnn
    before = product.fp32_precision, kernel.fp32_precision
    try:
        product.fp32_precision, kernel.fp32_precision = "tf32", "ieee"
        with no_tf32():
            assert (product.fp32_precision, kernel.fp32_precision) == ("ieee", "ieee")
        assert (product.fp32_precision, kernel.fp32_precision) == ("tf32", "ieee")
    finally:
        product.fp32_precision, kernel.fp32_precision = before
