"""Text of a model does no harm where it is shown."""

import io

import pytest

from charlm.generation.terminal import Output, harmless


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, é 漢 👩\u200d🚀\t\n", "plain, é 漢 👩\u200d🚀\t\n"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("one\r\ntwo\rthree", "one\ntwo\\rthree"),
        ("a\u202eb\u2066c", "a\\u202eb\\u2066c"),
        ("\x00\x7f\x9b", "\\x00\\x7f\\x9b"),
    ],
)
@pytest.mark.parametrize("piecewise", [False, True])
def test_a_terminal_is_not_commanded_by_what_a_model_writes(text: str, shown: str, piecewise: bool) -> None:
    stream = Terminal()
    output = Output(stream)
    for piece in text if piecewise else [text]:
        output.write(piece)
    assert stream.getvalue() == shown


def test_a_pipe_gets_what_the_model_wrote() -> None:
    stream = io.StringIO()
    Output(stream).write("\x1b[31m\r\x00")
    assert stream.getvalue() == "\x1b[31m\r\x00"


def test_a_whole_text_is_shown_as_its_pieces_are() -> None:
    text = "a\r\n\r\x1b[31m\r\r\n"
    stream = Terminal()
    output = Output(stream)
    for piece in text:
        output.write(piece)
    assert stream.getvalue() == harmless(text) == "a\n\\r\\x1b[31m\\r\n"
