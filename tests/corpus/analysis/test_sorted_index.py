import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from charlm.corpus.analysis.sorted_index import find_sorted

numbers = st.lists(st.sampled_from([0, 1, 2, 5, 2**63, 2**64 - 2, 2**64 - 1]), max_size=9)


@given(numbers, numbers)
@example([], [0])
@example([1], [2**64 - 1])
def test_find_sorted_matches_python_index(distinct: list[int], wanted: list[int]) -> None:
    distinct = sorted(set(distinct))
    places = find_sorted(np.array(distinct, np.uint64), np.array(wanted, np.uint64))
    assert places.tolist() == [distinct.index(number) if number in distinct else -1 for number in wanted]
