"""The fast kernels against the reference cells: outputs, states and gradients."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from charlm.config import RegularizationSettings
from charlm.model import cells
from charlm.model.kernels.choice import choose_kernel
from charlm.model.kernels.interface import Tokens
from charlm.model.kernels.reference import ReferenceKernel
from charlm.model.kernels.torch import TorchKernel
from charlm.model.language_model import NO_REGULARIZATION
from charlm.model.masks import MaskKey, MaskKind
from charlm.model.recurrent import RecurrentLayer, RecurrentStack
from tests.conftest import needs_bf16
from tests.model.test_native import needs_native

CPU = torch.device("cpu")
INPUT, HIDDEN, TIME = 5, 7, 11


def stack_of(cell: str, num_layers: int) -> RecurrentStack:
    """A stack whose biases are not the tidy ones it starts with."""
    stack = RecurrentStack(cell, INPUT, HIDDEN, num_layers, NO_REGULARIZATION)
    for layer in stack.layers:
        nn.init.normal_(layer.bias)
    return stack


def state_of(cell: str, num_layers: int, lanes: int) -> cells.State:
    parts = range(cells.CELLS[cell].num_states)
    return tuple(torch.randn(num_layers, lanes, HIDDEN, requires_grad=True) for _ in parts)


def reference(
    stack: RecurrentStack, cell: str, inputs: Tensor, state: cells.State, resets: Tensor | None = None
) -> tuple[Tensor, cells.State]:
    kernel, states = ReferenceKernel(), []
    arranged = kernel.arrange(inputs, None if resets is None else resets.numpy())
    outputs = arranged.inputs
    for index, layer in enumerate(stack.layers):
        layer_state = tuple(part[index] for part in state)
        outputs, layer_state = kernel.run(layer, outputs, layer_state, arranged.layout, "fp32")
        states.append(layer_state)
    return kernel.restore(outputs, arranged.layout), tuple(torch.stack(part) for part in zip(*states, strict=True))


Pass = Callable[[Tensor, cells.State], tuple[Tensor, cells.State]]


def outputs_and_gradients(stack: RecurrentStack, run: Pass, inputs: Tensor, state: cells.State) -> list[Tensor]:
    """Outputs, final states, and the gradients of weights, inputs and initial state of a loss that weighs them all."""
    outputs, after = run(inputs, state)
    generator = torch.Generator().manual_seed(1)
    loss = sum((part.float() * torch.randn(part.shape, generator=generator)).sum() for part in (outputs, *after))
    return [outputs.float(), *after, *torch.autograd.grad(loss, [*stack.parameters(), inputs, *state])]


@pytest.mark.parametrize("lanes", [1, 5])
@pytest.mark.parametrize("num_layers", [1, 2, 3])
@pytest.mark.parametrize("cell", cells.CELLS)
def test_outputs_states_and_gradients_match_reference(cell: str, num_layers: int, lanes: int) -> None:
    stack = stack_of(cell, num_layers)
    inputs = torch.randn(TIME, lanes, INPUT, requires_grad=True)
    state = state_of(cell, num_layers, lanes)
    fast = outputs_and_gradients(stack, stack, inputs, state)
    slow = outputs_and_gradients(stack, lambda *given: reference(stack, cell, *given), inputs, state)
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("cell", [pytest.param("lstm", marks=needs_bf16), "gru", "rnn"])
def test_bf16_is_close_to_reference_with_fp32_state(cell: str, num_layers: int) -> None:
    stack = stack_of(cell, num_layers)
    inputs = torch.randn(TIME, 5, INPUT, requires_grad=True)
    state = state_of(cell, num_layers, 5)

    def in_bf16(inputs: Tensor, state: cells.State) -> tuple[Tensor, cells.State]:
        outputs, after = stack(inputs, state, precision="bf16")
        assert all(part.dtype == torch.float32 for part in after)
        return outputs, after

    fast = outputs_and_gradients(stack, in_bf16, inputs, state)
    slow = outputs_and_gradients(stack, lambda *given: reference(stack, cell, *given), inputs, state)
    for ours, theirs in zip(fast, slow, strict=True):
        assert (ours - theirs).norm() < 0.04 * theirs.norm()


@pytest.mark.parametrize("num_layers", [1, 2, 3])
@pytest.mark.parametrize("cell", cells.CELLS)
def test_carried_state_equals_one_long_window(cell: str, num_layers: int) -> None:
    stack = stack_of(cell, num_layers)
    inputs = torch.randn(TIME, 3, INPUT)
    state = state_of(cell, num_layers, 3)
    whole, last = stack(inputs, state)
    first, between = stack(inputs[:4], state)
    second, last_of_two = stack(inputs[4:], between)
    torch.testing.assert_close((torch.cat([first, second]), *last_of_two), (whole, *last), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(stack(inputs[4:], state)[0], second)  # what is carried matters


@pytest.mark.parametrize("cell", cells.CELLS)
def test_lanes_are_independent(cell: str) -> None:
    stack = stack_of(cell, 2)
    inputs = torch.randn(TIME, 3, INPUT)
    state = state_of(cell, 2, 3)
    outputs, _ = stack(inputs, state)
    alone, _ = stack(inputs[:, 1:2], tuple(part[:, 1:2] for part in state))
    torch.testing.assert_close(alone, outputs[:, 1:2], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cell", cells.CELLS)
def test_layer_state_dict_has_two_matrices_and_one_bias(cell: str) -> None:
    layer = RecurrentLayer(cell, INPUT, HIDDEN)
    rows = cells.CELLS[cell].num_gates * HIDDEN
    shapes = {name: tuple(tensor.shape) for name, tensor in layer.state_dict().items()}
    assert shapes == {"weight_ih": (rows, INPUT), "weight_hh": (rows, HIDDEN), "bias": (rows,)}
    assert sorted(name for name, _ in layer.named_parameters()) == sorted(shapes)


def test_only_forget_gate_bias_starts_at_one() -> None:
    gates = RecurrentLayer("lstm", INPUT, HIDDEN).bias.chunk(4)
    assert [gate.tolist() for gate in gates] == [[value] * HIDDEN for value in (0.0, 1.0, 0.0, 0.0)]
    for cell in ("gru", "rnn"):
        assert not RecurrentLayer(cell, INPUT, HIDDEN).bias.any()


@pytest.mark.parametrize("cell", cells.CELLS)
def test_recurrent_matrices_start_orthogonal(cell: str) -> None:
    layer = RecurrentLayer(cell, INPUT, HIDDEN)
    for block in layer.weight_hh.chunk(cells.CELLS[cell].num_gates):
        torch.testing.assert_close(block @ block.T, torch.eye(HIDDEN), rtol=0, atol=1e-5)


@pytest.mark.parametrize("cell", cells.CELLS)
def test_input_matrices_start_within_glorot_bounds(cell: str) -> None:
    layer = RecurrentLayer(cell, 50, 70)
    bound = (6 / (50 + 70)) ** 0.5
    for block in layer.weight_ih.chunk(cells.CELLS[cell].num_gates):
        assert 0.95 * bound < block.abs().max() <= bound


def test_dropout_applies_to_outputs_but_not_state() -> None:
    stack = RecurrentStack("lstm", INPUT, 64, 2, RegularizationSettings(dropout=0.5)).train()
    inputs = torch.randn(TIME, 3, INPUT)
    outputs, (h, _) = stack(inputs, stack.zero_state(3, torch.device("cpu")))
    dropped = (outputs == 0).float().mean().item()
    assert 0.4 < dropped < 0.6
    kept = outputs[-1] != 0
    torch.testing.assert_close(outputs[-1][kept], 2 * h[-1][kept])
    assert not (h == 0).any()
    zero_state = (torch.zeros(3, 64), torch.zeros(3, 64))
    lower, _ = TorchKernel().run(stack.layers[0], inputs, zero_state, None, "fp32")
    above_undropped, _ = TorchKernel().run(stack.layers[1], lower, zero_state, None, "fp32")
    assert not torch.allclose(above_undropped[-1], h[-1])  # between the layers too


@pytest.mark.parametrize("is_locked", [False, True])
@pytest.mark.parametrize("has_resets", [False, True])
@pytest.mark.parametrize("cell", cells.CELLS)
def test_half_of_the_lanes_have_the_same_masks_as_in_the_whole(cell: str, has_resets: bool, is_locked: bool) -> None:
    """In both layers, and where resets rearrange the window."""
    regularization = RegularizationSettings(dropout=0.5, locked_dropout=is_locked, weight_dropout=0.3)
    stack = RecurrentStack(cell, INPUT, 10, 2, regularization).train()
    inputs, state = torch.randn(TIME, 4, INPUT), stack.zero_state(4, torch.device("cpu"))
    resets = torch.rand(TIME, 4).numpy() < 0.3 if has_resets else None
    generator = torch.get_rng_state()
    whole, _ = stack(inputs, state, resets, "fp32", MaskKey(seed=3, window=9))
    halves = [
        stack(
            inputs[:, lanes],
            tuple(part[:, lanes] for part in state),
            None if resets is None else resets[:, lanes],
            "fp32",
            MaskKey(seed=3, window=9, first_lane=lanes.start),
        )[0]
        for lanes in (slice(0, 2), slice(2, 4))
    ]
    assert 0.3 < (whole == 0).float().mean() < 0.7
    torch.testing.assert_close(torch.cat(halves, dim=1), whole)
    assert torch.equal(torch.get_rng_state(), generator)


@pytest.mark.parametrize("has_resets", [False, True])
@pytest.mark.parametrize("kernel", ["torch", pytest.param("native", marks=needs_native)])
def test_locked_dropout_matches_reference_with_one_mask_per_lane(kernel: str, has_resets: bool) -> None:
    regularization = RegularizationSettings(dropout=0.5, locked_dropout=True)
    stack = RecurrentStack("lstm", INPUT, 16, 2, regularization).train()
    stack.kernel = kernel
    key, inputs, state = MaskKey(seed=3, window=9), torch.randn(TIME, 4, INPUT), stack.zero_state(4, CPU)
    resets = torch.rand(TIME, 4).numpy() < 0.3 if has_resets else None
    outputs, _ = stack(inputs, state, resets, "fp32", key)
    expected: Tensor = inputs
    for index, layer in enumerate(stack.layers):
        arranged = ReferenceKernel().arrange(expected, resets)
        layer_state = tuple(part[index] for part in state)
        expected, _ = ReferenceKernel().run(layer, arranged.inputs, layer_state, arranged.layout, "fp32")
        bits = key.draw_for_lanes((MaskKind.OUTPUT, index), 1, 4, 16, CPU)
        expected = expected * (bits < 0) * 2  # one row of the mask for all steps
    torch.testing.assert_close(outputs, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("has_resets", [False, True])
@pytest.mark.parametrize(
    ("cell", "kernel"),
    [("lstm", "torch"), ("gru", "torch"), ("rnn", "torch"), pytest.param("lstm", "native", marks=needs_native)],
)
def test_weight_dropout_matches_reference_with_masked_weights(cell: str, kernel: str, has_resets: bool) -> None:
    """Outputs, and gradients, which dropped weights do not have."""
    key = MaskKey(seed=3, window=9)
    dropping = RecurrentStack(cell, INPUT, HIDDEN, 2, RegularizationSettings(dropout=0, weight_dropout=0.5)).train()
    dropping.kernel = kernel
    masked = copy.deepcopy(dropping)
    masks = []
    for index, layer in enumerate(masked.layers):
        bits = key.draw((MaskKind.WEIGHT, index), layer.weight_hh.numel(), CPU).view(layer.weight_hh.shape)
        masks.append((bits < 0) * 2.0)
        layer.weight_hh.data *= masks[-1]
    assert not torch.equal(*masks)
    inputs, state = torch.randn(TIME, 3, INPUT, requires_grad=True), state_of(cell, 2, 3)
    resets = torch.rand(TIME, 3) < 0.3 if has_resets else None
    window = None if resets is None else resets.numpy()
    fast = outputs_and_gradients(dropping, lambda *given: dropping(*given, window, "fp32", key), inputs, state)
    slow = outputs_and_gradients(masked, lambda *given: reference(masked, cell, *given, resets), inputs, state)
    first_gradient = 1 + len(state)
    for index, (name, _) in enumerate(masked.named_parameters()):
        if name.endswith("weight_hh"):
            slow[first_gradient + index] *= masks[int(name.split(".")[1])]
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=2e-5)
    other_window = dropping(inputs, state, window, "fp32", MaskKey(seed=3, window=10))[0]
    assert not torch.allclose(other_window, fast[0])


def test_evaluation_drops_nothing() -> None:
    regularization = RegularizationSettings(dropout=0.5, locked_dropout=True, weight_dropout=0.5)
    stack = RecurrentStack("lstm", INPUT, HIDDEN, 2, regularization).eval()
    inputs, state = torch.randn(TIME, 3, INPUT), state_of("lstm", 2, 3)
    torch.testing.assert_close(stack(inputs, state), reference(stack, "lstm", inputs, state))


def test_zero_state_has_one_tensor_per_state() -> None:
    for cell, parts in (("lstm", 2), ("gru", 1), ("rnn", 1)):
        state = RecurrentStack(cell, INPUT, HIDDEN, 3, NO_REGULARIZATION).zero_state(2, torch.device("cpu"))
        assert [tuple(part.shape) for part in state] == [(3, 2, HIDDEN)] * parts
        assert not any(part.any() for part in state)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 1.0])
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("cell", cells.CELLS)
def test_resets_match_reference_including_gradients(cell: str, num_layers: int, share: float) -> None:
    stack = stack_of(cell, num_layers)
    resets = torch.rand(TIME, 3, generator=torch.Generator().manual_seed(2)) < share
    inputs, state = torch.randn(TIME, 3, INPUT, requires_grad=True), state_of(cell, num_layers, 3)

    def fast(inputs: Tensor, state: cells.State) -> tuple[Tensor, cells.State]:
        return stack(inputs, state, resets.numpy())

    def slow(inputs: Tensor, state: cells.State) -> tuple[Tensor, cells.State]:
        return reference(stack, cell, inputs, state, resets)

    ours, theirs = outputs_and_gradients(stack, fast, inputs, state), outputs_and_gradients(stack, slow, inputs, state)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("has_resets", [False, True])
@pytest.mark.parametrize("cell", cells.CELLS)
def test_tokens_are_read_as_embedding_rows(cell: str, has_resets: bool) -> None:
    stack, embedding = stack_of(cell, 2), torch.randn(4, INPUT)
    ids, state = torch.randint(4, (TIME, 3)), state_of(cell, 2, 3)
    resets = torch.rand(TIME, 3).numpy() < 0.3 if has_resets else None
    torch.testing.assert_close(stack(Tokens(ids, embedding), state, resets), stack(embedding[ids], state, resets))


@pytest.mark.parametrize(
    ("cell", "device", "expected"),
    [("lstm", "cpu", "oneDNN"), ("gru", "cpu", "no library has a kernel for a GRU on cpu"), ("lstm", "cuda", "cuDNN")],
)
def test_kernel_choice_has_a_reason(cell: str, device: str, expected: str) -> None:
    choice = choose_kernel(cell, HIDDEN, 1, torch.device(device), "fp32")
    assert choice.kernel.name == "torch"
    assert expected in choice.reason
    assert "fp32" in choice.reason
