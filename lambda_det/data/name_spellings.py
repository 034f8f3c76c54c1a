"""Ways in which tools spell the name of a file."""

from __future__ import annotations

import unicodedata
from urllib.parse import quote, unquote

# What is changed in a name, and how a message says so.
_SPELLINGS = (
    ("with / for \\", lambda name: name.replace("\\", "/")),
    ("with the codes of a web address decoded", unquote),
    (
        "with the codes of a web address",
        lambda name: quote(name, safe="/\\:", errors="replace"),
    ),
    ("in the Unicode form NFC", lambda name: unicodedata.normalize("NFC", name)),
    ("in the Unicode form NFD", lambda name: unicodedata.normalize("NFD", name)),
)


def spellings_of(name: str) -> dict[str, str]:
    """Ways to spell a name -> how a message calls them; the name itself comes first."""
    found = {name: ""}
    for called, change in _SPELLINGS:
        for text, how in list(found.items()):
            found.setdefault(change(text), listed(how, called))
    return found


def parts_of(text: str) -> list[str]:
    """The folders and the file of a path, without its root and steps up."""
    return [part for part in text.split("/") if part not in ("", ".", "..")]


def listed(*words: str) -> str:
    """Those of the words that are not empty, with commas."""
    return ", ".join(filter(None, words))
