"""The plot of loss by context length."""

from itertools import pairwise
from xml.etree import ElementTree

import pytest

from charlm.reports.context_plot import HEIGHT, WIDTH, render_context_plot

SVG = "{http://www.w3.org/2000/svg}"


def draw_points(
    seen: list[int], bits: list[float], exact: float, title: str = "play", unit: str = "character"
) -> ElementTree.Element:
    return ElementTree.fromstring(render_context_plot(seen, bits, exact, unit, title))


def test_points_are_ordered_and_scaled() -> None:
    seen, bits = [0, 1, 2, 4, 8], [5.0, 4.0, 3.0, 3.5, 2.0]
    points = draw_points(seen, bits, 1.9).findall(f"{SVG}circle")
    x, y = [float(point.attrib["cx"]) for point in points], [float(point.attrib["cy"]) for point in points]
    assert x == sorted(set(x))
    assert len({round(right - left, 1) for left, right in pairwise(x)}) == 1  # doublings
    assert sorted(bits, reverse=True) == [b for _, b in sorted(zip(y, bits, strict=True))]
    assert y[0] - y[1] == pytest.approx(y[1] - y[2], abs=0.15)
    assert all(0 < value < WIDTH for value in x)
    assert all(0 < value < HEIGHT for value in y)


@pytest.mark.parametrize(
    ("seen", "bits", "exact"), [([0], [2.0], 2.0), ([0, 1], [0.0, 0.0], 0.0), ([0, 1], [29.0, 8.0], 2.0)]
)
def test_extreme_curves_stay_within_plot(seen: list[int], bits: list[float], exact: float) -> None:
    svg = draw_points(seen, bits, exact)
    for name in ("y", "y1", "y2", "cy"):
        for element in svg.iter():
            assert 0 <= float(element.get(name, 1)) <= HEIGHT
    labels = [element for element in svg.findall(f"{SVG}text") if element.get("text-anchor") == "end"]
    assert 3 <= len(labels) <= 12


def test_title_is_escaped() -> None:
    title = '<script>alert(1)</script> & "more"'
    svg = draw_points([0, 1], [3.0, 2.0], 1.0, title)
    assert title in [element.text for element in svg.findall(f"{SVG}text")]
    assert svg.find(f".//{SVG}script") is None


@pytest.mark.parametrize(("unit", "other"), [("character", "byte"), ("byte", "character")])
def test_axes_and_legend_name_the_unit(unit: str, other: str) -> None:
    svg = draw_points([0, 1], [3.0, 2.0], 1.0, unit=unit)
    labels = [element.text or "" for element in svg.findall(f"{SVG}text")]
    assert f"bits per {unit}" in labels
    assert f"{unit}s of context" in labels
    assert not any(other in label for label in labels)


def test_plot_needs_no_network() -> None:
    assert (
        render_context_plot([0, 1], [3.0, 2.0], 1.0, "character", "play").count("http") == 1
    )  # the name of the format
