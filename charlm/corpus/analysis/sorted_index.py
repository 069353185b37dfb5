"""Looking numbers up by the million in a sorted array: what a dictionary does, with a fraction of its memory."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]


def find_sorted(distinct: NDArray[np.integer[Any]], wanted: NDArray[np.integer[Any]]) -> IntArray:
    """Where each wanted number stands in an ascending array of distinct ones; −1 where it does not."""
    places = np.searchsorted(distinct, wanted)
    there = places < len(distinct)
    there[there] = distinct[places[there]] == wanted[there]
    return np.where(there, places, -1)
