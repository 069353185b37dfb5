"""The page of ``charlm inspect`` in a real browser."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from charlm.config import ModelSettings
from charlm.corpus.text import Text
from charlm.corpus.vocabulary import Vocabulary
from charlm.model.language_model import CharacterModel
from charlm.reports.inspection import UnitName, trace_for_page, write_page
from tests.browser import needs_browser
from tests.devtools import Browser, browse

pytestmark = needs_browser

VERSE = 'ROMEO:\nBut soft! (What "light") is 1 it? 😀 é\n\n'
ATTACK = "</script><script>document.title = 'attacked'</script><img src=x onerror=\"document.title = 'attacked'\">\n"
TEXT = VERSE * 12 + ATTACK


def write(path: Path, cell: str, title: str = "play", first: UnitName | None = None) -> CharacterModel:
    """The page of a model with random weights."""
    vocabulary = Vocabulary.from_text(TEXT)
    settings = ModelSettings.model_validate({"cell": cell, "embedding_size": 4, "hidden_size": 12, "num_layers": 2})
    model = CharacterModel(len(vocabulary), settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(1.5 * torch.randn(parameter.shape))
    text = Text.from_string(TEXT, vocabulary)
    trace, _, tracked = trace_for_page(model, text, vocabulary.characters, [first] if first else [])
    with path.open("wb") as file:
        write_page(file, title, "character", trace, vocabulary.characters, tracked, first)
    return model


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browse(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def page(chromium: Browser, tmp_path: Path) -> Iterator[Browser]:
    """The page of an LSTM, opened with unit 3 of layer 1. Whatever a test does, nothing may be wrong at its end."""
    yield from opened(chromium, tmp_path, "lstm")


def opened(chromium: Browser, folder: Path, cell: str) -> Iterator[Browser]:
    path = folder / "page.html"
    write(path, cell, title=ATTACK, first=UnitName(1, 3))
    chromium.errors.clear()
    chromium.requests.clear()
    chromium.open(path)
    yield chromium
    assert chromium.errors == []
    addresses = {address.partition("#")[0] for address in chromium.requests}
    assert addresses <= {path.as_uri()}
    assert "attacked" not in chromium.evaluate("document.title").replace(ATTACK.strip(), "")


SHADES = "[...document.querySelectorAll('#text span')].map(span => span.style.backgroundColor).join()"
CARD = "document.getElementById('card').textContent"
STEP = "document.getElementById('step-words').textContent"


def test_the_whole_text_is_there_and_its_markup_is_text(page: Browser) -> None:
    shown = page.evaluate("document.getElementById('text').textContent")
    assert shown.replace("↵", "") == TEXT
    assert page.evaluate("document.querySelectorAll('#text img, #text script').length") == 0
    assert page.evaluate("document.getElementById('title').textContent") == ATTACK


def test_choosing_unit_layer_or_signal_changes_the_shading(page: Browser) -> None:
    seen = {page.evaluate(SHADES)}
    page.evaluate("document.getElementById('unit-after').click()")
    seen.add(page.evaluate(SHADES))
    page.evaluate("document.getElementById('layer-2').click()")
    seen.add(page.evaluate(SHADES))
    for signal in ("hidden", "forget", "input", "candidate", "output"):
        page.evaluate(f"document.getElementById('signal-{signal}').click()")
        seen.add(page.evaluate(SHADES))
    assert len(seen) == 8
    assert "Layer 2, unit 4: output gate" in page.evaluate("document.getElementById('legend').textContent")
    assert "unit=2:4&show=output" in page.evaluate("location.hash")


def test_a_unit_that_is_typed_is_shown_and_one_that_does_not_exist_is_refused(page: Browser) -> None:
    type_unit = (
        "(input => {{ input.value = {}; input.dispatchEvent(new Event('change')) }})(document.getElementById('unit'))"
    )
    before = page.evaluate(SHADES)
    page.evaluate(type_unit.format(13))
    assert page.evaluate(SHADES) == before
    assert "from 1 to 12" in page.evaluate("document.getElementById('problem').textContent")
    assert page.evaluate("document.getElementById('unit').value") == "3"
    page.evaluate(type_unit.format(12))
    assert page.evaluate(SHADES) != before
    assert page.evaluate("document.getElementById('problem').textContent") == ""


def test_the_shading_is_that_of_the_values(page: Browser) -> None:
    """The color of a gate at a character is as strong as the number that its card tells."""
    page.evaluate("document.getElementById('signal-forget').click()")
    page.evaluate("document.querySelectorAll('#text span')[5].click()")
    value = float(page.evaluate(CARD).partition("The forget gate is ")[2][:4])
    color = page.evaluate("document.querySelectorAll('#text span')[5].style.backgroundColor")
    strength = float(color.rpartition("/")[2].rstrip(" )")) if color else 0
    assert strength == pytest.approx(value, abs=0.02)


def test_pointing_at_a_character_shows_what_is_expected_after_it(page: Browser) -> None:
    before = page.evaluate(CARD)
    page.point_at("#text span:nth-child(3)")
    card = page.evaluate(CARD)
    assert card != before
    assert "At Mcharacter 3" in card.replace(" character", "character")
    assert "bits" in card
    assert page.evaluate("document.querySelectorAll('#card li').length") == 5
    page.point_at("#title")  # away again
    assert page.evaluate(CARD) == before


def test_the_keyboard_moves_through_the_text_and_shows_the_same(page: Browser) -> None:
    page.evaluate("document.getElementById('text').focus()")
    cards = [page.evaluate(CARD)]
    for key in ("Home", "ArrowRight", "ArrowRight", "ArrowDown", "End", "ArrowLeft"):
        page.press(key)
        cards.append(page.evaluate(CARD))
    places = [page.evaluate("document.querySelector('#text .at').index")]
    assert len(set(cards)) == len(cards)
    assert places == [len(TEXT) - 2]
    assert "At " in page.evaluate("document.getElementById('live').textContent")
    assert f"at={len(TEXT) - 1}" in page.evaluate("location.hash")


@pytest.mark.parametrize("width", [320, 800, 1600])
def test_the_text_before_a_step_ends_at_the_step_however_narrow_the_page_is(
    chromium: Browser, tmp_path: Path, width: int
) -> None:
    write(tmp_path / "page.html", "lstm", first=UnitName(1, 3))
    chromium.open(tmp_path / "page.html", width=width)
    chromium.evaluate("document.querySelectorAll('#text span')[200].click()")
    right, left = (
        chromium.evaluate(f"document.querySelector('#step-context {selector}').getBoundingClientRect().{side}")
        for selector, side in (("bdo", "right"), (".at", "left"))
    )
    assert right == pytest.approx(left, abs=8)  # the margin between them


def test_the_step_view_steps_with_arrow_keys_and_buttons(page: Browser) -> None:
    page.evaluate("document.getElementById('step-view').focus()")
    steps = [page.evaluate(STEP)]
    drawings = [page.evaluate("document.querySelector('#drawing svg').textContent")]
    for _ in range(2):
        page.press("ArrowRight")
        steps.append(page.evaluate(STEP))
        drawings.append(page.evaluate("document.querySelector('#drawing svg').textContent"))
    page.evaluate("document.getElementById('step-before').click()")
    assert len(set(steps)) == 3
    assert len(set(drawings)) == 3
    assert page.evaluate(STEP) == steps[1]
    for word in ("Forget", "Write", "Remember", "Show", "memory"):
        assert word in steps[0]


def test_links_to_units_that_track_something_show_them(page: Browser) -> None:
    assert "Upper case" in page.evaluate("document.getElementById('tracked').textContent")
    before = page.evaluate(SHADES)
    link = "document.querySelector('#tracked a:not([href*=\"unit=1:3&\"])')"
    layer, unit = page.evaluate(f"{link}.textContent").split(":")
    page.evaluate(f"{link}.click()")
    page.wait_until(f"document.getElementById('unit').value === '{unit}'")
    assert page.evaluate(f"document.getElementById('layer-{layer}').checked")
    assert page.evaluate(SHADES) != before


def test_an_address_opens_the_page_as_it_was(chromium: Browser, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write(path, "lstm")
    chromium.open(path)
    chromium.call("Page.navigate", url=f"{path.as_uri()}#unit=2:7&show=input&at=9")
    chromium.wait_until("document.getElementById('unit').value === '7'")
    assert chromium.evaluate("document.querySelector('#text .at').index") == 8
    assert chromium.evaluate("document.getElementById('signal-input').checked")


@pytest.mark.parametrize("cell", ["gru", "rnn"])
def test_the_page_adapts_to_other_cells(chromium: Browser, tmp_path: Path, cell: str) -> None:
    for page in opened(chromium, tmp_path, cell):
        signals = page.evaluate("[...document.querySelectorAll('#signal-choice input')].map(input => input.value)")
        assert set(signals) == ({"hidden", "update", "reset", "candidate"} if cell == "gru" else {"hidden"})
        for signal in signals:
            page.evaluate(f"document.getElementById('signal-{signal}').click()")
        shown = page.evaluate("document.body.innerText")
        assert "Forget gate" not in shown
        assert ("no gates" in shown) == (cell == "rnn")


@pytest.mark.parametrize("is_dark", [False, True])
@pytest.mark.parametrize("width", [1400, 390])
def test_nothing_is_wider_than_the_window(chromium: Browser, tmp_path: Path, width: int, is_dark: bool) -> None:
    path = tmp_path / "page.html"
    write(path, "lstm")
    chromium.open(path, width, is_dark=is_dark)
    assert chromium.evaluate("document.documentElement.scrollWidth") == width
    color = chromium.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, color[4:-1].split(","))) < 200) == is_dark


def test_everything_can_be_reached_by_keyboard(page: Browser) -> None:
    reached = set()
    for _ in range(40):
        page.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert {"unit", "unit-before", "unit-after", "signal-cell", "text", "step-view", "step-before", "A"} <= reached
