"""An HTML page that shades each character of a text by its surprisal.

The page contains the text in blocks, with three bytes per character for its bits and rank. A short script shades only
the visible blocks, so that even a megabyte scrolls smoothly.
"""

import html
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.reports.page import Writable, encode_page, end_page, read_asset, show_character, start_page, to_base64

BLOCK = 2000  # characters shaded at once, up to the nearest line end
MAX_PACKED = 4095  # hundredths of a bit, in twelve bits; also the largest rank
SHADE_THRESHOLDS = (0.5, 1, 2, 3, 4, 6, 8, 10, 13)  # bits from which a character has the next, stronger shade
MAX_OPACITY = 0.85


def write_html(
    file: Writable,
    title: str,
    unit: str,
    ids: NDArray[np.integer[Any]],
    alphabet: list[str],
    log_probabilities: NDArray[np.float64],
    ranks: NDArray[np.int64],
) -> None:
    """Write the page of a text (``ids`` of an ``alphabet``) with the scores of each character."""
    bits = -log_probabilities / np.log(2)
    shown = np.array([show_character(character) for character in alphabet])
    shades = [
        f".s{index + 1} {{ background: rgb(var(--heat) / {_opacity(index):.2f}) }}"
        for index in range(len(SHADE_THRESHOLDS))
    ]
    legend = [f'<i class="s{index}">{"" if index else "< "}{limit:g}</i>' for index, limit in _legend()]
    style, script = read_asset("surprisal.css") + " ".join(shades), read_asset("surprisal.js")
    file.write(
        encode_page(
            f"{start_page(title, style, script)}<h1>{html.escape(title)}</h1>\n"
            f"<p>{len(ids):,} {unit}s, {bits.mean():.4f} bits per {unit} on average. The darker the shading, the "
            f"less the model expected the {unit}; hover to see its bits and its rank (1: the likeliest).</p>\n"
            f'<p class="legend">bits {"".join(legend)}</p>\n<noscript><p>Shading requires JavaScript.</p></noscript>\n'
            f'<div class="text" data-limits="{list(SHADE_THRESHOLDS)}">\n'
        )
    )
    packed_scores = _pack_scores(bits, ranks)
    for start, end in _split_blocks(np.flatnonzero((shown == "\n")[ids]) + 1, len(ids)):
        text = html.escape("".join(shown[ids[start:end]]), quote=False)
        file.write(f'<div data-scores="{to_base64(packed_scores[start:end])}">{text}</div>'.encode())
    file.write(f"\n</div>\n{end_page(script)}".encode())


def _pack_scores(bits: NDArray[np.float64], ranks: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Three bytes per character, ``(characters, 3)``: twelve bits for hundredths of a bit, twelve for the rank."""
    hundredths = np.clip(np.round(bits * 100), 0, MAX_PACKED).astype(np.uint32)
    number = (hundredths << 12) | np.minimum(ranks, MAX_PACKED).astype(np.uint32)
    return number.astype(">u4").view(np.uint8).reshape(-1, 4)[:, 1:]


def _split_blocks(line_ends: NDArray[np.int64], characters: int) -> Iterator[tuple[int, int]]:
    """Ranges of about one block, each ending at a line end if one is near."""
    start = 0
    while start < characters:
        end = min(start + BLOCK, characters)
        nearest = np.searchsorted(line_ends, end)
        if end < characters and nearest < len(line_ends) and line_ends[nearest] < end + BLOCK:
            end = int(line_ends[nearest])
        yield start, end
        start = end


def _opacity(shade: int) -> float:
    return MAX_OPACITY * (shade + 1) / len(SHADE_THRESHOLDS)


def _legend() -> list[tuple[int, float]]:
    """Each shade with its threshold in bits; index 0: below the first threshold."""
    return [(0, SHADE_THRESHOLDS[0]), *((index + 1, limit) for index, limit in enumerate(SHADE_THRESHOLDS))]
