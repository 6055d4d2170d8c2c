"""Just enough of DER (X.690) to take apart what a parser has taken for good already.

Comparing the bytes of a part with what they must be is stricter than comparing what a library made
of them, and a tenth of the work.
"""

from __future__ import annotations


def elements(data: bytes) -> list[bytes]:
    """The elements, whole, that stand in `data` one behind the other.

    Tags have one byte, as all in X.509 have. ValueError or IndexError where an element is broken.
    """
    found, start = [], 0
    while start < len(data):
        content, length = start + 2, data[start + 1]
        if length >= 0x80:
            content += length & 0x7F
            length = int.from_bytes(data[start + 2 : content], "big")
        end = content + length
        found.append(data[start:end])
        start = end
    if start > len(data):
        raise ValueError("an element that is longer than what it stands in")
    return found


def parts(element: bytes) -> list[bytes]:
    """The elements that an element consists of."""
    return elements(content(element))


def content(element: bytes) -> bytes:
    """What stands in an element."""
    size = element[1]
    return element[2 + (size & 0x7F if size >= 0x80 else 0) :]


def element(tag: int, *contents: bytes) -> bytes:
    """An element of at most 255 bytes."""
    data = b"".join(contents)
    length = bytes((len(data),)) if len(data) < 128 else bytes((0x81, len(data)))
    return bytes((tag,)) + length + data
