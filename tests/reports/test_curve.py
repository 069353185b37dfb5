"""The plot of loss by context length."""

from itertools import pairwise
from xml.etree import ElementTree

import pytest

from charlm.reports.curve import HEIGHT, WIDTH, picture

SVG = "{http://www.w3.org/2000/svg}"


def drawn(
    seen: list[int], bits: list[float], exact: float, title: str = "play", unit: str = "character"
) -> ElementTree.Element:
    return ElementTree.fromstring(picture(seen, bits, exact, unit, title))


def test_every_value_is_a_point_further_right_and_as_high_as_it_is_large() -> None:
    seen, bits = [0, 1, 2, 4, 8], [5.0, 4.0, 3.0, 3.5, 2.0]
    points = drawn(seen, bits, 1.9).findall(f"{SVG}circle")
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
def test_flat_steep_and_lonely_curves_stay_in_the_picture(seen: list[int], bits: list[float], exact: float) -> None:
    svg = drawn(seen, bits, exact)
    for name in ("y", "y1", "y2", "cy"):
        for element in svg.iter():
            assert 0 <= float(element.get(name, 1)) <= HEIGHT
    labels = [element for element in svg.findall(f"{SVG}text") if element.get("text-anchor") == "end"]
    assert 3 <= len(labels) <= 12


def test_a_title_is_a_title_whatever_is_in_it() -> None:
    title = '<script>alert(1)</script> & "more"'
    svg = drawn([0, 1], [3.0, 2.0], 1.0, title)
    assert title in [element.text for element in svg.findall(f"{SVG}text")]
    assert svg.find(f".//{SVG}script") is None


@pytest.mark.parametrize(("unit", "other"), [("character", "byte"), ("byte", "character")])
def test_axes_and_legend_name_the_unit(unit: str, other: str) -> None:
    svg = drawn([0, 1], [3.0, 2.0], 1.0, unit=unit)
    labels = [element.text or "" for element in svg.findall(f"{SVG}text")]
    assert f"bits per {unit}" in labels
    assert f"{unit}s of context" in labels
    assert not any(other in label for label in labels)


def test_it_needs_no_network() -> None:
    assert picture([0, 1], [3.0, 2.0], 1.0, "character", "play").count("http") == 1  # the name of the format
