"""Read FASTA by blocks of whole records: tens of millions of records without a Python object for every line.

A block is looked at as an array of bytes: where lines and records begin, which letters are nucleotides, where an id
ends. Whatever is the least bit unusual (a letter that is no nucleotide, a header beyond ASCII, an empty sequence) goes
through the reader that knows all cases, `raypipe.sources.read_records`, so that both give the same.
"""

from __future__ import annotations

import io
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import Any, BinaryIO, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute

from raypipe.batches import GOOD, Batch, in_batches
from raypipe.cleaning import BAD, CANONICAL
from raypipe.records import Record

BLOCK = 4 << 20
# Blocks that are read, and unpacked, while the one before is looked at.
AHEAD = 2
ReadSlowly = Callable[[io.BufferedReader, int], Iterator[Record]]
"""(some whole records, the number of their first line in the file) -> what they hold."""
Item = TypeVar("Item")

pc: Any = pyarrow.compute  # it makes its functions while it is imported
_BEGIN = b"\n>"
# What Python takes for blanks, beside those that Arrow does.
_ODD_BLANKS = (b"\x1c", b"\x1d", b"\x1e", b"\x1f")


def read_blocks(file: BinaryIO, size: int = BLOCK) -> Iterator[bytes]:
    """The content of `file` in pieces that end where a record begins; a record beyond `size` bytes stays whole."""
    pieces: list[bytes] = []
    while data := file.read(size):
        # The mark may lie across two reads.
        if pieces and pieces[-1].endswith(b"\n") and data.startswith(b">"):
            yield b"".join(pieces)
            pieces = []
        cut = data.rfind(_BEGIN) + 1
        if cut:
            yield b"".join([*pieces, data[:cut]])
            pieces = []
        pieces.append(data[cut:])
    if any(pieces):
        yield b"".join(pieces)


def clean_blocks(blocks: Iterable[bytes], read_slowly: ReadSlowly) -> Iterator[Batch]:
    """The records of FASTA in order.

    Args:
        blocks: as `read_blocks` gives them; they are read ahead in a thread.
    """
    line = 1
    for block in ahead(blocks):
        yield from _clean(block, line, read_slowly)
        line += block.count(b"\n")


def ahead(items: Iterable[Item], depth: int = AHEAD) -> Iterator[Item]:
    """`items` in their order, made in a thread while the last one is at work; their errors come here."""
    made: queue.Queue[tuple[Item | None, BaseException | None]] = queue.Queue(depth)
    stopped = threading.Event()

    def put(item: Item | None, error: BaseException | None = None) -> None:
        while not stopped.is_set():
            try:
                made.put((item, error), timeout=0.1)
                return
            except queue.Full:
                continue

    def make() -> None:
        try:
            for item in items:
                put(item)
                if stopped.is_set():
                    return
        except BaseException as error:
            put(None, error)
        else:
            put(None, StopIteration())

    # A daemon: one that waits for a pipe that says nothing must not keep a stopped run alive.
    threading.Thread(target=make, daemon=True).start()
    try:
        while True:
            item, error = made.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # pyright: ignore[reportReturnType] (None comes with an error only)
    finally:
        stopped.set()


def _clean(block: bytes, line: int, read_slowly: ReadSlowly) -> Iterator[Batch]:
    """Of one block: runs of good records as they are, runs of odd ones slowly, in turn."""
    letters = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero(letters == ord("\n"))
    if not block.endswith(b"\n"):
        ends = np.append(ends, len(block))
    begins = np.append(0, ends[:-1] + 1)
    heads = np.flatnonzero(letters[begins] == ord(">"))
    if not len(heads) or heads[0] != 0:
        # Something stands before the first record.
        yield from _slowly(block, line, read_slowly)
        return
    starts = begins[heads]
    stops = np.append(starts[1:], len(block))

    # Headers from ">" to the line's end; all the rest is sequence, but for line ends.
    marks = np.zeros(len(block) + 1, np.int8)
    marks[starts] = 1
    marks[ends[heads]] = -1
    in_header = np.cumsum(marks[:-1], dtype=np.int8).view(bool)
    in_sequence = ~in_header
    in_header[starts] = False  # the ">" is of neither
    in_sequence[ends[ends < len(block)]] = False
    # Those of DOS have two letters.
    returns = np.maximum(ends - 1, 0)
    returns = returns[(letters[returns] == ord("\r")) & in_sequence[returns]]
    in_sequence[returns] = False

    canonical = np.frombuffer(block.translate(CANONICAL), np.uint8)
    strange = in_sequence & (canonical == BAD)
    if not block.isascii():
        strange |= letters > 127
    for blank in _ODD_BLANKS:
        if blank in block:
            strange |= letters == blank[0]
    counted = np.flatnonzero(in_sequence)
    lengths = np.diff(np.searchsorted(counted, np.append(starts, len(block))))
    ids, descriptions = _split_headers(letters, in_header, starts, ends[heads])
    odd = lengths == 0
    odd[np.searchsorted(starts, np.flatnonzero(strange), side="right") - 1] = True
    odd |= pc.equal(ids, "").to_numpy(zero_copy_only=False)

    text = canonical[in_sequence].tobytes()
    places = np.append(0, np.cumsum(lengths))
    columns = [ids, descriptions, pa.array(lengths, pa.int32()), _strings(text, places)]
    rows = pa.RecordBatch.from_arrays(columns, schema=GOOD)
    edges = np.flatnonzero(np.diff(odd)) + 1
    for first, last in pairwise([0, *edges.tolist(), len(odd)]):
        if odd[first]:
            piece = block[starts[first] : stops[last - 1]]
            yield from _slowly(piece, line + int(heads[first]), read_slowly)
        else:
            yield Batch(rows.slice(first, last - first), [])


def _slowly(piece: bytes, line: int, read_slowly: ReadSlowly) -> Iterator[Batch]:
    return in_batches(read_slowly(io.BufferedReader(io.BytesIO(piece)), line))  # pyright: ignore[reportArgumentType]


def _split_headers(
    letters: np.ndarray, in_header: np.ndarray, starts: np.ndarray, ends: np.ndarray
) -> tuple[pa.Array, pa.Array]:
    """Ids and descriptions: the first word, and what comes behind it.

    Args:
        in_header: whether each of `letters` is of a header, its ">" left out.
        starts, ends: of every header, from its ">" to behind its last letter.
    """
    headers = _strings(letters[in_header].tobytes(), np.append(0, np.cumsum(ends - starts - 1)))
    words = pc.ascii_split_whitespace(pc.ascii_trim_whitespace(headers), max_splits=1)
    offsets = words.offsets.to_numpy()
    flat = words.values
    ids = flat.take(pa.array(offsets[:-1]))
    behind = pa.array(offsets[:-1] + 1, mask=np.diff(offsets) < 2)
    return ids, pc.ascii_trim_whitespace(pc.fill_null(flat.take(behind), ""))


def _strings(text: bytes, offsets: np.ndarray) -> Any:
    """`text` cut at `offsets`, without a copy."""
    if len(text) < 1 << 31:
        return pa.StringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(text))
    large = pa.LargeStringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(text))
    return large.cast(pa.string())  # fails, in words, where a single one is too long
