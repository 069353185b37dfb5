from dataclasses import dataclass, replace

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from charlm.corpus.variation import NO_VARIATION, Variation
from charlm.corpus.windows import IGNORE_INDEX, Lanes, Window
from tests.conftest import make_text


@dataclass
class Text:
    """A text in which every character is another one, so that each target says where it comes from."""

    length: int
    batch_size: int
    sequence_length: int
    variation: Variation = NO_VARIATION

    @property
    def start_id(self) -> int:
        return self.length

    @property
    def lanes(self) -> Lanes:
        return Lanes(make_text(range(self.length), self.length), self.batch_size, self.sequence_length, self.variation)


@st.composite
def texts(draw: st.DrawFn) -> Text:
    sequence_length = draw(st.integers(1, 20))
    length = draw(st.integers(sequence_length, 300))
    return Text(length, draw(st.integers(1, 12)), sequence_length)


def epoch(lanes: Lanes, number: int = 0) -> list[Window]:
    first = number * lanes.windows_per_epoch
    return [lanes.window(first + index) for index in range(lanes.windows_per_epoch)]


def concatenate(windows: list[Window]) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets of all windows, ``(time, lane)``."""
    return np.concatenate([window.inputs for window in windows]), np.concatenate([window.targets for window in windows])


@given(texts())
def test_concatenated_windows_equal_lane(text: Text) -> None:
    lanes = text.lanes
    inputs, targets = concatenate(epoch(lanes))
    for lane in range(lanes.batch_size):
        stretch = np.arange(text.length)[lane * lanes.lane_length : (lane + 1) * lanes.lane_length]
        assert targets[: len(stretch), lane].tolist() == stretch.tolist()
        assert inputs[1 : len(stretch), lane].tolist() == stretch[:-1].tolist()


@given(texts())
def test_targets_are_shifted_inputs(text: Text) -> None:
    inputs, targets = concatenate(epoch(text.lanes))
    counts = targets[:-1] != IGNORE_INDEX
    assert (inputs[1:][counts] == targets[:-1][counts]).all()


@given(texts())
def test_every_character_is_a_target_once_per_epoch(text: Text) -> None:
    _, targets = concatenate(epoch(text.lanes))
    assert np.sort(targets[targets != IGNORE_INDEX]).tolist() == list(range(text.length))


@given(texts())
def test_padding_is_ignored_and_only_at_end_of_text(text: Text) -> None:
    lanes = text.lanes
    _, targets = concatenate(epoch(lanes))
    in_order = targets.T.flatten()
    assert (in_order[: text.length] != IGNORE_INDEX).all()
    assert (in_order[text.length :] == IGNORE_INDEX).all()
    assert len(in_order) == lanes.batch_size * lanes.lane_length


@given(texts())
def test_padding_inputs_are_valid_ids(text: Text) -> None:
    inputs, _ = concatenate(epoch(text.lanes))
    assert inputs.min() >= 0
    assert inputs[1:].max(initial=0) < text.length


@given(texts(), st.integers(0, 3))
def test_start_token_is_only_at_lane_start(text: Text, number: int) -> None:
    inputs, targets = concatenate(epoch(text.lanes, number))
    assert (inputs[0] == text.start_id).all()
    assert (inputs[1:] != text.start_id).all()
    assert (targets != text.start_id).all()


@given(texts(), st.integers(0, 3))
def test_lanes_reset_only_at_epoch_start(text: Text, number: int) -> None:
    first, *others = epoch(text.lanes, number)
    assert first.new_lanes is not None
    assert first.new_lanes.all()
    assert all(window.new_lanes is None for window in others)


@given(texts(), st.integers(1, 3))
def test_every_epoch_reads_the_same_windows(text: Text, number: int) -> None:
    lanes = text.lanes
    for one, other in zip(epoch(lanes), epoch(lanes, number), strict=True):
        assert (one.inputs == other.inputs).all()
        assert (one.targets == other.targets).all()
        assert one.num_targets == other.num_targets


@given(texts())
def test_windows_can_be_read_in_any_order(text: Text) -> None:
    lanes = text.lanes
    backwards = [lanes.window(number) for number in reversed(range(lanes.windows_per_epoch))]
    inputs, targets = concatenate(backwards[::-1])
    expected = concatenate(epoch(text.lanes))
    assert (inputs == expected[0]).all()
    assert (targets == expected[1]).all()


@given(texts())
def test_num_targets_excludes_ignored_targets(text: Text) -> None:
    windows = epoch(text.lanes)
    assert all(window.num_targets == (window.targets != IGNORE_INDEX).sum() > 0 for window in windows)
    assert sum(window.num_targets for window in windows) == text.length


@given(texts())
def test_only_last_window_is_shorter(text: Text) -> None:
    *full, last = epoch(text.lanes)
    assert all(len(window.inputs) == text.sequence_length for window in full)
    assert 1 <= len(last.inputs) <= text.sequence_length
    assert all(window.inputs.shape == window.targets.shape for window in (*full, last))


@given(texts())
def test_lane_length_is_rounded_up(text: Text) -> None:
    lanes = text.lanes
    assert lanes.lane_length == (text.length + lanes.batch_size - 1) // lanes.batch_size
    assert lanes.windows_per_epoch == (lanes.lane_length + text.sequence_length - 1) // text.sequence_length


@given(texts())
def test_long_text_has_requested_lanes(text: Text) -> None:
    assume(text.length >= text.batch_size * text.sequence_length)
    assert text.lanes.batch_size == text.batch_size


@given(texts())
def test_short_text_has_fewer_lanes(text: Text) -> None:
    lanes = text.lanes
    assert lanes.batch_size == min(text.batch_size, text.length // text.sequence_length)
    assert lanes.lane_length >= text.sequence_length


@given(st.sampled_from([np.uint8, np.uint16, np.uint32]))
def test_windows_are_int64_and_include_start_token(dtype: type) -> None:
    text = replace(make_text([255, 0, 255, 0], 256), raw_ids=np.array([255, 0, 255, 0], dtype=dtype))
    window = Lanes(text, 1, 4).window(0)
    assert window.inputs.dtype == window.targets.dtype == np.int64
    assert window.inputs[:, 0].tolist() == [256, 255, 0, 255]
    assert window.targets[:, 0].tolist() == [255, 0, 255, 0]


# Windows that vary

fractions = st.floats(0, 0.99)


@given(texts(), fractions, st.integers(0, 5), st.integers(0, 3))
def test_windows_of_different_lengths_read_the_same_text(text: Text, fraction: float, seed: int, number: int) -> None:
    varied = replace(text, variation=Variation(seed, length=fraction)).lanes
    windows = epoch(varied, number)
    assert len(windows) == text.lanes.windows_per_epoch
    for actual, expected in zip(concatenate(windows), concatenate(epoch(text.lanes)), strict=True):
        assert (actual == expected).all()
    assert all(window.num_targets == (window.targets != IGNORE_INDEX).sum() for window in windows)
    assert [window.new_lanes is not None for window in windows] == [True] + [False] * (len(windows) - 1)


@given(texts(), fractions, st.integers(0, 5), st.integers(0, 3))
def test_lengths_stay_within_their_limits(text: Text, fraction: float, seed: int, number: int) -> None:
    *full, last = epoch(replace(text, variation=Variation(seed, length=fraction)).lanes, number)
    assert all(1 <= len(window.inputs) <= (1 + fraction) * text.sequence_length for window in (*full, last))
    # Its start may have been moved beyond the end of the text
    assert all(len(window.inputs) >= (1 - fraction) * text.sequence_length for window in full[:-1])


def test_lengths_vary_from_window_to_window_epoch_to_epoch_and_seed_to_seed() -> None:
    def lengths(seed: int, number: int) -> list[int]:
        text = Text(3000, 2, 20, Variation(seed, length=0.5))
        return [len(window.inputs) for window in epoch(text.lanes, number)]

    first = lengths(1, 0)
    assert min(first) < 15
    assert max(first) > 25
    assert sum(first) == 1500
    assert lengths(1, 0) == first
    assert lengths(1, 1) != first
    assert lengths(2, 0) != first


def test_relative_length_is_the_mean_of_windows() -> None:
    varied, plain = Text(3000, 2, 20, Variation(1, length=0.5)).lanes, Text(3000, 2, 20).lanes
    windows = epoch(varied)[3:6]
    assert varied.relative_length(windows) == sum(len(window.inputs) for window in windows) / 60 != 1
    assert plain.relative_length([epoch(plain)[-1]]) == 1  # although an epoch's last window may be shorter


@given(texts(), st.integers(0, 5), st.integers(0, 3))
def test_random_resets_begin_like_a_text(text: Text, seed: int, number: int) -> None:
    resetting = replace(text, variation=Variation(seed, reset_probability=0.3)).lanes
    for actual, expected in zip(epoch(resetting, number), epoch(text.lanes, number), strict=True):
        reset = np.zeros(resetting.batch_size, dtype=bool) if actual.new_lanes is None else actual.new_lanes
        assert (actual.targets == expected.targets).all()
        assert (actual.inputs[1:] == expected.inputs[1:]).all()
        assert (actual.inputs[0] == np.where(reset, text.start_id, expected.inputs[0])).all()


def test_random_resets_have_their_probability() -> None:
    def resets(seed: int, number: int = 0) -> np.ndarray:
        text = Text(8000, 8, 2, Variation(seed, reset_probability=0.1))
        masks = [window.new_lanes for window in epoch(text.lanes, number)[1:]]
        return np.stack([np.zeros(8, dtype=bool) if mask is None else mask for mask in masks])

    first = resets(1)
    assert abs(first.mean() - 0.1) < 4 * (0.1 * 0.9 / first.size) ** 0.5
    assert (np.abs(first.mean(0) - 0.1) < 5 * (0.1 * 0.9 / len(first)) ** 0.5).all()  # of every lane
    assert (resets(1) == first).all()
    assert (resets(1, 1) != first).any()
    assert (resets(2) != first).any()
