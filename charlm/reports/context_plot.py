"""Plot loss by context length as an SVG that adapts to light and dark mode."""

import html
import math
from collections.abc import Sequence

WIDTH, HEIGHT = 720, 420
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 68, 56  # margins of the axes
TICK_STEPS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5)  # bits
MAX_TICKS = 8

STYLE = """
svg { color-scheme: light dark; background: #fff; color: #222; font: 14px system-ui, sans-serif }
.curve { stroke: #c2410c } .point { fill: #c2410c } .exact { stroke: #2563eb } .exact-label { fill: #2563eb }
@media (prefers-color-scheme: dark) {
  svg { background: #16181c; color: #ddd }
  .curve { stroke: #fb923c } .point { fill: #fb923c } .exact { stroke: #7aa7ff } .exact-label { fill: #7aa7ff }
}
text { fill: currentColor } .title { font-size: 16px; font-weight: 600 }
.grid { stroke: currentColor; stroke-opacity: .15 } .curve, .exact { fill: none; stroke-width: 2 }
.exact { stroke-dasharray: 6 5 }
"""


def render_context_plot(context: Sequence[int], bits: Sequence[float], exact_bits: float, unit: str, title: str) -> str:
    """Bits per character (or per byte: ``unit``) by context length, each length double the one before, after 0.

    The dashed line is the exact loss, for which the state is carried through the whole text.
    """
    ticks = _ticks(min(*bits, exact_bits), max(*bits, exact_bits))
    places = [0.0 if seen == 0 else 1 + math.log2(seen) for seen in context]

    def x(place: float) -> float:
        return LEFT + place / max(places[-1], 1) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return TOP + (ticks[-1] - value) / (ticks[-1] - ticks[0]) * (HEIGHT - TOP - BOTTOM)

    parts = [_text(LEFT, 28, title, "start", "title")]
    for tick in ticks:
        parts.append(_line(LEFT, y(tick), WIDTH - RIGHT, y(tick), "grid"))
        parts.append(_text(LEFT - 10, y(tick) + 5, f"{tick:g}", "end"))
    for place, seen in zip(places, context, strict=True):
        parts.append(_text(x(place), HEIGHT - BOTTOM + 22, f"{seen}", "middle"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, f"{unit}s of context", "middle"))
    parts.append(_text(LEFT, 52, f"bits per {unit}", "start"))
    parts.append(_line(LEFT, y(exact_bits), WIDTH - RIGHT, y(exact_bits), "exact"))
    label = f"full context: {exact_bits:.3f}"
    parts.append(_text(WIDTH - RIGHT, y(exact_bits) - 10, label, "end", "exact-label"))
    points = [(x(place), y(value)) for place, value in zip(places, bits, strict=True)]
    parts.append(f'<polyline class="curve" points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in points)}"/>')
    for (a, b), seen, value in zip(points, context, bits, strict=True):
        tip = f"<title>{value:.3f} bits, context {seen}</title>"
        parts.append(f'<circle class="point" cx="{a:.1f}" cy="{b:.1f}" r="4">{tip}</circle>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">'
        f"<style>{STYLE}</style>\n" + "\n".join(parts) + "\n</svg>\n"
    )


def _ticks(lowest: float, highest: float) -> list[float]:
    """A few round numbers that enclose all values."""
    step = next((step for step in TICK_STEPS if (highest - lowest) / step < MAX_TICKS - 1), TICK_STEPS[-1])
    first, last = math.floor(lowest / step), math.floor(highest / step) + 1
    return [round(number * step, 2) for number in range(first, last + 1)]


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str, kind: str = "") -> str:
    shown = html.escape(text)
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{shown}</text>'
