"""What all pages have in common: one file each, which asks nothing of a network, and in which no text can do harm.

A page may run one script, whose hash it names: even if markup from a text got into it, nothing in that would run.
"""

import base64
import hashlib
import html
import json
import unicodedata
from importlib.resources import files
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

REPLACED = "\N{REPLACEMENT CHARACTER}"


class Writable(Protocol):
    def write(self, data: bytes, /) -> object: ...


def read_asset(name: str) -> str:
    """A style sheet, script or piece of HTML from ``assets/``."""
    return files("charlm.reports").joinpath("assets", *name.split("/")).read_text(encoding="utf-8")


def start_page(title: str, style: str, script: str) -> str:
    """The page's head. ``style``: rules beside those that all pages share; ``script``: what :func:`end_page` adds."""
    script_hash = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{script_hash}'"
    return (
        '<!doctype html>\n<html lang="en"><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f'<title>{html.escape(title)}</title><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{read_asset('page.css')}{style}</style>\n"
    )


def end_page(script: str) -> str:
    return f"<script>{script}</script>\n"


def json_block(name: str, content: Any) -> str:
    """Data for the script, as ``JSON.parse`` reads it."""
    data = json.dumps(content, ensure_ascii=False, separators=(",", ":")).replace("<", r"\u003c")
    return f'<script type="application/json" id="{name}">{data}</script>\n'


def data_block(name: str, array: NDArray[Any]) -> str:
    """The bytes of an array for the script, in base64."""
    return f'<script type="text/plain" id="{name}">{to_base64(array)}</script>\n'


def to_base64(array: NDArray[Any]) -> str:
    """The bytes of an array, numbers of several bytes with the lowest first."""
    return base64.b64encode(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"))).tobytes()).decode("ascii")


def encode_page(text: str) -> bytes:
    """A part of a page as bytes, whatever lone surrogates a path may have."""
    return text.encode("utf-8", "xmlcharrefreplace")


def show_character(character: str) -> str:
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
