"""Looking numbers up by the million in a sorted array: what a dictionary does, with a fraction of its memory."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]


def find_sorted(distinct: NDArray[np.integer[Any]], wanted: NDArray[np.integer[Any]]) -> IntArray:
    """Where each wanted number stands in an ascending array of distinct ones; −1 where it does not."""
    indices = np.searchsorted(distinct, wanted)
    is_found = indices < len(distinct)
    is_found[is_found] = distinct[indices[is_found]] == wanted[is_found]
    return np.where(is_found, indices, -1)
