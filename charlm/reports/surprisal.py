"""A page that shades each character of a text by how much it surprised a model.

The page holds the text as plain text, in blocks, and beside each block three bytes a character: its bits and its rank.
A script of a few lines shades the blocks that are in view and no others, so a megabyte scrolls as smoothly as a line.
"""

import base64
import html
import unicodedata
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

BLOCK = 2000  # characters that are shaded at a time, if a line ends thereabouts
MOST_BITS = 4095  # hundredths, in twelve bits; as many ranks can be told
SHADES = (0.5, 1, 2, 3, 4, 6, 8, 10, 13)  # bits from which a character has the next, stronger shade
STRONGEST = 0.85
REPLACED = "\N{REPLACEMENT CHARACTER}"

STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1c; --paper: #fff; --heat: 234 88 12 }
@media (prefers-color-scheme: dark) { :root { --ink: #ddd; --paper: #16181c; --heat: 251 120 40 } }
body { margin: 2rem auto; max-width: 62rem; padding: 0 1rem; background: var(--paper); color: var(--ink);
  font: 15px/1.6 system-ui, sans-serif }
h1 { font-size: 1.2rem; overflow-wrap: anywhere }
.text { font: 14px/1.7 ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere }
.text div { white-space: pre-wrap; content-visibility: auto; contain-intrinsic-size: auto 60rem }
.legend { position: sticky; top: 0; padding: .5rem 0; background: var(--paper); z-index: 1 }
.legend i { padding: .2rem .6rem; font-style: normal }
u { text-decoration: none; opacity: .45 }
"""

SCRIPT = """
const limits = %s, blocks = new IntersectionObserver(entries => entries.forEach(show), {rootMargin: "100%%"});
function show(entry) {
  const block = entry.target;
  block.text ??= [...block.textContent];
  if (!entry.isIntersecting) { if (block.shaded) block.textContent = block.text.join(""); block.shaded = false; return }
  if (block.shaded) return;
  const bytes = atob(block.dataset.scores), shaded = document.createDocumentFragment();
  block.text.forEach((character, i) => {
    const [a, b, c] = [0, 1, 2].map(k => bytes.charCodeAt(3 * i + k)), bits = (a * 16 + (b >> 4)) / 100;
    const span = document.createElement("span");
    span.className = "s" + limits.filter(limit => bits >= limit).length;
    span.title = `${bits.toFixed(2)} bits, rank ${(b %% 16) * 256 + c}`;
    if (character === "\\n") span.appendChild(document.createElement("u")).textContent = "\u21b5";
    span.append(character);
    shaded.append(span);
  });
  block.replaceChildren(shaded);
  block.shaded = true;
}
document.querySelectorAll(".text div").forEach(block => blocks.observe(block));
"""


class Writable(Protocol):
    def write(self, data: bytes, /) -> object: ...


def write_page(
    file: Writable,
    title: str,
    unit: str,
    ids: NDArray[np.integer[Any]],
    alphabet: list[str],
    log_probabilities: NDArray[np.float64],
    ranks: NDArray[np.int64],
) -> None:
    """Write the page of a text, ``ids`` of an ``alphabet``, with the scores of each character."""
    bits = -log_probabilities / np.log(2)
    shown = np.array([_shown(character) for character in alphabet])
    shades = [
        f".s{index + 1} {{ background: rgb(var(--heat) / {_opacity(index):.2f}) }}" for index in range(len(SHADES))
    ]
    legend = [f'<i class="s{index}">{"" if index else "< "}{limit:g}</i>' for index, limit in _legend()]
    file.write(
        (
            f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
            '<meta name="viewport" content="width=device-width">'
            f"<style>{STYLE}{' '.join(shades)}</style>\n<h1>{html.escape(title)}</h1>\n"
            f"<p>{len(ids):,} {unit}s, {bits.mean():.4f} bits per {unit} on average. The darker the shading, the "
            f"less the model expected the {unit}; hover to see its bits and its rank (1: the likeliest).</p>\n"
            f'<p class="legend">bits {"".join(legend)}</p>\n<noscript><p>Shading requires JavaScript.</p></noscript>\n'
            '<div class="text">\n'
        ).encode("utf-8", "xmlcharrefreplace")
    )
    packed = _packed(bits, ranks)
    for start, end in _blocks(np.flatnonzero((shown == "\n")[ids]) + 1, len(ids)):
        text = html.escape("".join(shown[ids[start:end]]), quote=False)
        scores = base64.b64encode(packed[start:end].tobytes()).decode("ascii")
        file.write(f'<div data-scores="{scores}">{text}</div>'.encode())
    file.write(f"\n</div>\n<script>{SCRIPT % list(SHADES)}</script>\n".encode())


def _shown(character: str) -> str:
    """One character that can stand in a page and harms nothing: controls as their pictures, format controls (which
    could turn the direction of all the text after them), lone surrogates and the like as U+FFFD.
    """
    if character in "\n\t":
        return character
    if character < " ":
        return chr(0x2400 + ord(character))
    if character == "\x7f":
        return "\u2421"
    return REPLACED if unicodedata.category(character) in {"Cc", "Cf", "Cs", "Cn", "Zl", "Zp"} else character


def _packed(bits: NDArray[np.float64], ranks: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Three bytes a character: twelve bits of hundredths of a bit, twelve of the rank; ``(characters, 3)``."""
    hundredths = np.clip(np.round(bits * 100), 0, MOST_BITS).astype(np.uint32)
    number = (hundredths << 12) | np.minimum(ranks, MOST_BITS).astype(np.uint32)
    return number.astype(">u4").view(np.uint8).reshape(-1, 4)[:, 1:]


def _blocks(line_ends: NDArray[np.int64], characters: int) -> Iterator[tuple[int, int]]:
    """Stretches of about a block, each up to the end of a line if one is near."""
    start = 0
    while start < characters:
        end = min(start + BLOCK, characters)
        nearest = np.searchsorted(line_ends, end)
        if end < characters and nearest < len(line_ends) and line_ends[nearest] < end + BLOCK:
            end = int(line_ends[nearest])
        yield start, end
        start = end


def _opacity(shade: int) -> float:
    return STRONGEST * (shade + 1) / len(SHADES)


def _legend() -> list[tuple[int, float]]:
    """Each shade with the bits from which it is; the first, below which there is none."""
    return [(0, SHADES[0]), *((index + 1, limit) for index, limit in enumerate(SHADES))]
