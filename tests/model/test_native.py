"""The native kernel against the reference cells in double precision, and what surrounds it."""

import os
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from charlm.errors import UsageError
from charlm.model.cells import State
from charlm.model.kernels import choice, library, native
from charlm.model.kernels.choice import choose_kernel
from charlm.model.kernels.interface import Kernel, Tokens
from charlm.model.kernels.library import load_native
from charlm.model.kernels.native import NativeKernel, pack, unpack
from charlm.model.kernels.reference import ReferenceKernel
from charlm.model.language_model import NO_REGULARIZATION
from charlm.model.recurrent import RecurrentLayer, RecurrentStack

needs_native = pytest.mark.skipif(
    load_native().library is None, reason=f"no native kernels: {load_native().description}"
)
CPU = torch.device("cpu")
IDS, INPUT = 6, 5

sizes = st.fixed_dictionaries(
    {
        "units": st.integers(1, 40) | st.sampled_from([63, 64, 65, 97, 128, 270]),
        "lanes": st.integers(1, 9) | st.sampled_from([16, 31, 64, 257]),
        "steps": st.sampled_from([1, 2, 3, 7]),
        "threads": st.integers(1, 5),
        "share_of_resets": st.sampled_from([None, 0.0, 0.3, 1.0]),
        "reads_ids": st.booleans(),
        "seed": st.integers(0, 2**32 - 1),
    }
)


@pytest.fixture
def threads() -> Any:
    """Torch's number of threads, put back afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


class Case:
    """A layer with an input and a state, in single and in double precision."""

    def __init__(
        self,
        units: int,
        lanes: int,
        steps: int,
        share_of_resets: float | None,
        reads_ids: bool,
        seed: int,
        inputs: int = INPUT,
    ):
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        self.layer = RecurrentLayer("lstm", inputs, units)
        for weight in self.layer.parameters():
            weight.data.copy_(draw(*weight.shape) / max(1, weight.shape[-1] if weight.dim() > 1 else 1) ** 0.5)
        self.ids = torch.randint(IDS, (steps, lanes), generator=generator) if reads_ids else None
        self.vectors = draw(IDS, inputs) if reads_ids else draw(steps, lanes, inputs)
        self.state = (draw(lanes, units), draw(lanes, units))
        resets = torch.rand(steps, lanes, generator=generator) < (share_of_resets or 0)
        self.resets = None if share_of_resets is None else resets.numpy()
        self.loss_weights = [draw(steps, lanes, units), draw(lanes, units), draw(lanes, units)]

    def run(self, kernel: Kernel, dtype: torch.dtype = torch.float32) -> list[Tensor]:
        """Outputs, last state, and the gradients of weights, input and state of a loss that weighs them all."""
        layer = RecurrentLayer("lstm", self.vectors.shape[-1], self.layer.hidden_size)
        layer.load_state_dict(self.layer.state_dict())
        layer.to(dtype)
        vectors, *state = (part.to(dtype).requires_grad_() for part in (self.vectors, *self.state))
        arranged = kernel.arrange(vectors if self.ids is None else Tokens(self.ids, vectors), self.resets)
        outputs, after = kernel.run(layer, arranged.inputs, tuple(state), arranged.layout, "fp32")
        results = [kernel.restore(outputs, arranged.layout), *after]
        loss = sum((part * weight.to(dtype)).sum() for part, weight in zip(results, self.loss_weights, strict=True))
        return [*results, *torch.autograd.grad(loss, [*layer.parameters(), vectors, *state])]


def assert_near(ours: list[Tensor], exact: list[Tensor]) -> None:
    for one, other in zip(ours, exact, strict=True):
        assert (one - other).abs().max() <= 1e-5 * max(1.0, other.abs().max().item())


@needs_native
@settings(max_examples=60, deadline=None)
@given(sizes)
def test_outputs_states_and_gradients_are_those_of_the_cell_in_double_precision(size: dict[str, Any]) -> None:
    threads, before = size.pop("threads"), torch.get_num_threads()
    case = Case(**size)
    try:
        torch.set_num_threads(threads)
        ours = case.run(NativeKernel())
    finally:
        torch.set_num_threads(before)
    assert_near(ours, case.run(ReferenceKernel(), torch.float64))


@needs_native
@pytest.mark.parametrize(("units", "lanes"), [(7, 5), (33, 3), (128, 4)])
@pytest.mark.parametrize("reads_ids", [False, True])
def test_nothing_is_read_that_was_not_written(
    units: int, lanes: int, reads_ids: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty, new_empty = torch.empty, torch.Tensor.new_empty
    monkeypatch.setattr(native.torch, "empty", lambda *shape: empty(*shape).fill_(float("nan")))
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *given: new_empty(*given).fill_(float("nan")))
    case = Case(units, lanes, 4, 0.3, reads_ids, seed=3)
    assert_near(case.run(NativeKernel()), case.run(ReferenceKernel(), torch.float64))


@needs_native
@pytest.mark.parametrize("reads_ids", [False, True])
def test_every_number_of_threads_gives_the_same_bits(reads_ids: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(units=45, lanes=10, steps=6, share_of_resets=0.2, reads_ids=reads_ids, seed=1)  # 6 blocks, 2 panels
    results = []
    for number in (1, 2, 3, 7):
        monkeypatch.setattr(torch, "get_num_threads", lambda number=number: number)  # torch itself keeps its own
        results.append(case.run(NativeKernel()))
    for result in results[1:]:
        assert all(torch.equal(one, other) for one, other in zip(result, results[0], strict=True))


@needs_native
def test_the_number_of_threads_may_change_from_call_to_call(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(units=20, lanes=6, steps=9, share_of_resets=None, reads_ids=False, seed=1)
    expected = case.run(NativeKernel())
    for number in [4, 2, 3] * 60:  # a late thread of one call must not meet the next one's
        monkeypatch.setattr(torch, "get_num_threads", lambda number=number: number)
        for part, other in zip(case.run(NativeKernel()), expected, strict=True):
            assert torch.equal(part, other)


@needs_native
@pytest.mark.parametrize("place", ["input", "state", "weights"])
def test_what_is_not_a_number_stays_so(place: str) -> None:
    assert_not_a_number_stays_so(place, NativeKernel())


def assert_not_a_number_stays_so(place: str, kernel: Kernel) -> None:
    case = Case(20, 4, 5, None, False, seed=1)
    part = {"input": case.vectors, "state": case.state[1], "weights": case.layer.weight_hh.data}[place]
    part[0, 0] = float("nan")
    outputs, *_ = case.run(kernel)
    assert outputs[-1].isnan().any()


@needs_native
def test_sums_of_any_size_give_gates_within_a_millionth() -> None:
    assert_gates_are_exact(NativeKernel())


def assert_gates_are_exact(kernel: Kernel, count: int = 4001) -> None:
    values = torch.cat([torch.linspace(-30, 30, count), torch.tensor([0.0, 1e-30, -1e-30, 1e30, -1e30])])
    layer = RecurrentLayer("lstm", 1, len(values))
    for weight in layer.parameters():
        weight.data.zero_()
    layer.bias.data.copy_(values.repeat(4))
    state = (torch.zeros(1, len(values)), torch.ones(1, len(values)))
    outputs, (_, cell) = kernel.run(layer, torch.zeros(1, 1, 1), state, None, "fp32")
    exact = values.double()
    exact_cell = torch.sigmoid(exact) * (1 + torch.tanh(exact))
    assert (cell[0] - exact_cell).abs().max() < 2e-6  # of two gates and a sum
    assert (outputs[0, 0] - torch.sigmoid(exact) * torch.tanh(exact_cell)).abs().max() < 3e-6


@needs_native
def test_going_backward_twice_is_refused() -> None:
    layer = RecurrentLayer("lstm", INPUT, 8)
    state = (torch.zeros(2, 8), torch.zeros(2, 8))
    outputs, _ = NativeKernel().run(layer, torch.randn(3, 2, INPUT), state, None, "fp32")
    outputs.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="only once"):
        outputs.sum().backward()


@needs_native
def test_an_output_cannot_be_changed_in_place() -> None:
    layer = RecurrentLayer("lstm", INPUT, 8)
    state = (torch.zeros(2, 8), torch.zeros(2, 8))
    outputs, _ = NativeKernel().run(layer, torch.randn(3, 2, INPUT), state, None, "fp32")
    with pytest.raises(RuntimeError, match="inplace"):  # the backward pass reads it
        outputs.mul_(2)


@needs_native
def test_windows_in_two_python_threads_are_as_in_one(threads: Any) -> None:
    threads(3)
    cases = [Case(40, 6, 20, 0.2, True, seed=seed) for seed in range(4)]
    expected = [case.run(NativeKernel()) for case in cases]
    found: list[list[list[Tensor]]] = [[] for _ in cases]

    def work(index: int) -> None:
        torch.set_num_threads(3)
        found[index].extend(cases[index].run(NativeKernel()) for _ in range(10))

    workers = [threading.Thread(target=work, args=(index,)) for index in range(len(cases))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for results, exact in zip(found, expected, strict=True):
        assert len(results) == 10
        for result in results:
            torch.testing.assert_close(result, exact, rtol=1e-5, atol=1e-5)


@needs_native
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_computes_too(threads: Any) -> None:
    code = """
import os, torch
from charlm.model.kernels import native
torch.set_num_threads(2)
panels, table, ids = torch.ones(3, 24, 32), torch.ones(1, 96), torch.zeros(5, 6, dtype=torch.int64)
def compute():
    gates, hidden, cell = torch.zeros(5, 3, 6, 32), torch.zeros(6, 6, 24), torch.zeros(6, 3, 6, 8)
    native.call_kernel("forward", gates=gates, hidden=hidden, cell=cell, panels=panels, table=table, ids=ids)
    assert hidden[1:].all()
    return hidden
expected = compute()
child = os.fork()  # torch's own pool of threads would not survive this, so nothing else is computed
if not child:
    os._exit(0 if torch.equal(compute(), expected) else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("units", [1, 8, 13])
def test_packed_rows_come_back_as_they_were(units: int) -> None:
    weight = torch.randn(4 * units, 3)
    packed = pack(weight)
    assert len(packed) % 32 == 0
    assert torch.equal(unpack(packed, units), weight)


def stack_with(kernel: str) -> RecurrentStack:
    torch.manual_seed(0)
    stack = RecurrentStack("lstm", INPUT, 16, 2, NO_REGULARIZATION)
    stack.kernel = kernel
    return stack


@needs_native
def test_the_setting_decides_which_kernel_a_stack_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    call = native.call_kernel
    monkeypatch.setattr(native, "call_kernel", lambda *given, **more: (calls.append(given[0]), call(*given, **more)))
    lanes = choice.FEWEST_LANES
    inputs = torch.randn(3, lanes, INPUT)
    outputs = {}
    for kernel, expected in {"torch": 0, "native": 2, "auto": 2}.items():
        stack = stack_with(kernel)
        calls.clear()
        outputs[kernel], _ = stack(inputs, stack.zero_state(lanes, CPU))
        assert len(calls) == expected
    torch.testing.assert_close(outputs["torch"], outputs["native"], rtol=1e-5, atol=1e-6)


@needs_native
@pytest.mark.parametrize(
    ("cell", "hidden_size", "lanes", "device", "precision", "expected"),
    [
        ("lstm", 128, 32, "cpu", "fp32", "native"),
        ("lstm", choice.MOST_UNITS + 1, 32, "cpu", "fp32", "torch"),
        ("lstm", 128, choice.FEWEST_LANES - 1, "cpu", "fp32", "torch"),
        ("lstm", 128, 32, "cpu", "bf16", "torch"),
        ("lstm", 128, 32, "cuda", "fp32", "torch"),
        ("gru", 128, 32, "cpu", "fp32", "torch"),
    ],
)
def test_auto_takes_the_native_kernel_where_it_is_faster_and_says_why_not(
    cell: str, hidden_size: int, lanes: int, device: str, precision: str, expected: str
) -> None:
    chosen = choose_kernel(cell, hidden_size, lanes, torch.device(device), precision)
    assert chosen.kernel.name == expected
    assert ("not native: " in chosen.reason) == (expected == "torch")


@needs_native
@pytest.mark.parametrize(
    ("count", "short", "expected"), [(2, False, "torch"), (2, True, "native"), (1, False, "native")]
)
def test_auto_leaves_several_threads_to_torch_if_its_own_wait_awake(
    monkeypatch: pytest.MonkeyPatch, threads: Any, count: int, short: bool, expected: str
) -> None:
    threads(count)
    monkeypatch.setattr(choice, "has_short_thread_waits", lambda: short)
    assert choose_kernel("lstm", 64, 32, CPU, "fp32").kernel.name == expected


@pytest.mark.parametrize(("cell", "device", "precision"), [("gru", "cpu", "fp32"), ("lstm", "cpu", "bf16")])
def test_native_is_refused_where_it_cannot_run(
    cell: str, device: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    native = load_native()._replace(bf16="", bf16_problem="this processor has no bf16")
    monkeypatch.setattr(choice, "load_native", lambda: native)
    with pytest.raises(UsageError):
        choose_kernel(cell, 16, 16, torch.device(device), precision, "native")


def test_without_the_library_everything_runs_on_torch() -> None:
    code = """
import torch
from charlm.errors import UsageError
from charlm.model.kernels.choice import choose_kernel
from charlm.model.kernels.library import load_native
assert load_native().library is None
assert choose_kernel("lstm", 128, 32, torch.device("cpu"), "fp32").kernel.name == "torch"
try:
    choose_kernel("lstm", 128, 32, torch.device("cpu"), "fp32", "native")
except UsageError:
    print("refused")
"""
    for setting in ("off", "/nowhere/there is no library.so"):
        environment = {**os.environ, "CHARLM_NATIVE": setting}
        result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert result.stdout == "refused\n", result.stderr


@needs_native
def test_a_library_of_other_sources_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "VERSION", library.VERSION + 1)
    found = load_native.__wrapped__()
    assert found.library is None
    assert "another version" in found.description


def state_bytes(state: State) -> list[bytes]:
    return [np.asarray(part).tobytes() for part in state]


@needs_native
def test_a_window_gives_the_same_bits_every_time() -> None:
    stack = stack_with("native")
    inputs = torch.randn(9, 16, INPUT)
    with torch.no_grad():
        first, second = (stack(inputs, stack.zero_state(16, CPU)) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert state_bytes(first[1]) == state_bytes(second[1])
