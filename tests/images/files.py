"""Files as scanners, microscopes and cameras write them, without a library for each."""

import struct
import zlib

import numpy as np

RAMP = np.linspace(0, 1, 40 * 60).reshape(40, 60)  # from black to white
COLOURS = np.stack([RAMP, RAMP[::-1], RAMP[:, ::-1]], 2)


def png(values: np.ndarray, kind: int) -> bytes:
    """A PNG of 16 bits: greys (kind 0), colours (2), greys with alpha (4), colours with alpha (6)."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, kind, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    pixels = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


def tiff(*pages: np.ndarray, order: str = "<", tags: dict[int, tuple[int, bytes]] | None = None) -> bytes:
    """A TIFF without compression, one page after another.

    Args:
        pages: (height, width) or (height, width, channels), of any numbers.
        order: of bytes, "<" or ">".
        tags: more of them, number -> (type, value).
    """
    file = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HI", 42, 8)
    for number, page in enumerate(pages, 1):
        channels = page.shape[2] if page.ndim == 3 else 1
        strip = page.astype(page.dtype.newbyteorder(order)).tobytes()
        entries = {
            256: (4, struct.pack(f"{order}I", page.shape[1])),
            257: (4, struct.pack(f"{order}I", page.shape[0])),
            258: (3, struct.pack(f"{order}{channels}H", *[8 * page.dtype.itemsize] * channels)),
            259: (3, struct.pack(f"{order}H", 1)),
            262: (3, struct.pack(f"{order}H", 2 if channels == 3 else 1)),
            273: (4, b""),  # where the strip begins, filled in below
            277: (3, struct.pack(f"{order}H", channels)),
            278: (4, struct.pack(f"{order}I", page.shape[0])),
            279: (4, struct.pack(f"{order}I", len(strip))),
            339: (3, struct.pack(f"{order}{channels}H", *["_uif".index(page.dtype.kind)] * channels)),
            **(tags or {}),
        }
        after = len(file) + 2 + 12 * len(entries) + 4
        longer = b"".join(value for _, value in dict(sorted(entries.items())).values() if len(value) > 4)
        entries[273] = (4, struct.pack(f"{order}I", after + len(longer)))
        directory, held = struct.pack(f"{order}H", len(entries)), after
        for tag, (form, value) in sorted(entries.items()):
            count = len(value) // {2: 1, 3: 2, 4: 4}[form]
            directory += struct.pack(f"{order}HHI", tag, form, count)
            if len(value) > 4:
                directory, held = directory + struct.pack(f"{order}I", held), held + len(value)
            else:
                directory += value.ljust(4, b"\0")
        end = after + len(longer) + len(strip)
        file += directory + struct.pack(f"{order}I", end if number < len(pages) else 0) + longer + strip
    return file
