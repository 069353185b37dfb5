"""Which device and which precision a name stands for."""

import pytest
import torch

from charlm.errors import UsageError
from charlm.model.device import autocast, choose_device, choose_precision

CPU = torch.device("cpu")


def test_auto_device_is_cuda_if_available(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto").type == "cuda"


def test_cpu_device() -> None:
    assert choose_device("cpu") == CPU


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:7"])
def test_cuda_without_gpu_is_rejected(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match=f"--device {name}: .*no CUDA") as caught:
        choose_device(name)
    assert "--device cpu" in caught.value.hint


def test_cuda_index_out_of_range_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cuda:1").index == 1
    with pytest.raises(UsageError, match="only 2"):
        choose_device("cuda:2")


def test_unavailable_mps_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UsageError, match="no MPS"):
        choose_device("mps")


@pytest.mark.parametrize("name", ["gpu", "", "nonsense", "cuda:x", "meta", "xpu"])
def test_unknown_device_names_are_rejected(name: str) -> None:
    with pytest.raises(UsageError, match=f"--device {name}"):
        choose_device(name)


@pytest.mark.parametrize("multiplies_bf16", [True, False])
def test_auto_precision_is_bf16_only_with_native_support(
    multiplies_bf16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("charlm.model.device._cpu_has_bf16", lambda: multiplies_bf16)
    monkeypatch.setattr("charlm.model.device.cpu_supports_bf16", lambda: True)
    assert choose_precision("auto", CPU) == ("bf16" if multiplies_bf16 else "fp32")
    assert choose_precision("auto", torch.device("cuda")) == "fp32"


def test_auto_precision_on_this_processor_is_valid() -> None:
    assert choose_precision("auto", CPU) in ("fp32", "bf16")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_requested_precision_is_used(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("charlm.model.device.cpu_supports_bf16", lambda: True)
    assert choose_precision(precision, CPU) == precision
    if precision == "fp32":
        assert choose_precision(precision, torch.device("cuda")) == precision


def test_autocast_uses_given_precision() -> None:
    a = torch.randn(4, 4)
    with autocast(CPU, "bf16"):
        assert (a @ a).dtype == torch.bfloat16
    with autocast(CPU, "fp32"):
        assert (a @ a).dtype == torch.float32


def test_bf16_on_unsupported_processor_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("charlm.model.device.cpu_supports_bf16", lambda: False)
    with pytest.raises(UsageError, match="--precision bf16"):
        choose_precision("bf16", CPU)


def test_bf16_on_cuda_is_rejected() -> None:
    with pytest.raises(UsageError, match="fp16"):
        choose_precision("bf16", torch.device("cuda"))
