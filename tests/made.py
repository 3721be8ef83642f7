"""Parts of documents that are made from data, between two comments."""

from __future__ import annotations

END = "<!-- end of what is made -->\n"


def replaced(text: str, start: str, part: str) -> str:
    """A document with the part after the comment ``start`` as it should be.

    :raises ValueError: the document lacks one of the comments that the part stands between.
    """
    before, found, rest = text.partition(start)
    _, end, after = rest.partition(END)
    if not (found and end):
        raise ValueError(f"the document lacks {start.strip()} or {END.strip()}")
    return f"{before}{start}{part}{END}{after}"
