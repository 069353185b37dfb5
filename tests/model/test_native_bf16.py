"""The native kernel in bf16 against the reference cells in double precision.

Where the processor has no such instructions, they are emulated: see ``native/build.py``.
"""

import ctypes
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from charlm.model.kernels import choice, library, native
from charlm.model.kernels.choice import choose_kernel
from charlm.model.kernels.library import (
    AMX,
    AVX512,
    HAS_AMX_BF16,
    HAS_AVX512_BF16,
    IS_AMD,
    Native,
    choose_bf16,
    load_native,
)
from charlm.model.kernels.native_bf16 import NativeBf16Kernel
from charlm.model.kernels.reference import ReferenceKernel
from tests.model.test_native import (
    CPU,
    INPUT,
    Case,
    assert_gates_are_exact,
    assert_not_a_number_stays_so,
    needs_native,
    sizes,
    stack_with,
)

FEATURES = {AMX: HAS_AMX_BF16, AVX512: HAS_AVX512_BF16}
BUILD = Path(__file__).parents[2] / "native" / "build.py"


@pytest.fixture(scope="session")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A function that returns the library in which the instructions are emulated."""
    loaded: list[ctypes.CDLL] = []

    def load() -> ctypes.CDLL:
        if not loaded:
            path = tmp_path_factory.mktemp("emulated") / "kernels.so"
            command = [sys.executable, str(BUILD), "--emulate", "--output", str(path)]
            result = subprocess.run(command, capture_output=True, text=True)
            if result.returncode:
                pytest.skip(result.stderr)
            loaded.append(ctypes.CDLL(str(path)))
            library.declare_functions(loaded[0])
        return loaded[0]

    return load


@pytest.fixture(scope="session", params=[AVX512, AMX])
def instructions(request: pytest.FixtureRequest, emulated: Any) -> Native:
    """Each set of instructions: the processor's own where it has it."""
    real: Any = load_native().library
    if real is None:
        pytest.skip(f"no native kernels: {load_native().description}")
    if library.has_bf16(real) and real.charlm_processor_features() & FEATURES[request.param]:
        return Native(real, "real", request.param)
    return Native(emulated(), "emulated", request.param)


def rounded(case: Case) -> Case:
    """With weights and input that bf16 can hold, so that only what the kernel rounds by itself makes a difference."""
    for part in (*(weight.data for weight in case.layer.parameters()), case.vectors, case.state[0]):
        part.copy_(part.bfloat16())
    return case


def assert_near(ours: list[Tensor], exact: list[Tensor]) -> None:
    """Numbers near 1 are 0.008 apart in bf16. Gradients are sums of what was rounded so, and may be small by chance."""
    for index, (one, other) in enumerate(zip(ours, exact, strict=True)):
        tolerance = 4e-3 if index < 3 else max(4e-2, 2e-2 * other.abs().max().item())
        assert (one - other).abs().max() <= tolerance, index


@settings(max_examples=60, deadline=None)
@given(sizes, st.integers(1, 40) | st.sampled_from([64, 65, 96, 130]))
def test_outputs_states_and_gradients_are_nearly_those_of_the_cell_in_double_precision(
    instructions: Native, size: dict[str, Any], inputs: int
) -> None:
    threads, before = size.pop("threads"), torch.get_num_threads()
    case = rounded(Case(**size, inputs=inputs))
    try:
        torch.set_num_threads(threads)
        ours = case.run(NativeBf16Kernel(instructions))
    finally:
        torch.set_num_threads(before)
    assert_near(ours, case.run(ReferenceKernel(), torch.float64))


@pytest.mark.parametrize("lanes", [50, 257])  # 4 × 13 rows; 17 tiles, of which the last has one row
def test_a_long_window_is_added_up_in_several_chunks(instructions: Native, lanes: int) -> None:
    case = rounded(Case(33, lanes, 1200 // lanes, 0.1, False, seed=5, inputs=40))
    assert_near(case.run(NativeBf16Kernel(instructions)), case.run(ReferenceKernel(), torch.float64))


@pytest.mark.parametrize(("units", "lanes"), [(7, 5), (33, 3), (128, 17)])
@pytest.mark.parametrize("reads_ids", [False, True])
def test_nothing_is_read_that_was_not_written(
    instructions: Native, units: int, lanes: int, reads_ids: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = rounded(Case(units, lanes, 4, 0.3, reads_ids, seed=3))
    exact = case.run(ReferenceKernel(), torch.float64)
    empty, empty_like, new_empty = torch.empty, torch.empty_like, torch.Tensor.new_empty
    monkeypatch.setattr(native.torch, "empty", lambda *shape: empty(*shape).fill_(float("nan")))
    monkeypatch.setattr(native.torch, "empty_like", lambda tensor: empty_like(tensor).fill_(float("nan")))
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *given: new_empty(*given).fill_(float("nan")))
    assert_near(case.run(NativeBf16Kernel(instructions)), exact)


def test_every_number_of_threads_gives_the_same_bits(instructions: Native) -> None:
    case, before = Case(75, 40, 5, 0.2, False, seed=1, inputs=40), torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            results.append(case.run(NativeBf16Kernel(instructions)))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(one, other) for one, other in zip(result, results[0], strict=True))


@pytest.mark.parametrize("place", ["input", "state", "weights"])
def test_what_is_not_a_number_stays_so(instructions: Native, place: str) -> None:
    assert_not_a_number_stays_so(place, NativeBf16Kernel(instructions))


def test_sums_of_any_size_give_gates_within_a_millionth(instructions: Native) -> None:
    assert_gates_are_exact(NativeBf16Kernel(instructions), 401)  # emulated, thousands of units would take long


def test_a_window_of_which_no_gradient_is_wanted_for_the_input(instructions: Native) -> None:
    case = rounded(Case(20, 6, 3, None, False, seed=2))
    state = tuple(part.requires_grad_() for part in case.state)
    gradients = []
    for vectors in (case.vectors, case.vectors.clone().requires_grad_()):
        outputs, _ = NativeBf16Kernel(instructions).run(case.layer, vectors, state, None, "bf16")
        gradients.append(torch.autograd.grad(outputs.sum(), [*case.layer.parameters(), *state], retain_graph=True))
        again = torch.autograd.grad(outputs.sum(), [*case.layer.parameters(), *state])
        assert all(torch.equal(one, other) for one, other in zip(again, gradients[-1], strict=True))
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_a_stack_in_bf16_runs_on_the_native_kernel_if_asked_for(
    instructions: Native, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "load_native", lambda: instructions)
    monkeypatch.setattr("charlm.model.kernels.native_bf16.load_native", lambda: instructions)
    inputs, outputs = torch.randn(3, 16, INPUT), {}
    for kernel, precision in (("native", "bf16"), ("torch", "fp32")):
        stack = stack_with(kernel)
        result, _ = stack(inputs, stack.zero_state(16, CPU), None, precision)
        (gradient,) = torch.autograd.grad(result.square().sum(), [stack.layers[0].weight_ih])
        outputs[kernel] = (result, gradient)
    torch.testing.assert_close(outputs["native"], outputs["torch"], rtol=2e-2, atol=5e-3)
    assert not torch.equal(outputs["native"][0], outputs["torch"][0])


def test_auto_leaves_bf16_to_torch_until_its_speed_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    some: Any = object()
    monkeypatch.setattr(choice, "load_native", lambda: Native(some, "AVX2; AMX for bf16", AMX))
    shape = ("lstm", 512, 32, CPU, "bf16")
    assert choose_kernel(*shape).kernel.name == "torch"
    chosen = choose_kernel(*shape, "native")
    assert isinstance(chosen.kernel, NativeBf16Kernel)
    assert AMX in chosen.reason
    monkeypatch.setattr(choice, "BF16_IS_MEASURED", True)
    assert isinstance(choose_kernel(*shape).kernel, NativeBf16Kernel)


@pytest.mark.parametrize(
    ("features", "gain", "expected"),
    [
        (0, 2.0, ""),
        (IS_AMD, 2.0, ""),
        (HAS_AVX512_BF16 | IS_AMD, 0.0, AVX512),
        (HAS_AVX512_BF16, 2.0, AVX512),
        (HAS_AVX512_BF16, 1.0, ""),
        (HAS_AVX512_BF16 | HAS_AMX_BF16, 1.0, AMX),
    ],
)
def test_the_instructions_for_bf16_are_the_fastest_that_the_processor_has(
    features: int, gain: float, expected: str
) -> None:
    functions = SimpleNamespace(charlm_bf16_forward_avx512=None, charlm_bf16_gain_avx512=lambda: gain)
    instructions, problem = choose_bf16(functions, features)
    assert instructions == expected
    assert bool(problem) == (not expected)


def test_a_library_of_an_old_compiler_has_no_bf16() -> None:
    instructions, problem = choose_bf16(SimpleNamespace(), HAS_AVX512_BF16 | HAS_AMX_BF16)
    assert not instructions
    assert problem


@needs_native
def test_the_library_measures_what_bf16_gains(emulated: Any) -> None:
    assert 0 < emulated().charlm_bf16_gain_avx512() < 100
