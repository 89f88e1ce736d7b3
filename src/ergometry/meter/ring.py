"""The ring: fixed-size rows from one training process to its recorder. Writing never blocks; drops are counted.

A slot is 128 bytes: code, length, text id, up to 14 float64, and last its sequence number, which says that the slot
is whole. Writers of several threads reserve slots with an atomic counter; nothing is locked.
"""

from __future__ import annotations

import itertools
import json
import struct
import time
from collections.abc import Iterator
from typing import Any

from ergometry.core.series import BY_CODE, MAX_COLUMNS, SENT, Series
from ergometry.meter.shared import HEADER_BYTES, SharedMemory

SLOT_BYTES = 128
SLOTS = 16384
RING_BYTES = HEADER_BYTES + SLOTS * SLOT_BYTES

_TEXT = 0xFFFF
_TEXT_BYTES = 8 * MAX_COLUMNS
_BEGINS = 0x8000  # in the length of a text's first slot
_ABANDONED_S = 1.0
_SEQUENCE = struct.Struct("<Q")
_SEQUENCE_AT = SLOT_BYTES - _SEQUENCE.size
_HEAD = struct.Struct("<HHI")
_ROW = {series.code: struct.Struct(f"<HHI{len(series.columns)}d") for series in SENT}
_TEXT_SLOT = struct.Struct(f"<HHI{_TEXT_BYTES}s")

Row = tuple[Series, tuple[float, ...]]


class RingWriter:
    """The training process's end."""

    def __init__(self, memory: SharedMemory) -> None:
        self._buffer = memory.buffer
        self._reserve = itertools.count().__next__
        self._text_ids = itertools.count(1).__next__

    def write(self, series: Series, *values: float) -> None:
        """Write one row: as many values as the series has columns."""
        n = self._reserve()
        at = HEADER_BYTES + n % SLOTS * SLOT_BYTES
        buffer = self._buffer
        _SEQUENCE.pack_into(buffer, at + _SEQUENCE_AT, 0)
        _ROW[series.code].pack_into(buffer, at, series.code, len(values), 0, *values)
        _SEQUENCE.pack_into(buffer, at + _SEQUENCE_AT, n + 1)

    def text(self, message: dict[str, Any]) -> None:
        """Write a message as JSON, over as many slots as it needs."""
        raw = json.dumps(message, default=str).encode()
        parts = [raw[i : i + _TEXT_BYTES] for i in range(0, len(raw), _TEXT_BYTES)]
        text_id = self._text_ids() & 0xFFFF
        for left in range(len(parts) - 1, -1, -1):
            part = parts[len(parts) - 1 - left]
            length = len(part) | (_BEGINS if part is parts[0] else 0)
            n = self._reserve()
            at = HEADER_BYTES + n % SLOTS * SLOT_BYTES
            _SEQUENCE.pack_into(self._buffer, at + _SEQUENCE_AT, 0)
            _TEXT_SLOT.pack_into(self._buffer, at, _TEXT, length, text_id << 16 | min(left, 0xFFFF), part)
            _SEQUENCE.pack_into(self._buffer, at + _SEQUENCE_AT, n + 1)


class RingReader:
    """The recorder's end. ``dropped`` counts rows that were overwritten before they could be read."""

    def __init__(self, memory: SharedMemory) -> None:
        self._buffer = memory.buffer
        self._next = 0
        self._texts: dict[int, tuple[bytearray, int]] = {}
        self._stuck: tuple[int, float] | None = None
        self.dropped = 0

    def drain(self, *, last: bool = False) -> Iterator[Row | dict[str, Any]]:
        """Yield what has been written since: rows as (series, values), messages as dicts.

        ``last`` says that the writer is gone: a slot that it left half written is then passed over.
        """
        holes = 0
        while True:
            at = HEADER_BYTES + self._next % SLOTS * SLOT_BYTES
            (sequence,) = _SEQUENCE.unpack_from(self._buffer, at + _SEQUENCE_AT)
            if sequence == self._next + 1:
                slot = bytes(self._buffer[at : at + SLOT_BYTES])
                if _SEQUENCE.unpack_from(self._buffer, at + _SEQUENCE_AT)[0] != sequence:
                    continue  # overwritten while it was copied: the writer is a whole ring ahead
                self._next += 1
                holes = 0
                item = self._decode(slot)
                if item is not None:
                    yield item
            elif sequence > self._next + 1:
                oldest = sequence - SLOTS  # the writer laps us: what lies between is gone
                self.dropped += oldest - self._next
                self._next = oldest
            elif last and holes < SLOTS:
                holes += 1
                self._next += 1
            elif not last and self._abandoned():
                self.dropped += 1
                self._next += 1
            else:
                if last:
                    self._next -= holes
                return

    def _abandoned(self) -> bool:
        """Say whether the next slot has stayed unwritten for a second while the one after it was written.

        Its writer was interrupted (Ctrl-C) and the script goes on: what follows must not wait for it.
        """
        at = HEADER_BYTES + (self._next + 1) % SLOTS * SLOT_BYTES
        if _SEQUENCE.unpack_from(self._buffer, at + _SEQUENCE_AT)[0] != self._next + 2:
            return False
        now = time.monotonic()
        if self._stuck is None or self._stuck[0] != self._next:
            self._stuck = (self._next, now)
        return now - self._stuck[1] >= _ABANDONED_S

    def _decode(self, slot: bytes) -> Row | dict[str, Any] | None:
        code, length, aux = _HEAD.unpack_from(slot)
        if code != _TEXT:
            series = BY_CODE.get(code)
            return None if series is None else (series, _ROW[code].unpack_from(slot)[3:])
        text_id, left = aux >> 16, aux & 0xFFFF
        begins, length = length & _BEGINS, length & ~_BEGINS
        before = (bytearray(), left) if begins else self._texts.pop(text_id, None)
        if before is None or before[1] != left:
            return None  # a part before it was dropped
        text = before[0]
        text += slot[_HEAD.size : _HEAD.size + length]
        if left:
            self._texts[text_id] = (text, left - 1)
            return None
        try:
            message = json.loads(text)
        except ValueError:
            return None  # one slot by two threads, a whole ring apart
        return message if isinstance(message, dict) else None
