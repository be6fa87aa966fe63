"""Names from elsewhere: harmless on a terminal, on a page, on a disk, in a spreadsheet."""

import re
import unicodedata
from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")
_JOINERS = "\u200c\u200d"  # without width, and part of words in many scripts
_LONGEST = 50  # letters, which fit 255 bytes also where each takes four
_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])", re.IGNORECASE)  # devices of Windows
_FORMULAS = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")  # the last four as wide as Chinese letters


def printable(text: str) -> str:
    r"""One line on which nothing acts or hides.

    Control characters, marks that turn the direction of writing, and halves of characters stand there as Python writes
    them.

    >>> from captum_vit.names import printable
    >>> printable("cat\x1b[2J\u202egnp.jpg")
    'cat\\x1b[2J\\u202egnp.jpg'
    """
    return text if text.isprintable() else "".join(c if _shows(c) else _escaped(c) for c in text)


def _shows(c: str) -> bool:
    return c.isprintable() or c in _JOINERS or unicodedata.category(c) == "Zs"


def _escaped(c: str) -> str:
    return c.encode("unicode_escape").decode()


def safe_name(text: str, default: str) -> str:
    """A name for a file or folder, of letters, digits, `-` and `_`, whatever the text holds.

    >>> from captum_vit.names import safe_name
    >>> safe_name("--help; rm *", "image"), safe_name("CON", "image"), safe_name("...", "image")
    ('help__rm', 'CON_', 'image')

    It begins with no `-`, which commands would take for an option, and is no device of Windows.
    """
    text = unicodedata.normalize("NFC", text)
    kept = "".join(c if c.isalnum() or c in "-_" else "_" for c in text).lstrip("-_")[:_LONGEST].rstrip("_")
    return f"{kept}_" if _RESERVED.fullmatch(kept) else kept or default


def distinct(names: Iterable[str]) -> list[str]:
    """The names, those that were there already with a number, also where upper and lower case are the same.

    >>> from captum_vit.names import distinct
    >>> distinct(["cat", "Cat", "dog"])
    ['cat', 'Cat-2', 'dog']
    """
    used: set[str] = set()
    found = []
    for base in names:
        name, count = base, 2
        while name.casefold() in used:
            name, count = f"{base}-{count}", count + 1
        used.add(name.casefold())
        found.append(name)
    return found


def cell(name: T) -> T | str:
    """A name as a cell of a spreadsheet: behind an apostrophe, where a program would take it for a formula and run it.

    What is no text, as a number, stays what it is.

    >>> from captum_vit.names import cell
    >>> cell("tabby"), cell("=HYPERLINK(A1)"), cell(" -2+3")
    ('tabby', "'=HYPERLINK(A1)", "' -2+3")
    """
    runs = isinstance(name, str) and (name.startswith(_FORMULAS) or name.lstrip().startswith(_FORMULAS))
    return f"'{name}" if runs else name
