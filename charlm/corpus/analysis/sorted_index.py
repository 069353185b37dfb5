"""Vectorized lookup in a sorted array, which takes a fraction of a dictionary's memory."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]


def find_sorted(distinct: NDArray[np.integer[Any]], wanted: NDArray[np.integer[Any]]) -> IntArray:
    """The index of each wanted number in an ascending array of distinct numbers, or −1."""
    indices = np.searchsorted(distinct, wanted)
    is_found = indices < len(distinct)
    is_found[is_found] = distinct[indices[is_found]] == wanted[is_found]
    return np.where(is_found, indices, -1)
