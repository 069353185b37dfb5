"""Which device and which precision a name stands for."""

import pytest
import torch

from charlm.errors import UsageError
from charlm.model.device import autocast, choose_device, choose_precision

CPU = torch.device("cpu")


def test_auto_is_cuda_where_there_is_one_and_else_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto").type == "cuda"


def test_cpu_is_the_cpu() -> None:
    assert choose_device("cpu") == CPU


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:7"])
def test_cuda_without_cuda_is_refused_by_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match=f"--device {name}: .*no CUDA") as caught:
        choose_device(name)
    assert "--device cpu" in caught.value.hint


def test_a_cuda_device_beyond_those_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cuda:1").index == 1
    with pytest.raises(UsageError, match="only 2"):
        choose_device("cuda:2")


def test_mps_without_mps_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UsageError, match="no MPS"):
        choose_device("mps")


@pytest.mark.parametrize("name", ["gpu", "", "nonsense", "cuda:x", "meta", "xpu"])
def test_names_that_are_no_device_are_refused_and_named(name: str) -> None:
    with pytest.raises(UsageError, match=f"--device {name}"):
        choose_device(name)


@pytest.mark.parametrize("multiplies_bf16", [True, False])
def test_auto_precision_is_bf16_only_on_a_cpu_that_multiplies_it(
    multiplies_bf16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("charlm.model.device._cpu_multiplies_bf16", lambda: multiplies_bf16)
    monkeypatch.setattr("charlm.model.device.cpu_runs_bf16", lambda: True)
    assert choose_precision("auto", CPU) == ("bf16" if multiplies_bf16 else "fp32")
    assert choose_precision("auto", torch.device("cuda")) == "fp32"


def test_auto_precision_of_this_very_processor_is_one_of_the_two() -> None:
    assert choose_precision("auto", CPU) in ("fp32", "bf16")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_precision_that_is_asked_for_is_kept(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("charlm.model.device.cpu_runs_bf16", lambda: True)
    assert choose_precision(precision, CPU) == precision
    if precision == "fp32":
        assert choose_precision(precision, torch.device("cuda")) == precision


def test_autocast_multiplies_in_the_precision_named() -> None:
    a = torch.randn(4, 4)
    with autocast(CPU, "bf16"):
        assert (a @ a).dtype == torch.bfloat16
    with autocast(CPU, "fp32"):
        assert (a @ a).dtype == torch.float32


def test_bf16_is_refused_where_the_processor_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("charlm.model.device.cpu_runs_bf16", lambda: False)
    with pytest.raises(UsageError, match="--precision bf16"):
        choose_precision("bf16", CPU)


def test_bf16_is_refused_where_torch_would_take_fp16() -> None:
    with pytest.raises(UsageError, match="fp16"):
        choose_precision("bf16", torch.device("cuda"))
