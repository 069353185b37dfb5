"""The page of an inspection as a file: what it holds is what was traced, and no character does harm."""

import base64
import io
import json
import re
from typing import Any

import numpy as np
import pytest
import torch

from charlm.config import ModelSettings
from charlm.corpus.text import Text
from charlm.corpus.vocabulary import Vocabulary
from charlm.inspection.traces import Trace, trace_text
from charlm.inspection.tracking import TrackedProperty, TrackingUnit
from charlm.model.language_model import CharacterModel
from charlm.reports import inspection
from charlm.reports.inspection import UnitName, choose_units, max_characters, trace_for_page, write_page

POEM = 'The "wolves" count\n (some) sheep.\n'


def make_trace(text: str = POEM, cell: str = "lstm") -> tuple[Trace, Vocabulary]:
    vocabulary = Vocabulary.from_text(text)
    settings = ModelSettings.model_validate({"cell": cell, "embedding_size": 4, "hidden_size": 6, "num_layers": 2})
    model = CharacterModel(len(vocabulary), settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(2 * torch.randn(parameter.shape))
    return trace_text(model, Text.from_string(text, vocabulary), vocabulary.characters), vocabulary


def page_of(text: str = POEM, cell: str = "lstm", title: str = "play", **options: Any) -> str:
    trace, vocabulary = make_trace(text, cell)
    file = io.BytesIO()
    write_page(file, title, "character", trace, vocabulary.characters, [], **options)
    return file.getvalue().decode()


def content_of(page: str) -> dict[str, Any]:
    (data,) = re.findall(r'<script type="application/json" id="content">(.*?)</script>', page)
    content: dict[str, Any] = json.loads(data)
    return content


def block_of(page: str, name: str, kind: str = "u1") -> Any:
    (data,) = re.findall(f'<script type="text/plain" id="{name}">([^<]*)</script>', page)
    return np.frombuffer(base64.b64decode(data), dtype=f"<{kind}")


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_the_blocks_hold_every_signal_of_every_unit(cell: str) -> None:
    torch.manual_seed(5)
    trace, _ = make_trace(cell=cell)
    torch.manual_seed(5)
    page = page_of(cell=cell)
    content = content_of(page)
    assert content["text"] == POEM
    assert content["signals"] == list(trace.signal_names)
    for number, layer in enumerate(trace.layers, 1):
        for name, values in layer.signals.items():
            bytes_ = block_of(page, f"layer-{number}-{name}").reshape(6, len(POEM) + 1).T.astype(float)
            if name in layer.use.gates:
                found, step = bytes_ / 255, np.full(6, 1 / 255)
            else:
                scale = np.array(content["layers"][number - 1]["cell_scales"]) if name == "cell" else np.ones(6)
                found, step = (bytes_ - 127) / 127 * scale, scale / 127
            assert (np.abs(found[1:] - values) <= 0.51 * step).all()
            assert (np.abs(found[0] - layer.start[name]) <= 0.51 * step).all()


def test_bits_ranks_and_the_next_characters_are_there() -> None:
    torch.manual_seed(5)
    trace, vocabulary = make_trace()
    torch.manual_seed(5)
    page = page_of()
    np.testing.assert_allclose(block_of(page, "bits", "u2") / 100, -trace.log_probabilities / np.log(2), atol=0.006)
    assert np.array_equal(block_of(page, "ranks", "u2"), trace.ranks)
    assert np.array_equal(block_of(page, "next-ids", "u2").reshape(-1, 5), trace.next_ids)
    found = block_of(page, "next-probabilities", "u2").reshape(-1, 5) / 65535
    np.testing.assert_allclose(found, trace.next_probabilities, atol=1e-5)
    assert content_of(page)["labels"] == vocabulary.characters


def test_markup_is_escaped() -> None:
    text = "</script><script>alert('&amp;')</script>"
    page = page_of(text, title=text)
    assert content_of(page)["text"] == text
    assert page.count("<script>") == 1
    assert page.count("</script>") == page.count("<script")
    assert "<title>&lt;/script&gt;" in page


def test_undisplayable_characters_are_replaced() -> None:
    assert content_of(page_of("a\r\x1b\u202eb"))["text"] == "a␍␛\ufffdb"
    assert content_of(page_of("a\n\tb", title="\udcff"))["text"] == "a\n\tb"


def test_it_needs_no_network_and_forbids_it() -> None:
    page = page_of()
    assert not re.search(r"\bsrc=|url\((?!#)|@import|\bfetch\(|XMLHttpRequest|<link|<img", page)
    assert set(re.findall(r"https?://[^\s\"']*", page)) == {"http://www.w3.org/2000/svg"}  # a name, not an address
    assert "default-src 'none'" in page


def test_it_opens_with_the_unit_that_was_named() -> None:
    content = content_of(page_of(first=UnitName(2, 3), first_signal="forget"))
    assert content["first"] == {"layer": 2, "unit": 3}
    assert content["first_signal"] == "forget"
    assert content_of(page_of())["first_signal"] == "cell"


def property_of(*units: tuple[int, int]) -> TrackedProperty:
    tracking = tuple(TrackingUnit(layer, unit, 0.9, 0.9, False) for layer, unit in units)
    return TrackedProperty("digit", False, 40, 9, tracking)


def test_named_units_come_first_then_the_best_of_each_property() -> None:
    tracked = [property_of((1, 4), (1, 5)), property_of((2, 1), (1, 4))]
    assert choose_units([UnitName(2, 6)], tracked, 8) == {0: [3, 4], 1: [0, 5]}
    assert choose_units([], [], 8) == {0: list(range(8))}
    many = [UnitName(1, unit) for unit in range(1, 101)]
    assert choose_units(many, tracked, 200) == {0: list(range(64))}


def test_the_limit_is_about_1350_characters_of_three_layers_of_512() -> None:
    assert max_characters(3 * 512, 6) == pytest.approx(1350, abs=50)


@pytest.mark.parametrize("extra", [0, 1])
def test_a_page_with_all_units_stays_below_16_megabytes(extra: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a limit of 1 MB, so that the test does not take long."""
    monkeypatch.setattr(inspection, "MAX_PAGE_BYTES", 1 << 20)
    vocabulary = Vocabulary([chr(0x4E00 + id_) for id_ in range(50)])
    model = CharacterModel(50, ModelSettings(embedding_size=4, hidden_size=96, num_layers=1))
    length = max_characters(96, 6) + extra
    text = Text(vocabulary, np.arange(length) % 50)
    trace, _, tracked = trace_for_page(model, text, vocabulary.characters, [UnitName(1, 90)])
    file = io.BytesIO()
    write_page(file, "play", "character", trace, vocabulary.characters, tracked)
    assert len(file.getvalue()) < 1 << 20
    units = content_of(file.getvalue().decode())["layers"][0]["units"]
    assert (len(units) == 96) == (extra == 0)
    assert 90 in units


def test_all_units_can_be_kept_beside_a_page_with_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "MAX_PAGE_BYTES", inspection.RESERVED_BYTES)
    vocabulary = Vocabulary.from_text(POEM)
    model = CharacterModel(len(vocabulary), ModelSettings(embedding_size=4, hidden_size=6, num_layers=2))
    text, named = Text.from_string(POEM, vocabulary), [UnitName(2, 3)]
    few, same, _ = trace_for_page(model, text, vocabulary.characters, named)
    some, whole, _ = trace_for_page(model, text, vocabulary.characters, named, wants_all_units=True)
    assert few is same
    assert whole.signal("forget").shape == (2, len(POEM), 6)
    for trace in (few, some):
        assert [layer.units.tolist() for layer in trace.layers] == [[], [2]]
        np.testing.assert_allclose(trace.layers[1].signals["cell"][:, 0], whole.signal("cell")[1, :, 2])
