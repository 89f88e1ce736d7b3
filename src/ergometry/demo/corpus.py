"""The corpus: the source text of Python's own standard library, as bytes, in windows that do not repeat."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch.utils.data import Dataset

#: Folders left out: other people's packages, tests (not installed everywhere), and tables written by programs.
SKIPPED = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "encodings", "pydoc_data", "__pycache__"}
)

#: Every tenth file is held out for evaluation.
HELD_OUT_EVERY = 10


def source_files(library: Path | None = None) -> list[Path]:
    """Return the library's Python files in the order of their names, the same on every call.

    Args:
        library: the folder to read; the running interpreter's standard library when None.

    Raises:
        FileNotFoundError: there are none, as in an interpreter whose library is a zip file.
    """
    root = Path(os.__file__).parent if library is None else library
    found = [(path.relative_to(root), path) for path in root.rglob("*.py")]
    files = [path for name, path in sorted(found) if not SKIPPED.intersection(name.parts)]
    if not files:
        raise FileNotFoundError(f"expected Python files under {root}, got none; run with a Python that has its sources")
    return files


def split(files: list[Path]) -> tuple[list[Path], list[Path]]:
    """Return (training files, held-out files): disjoint, and together all of them."""
    held_out = files[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY]
    training = [path for i, path in enumerate(files, start=1) if i % HELD_OUT_EVERY]
    return training, held_out


def read_bytes(files: list[Path]) -> torch.Tensor:
    """Return the files' bytes, one after the other, as (n,) uint8."""
    text = bytearray().join(path.read_bytes() for path in files)
    return torch.frombuffer(text, dtype=torch.uint8)


class Windows(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Windows of ``context`` bytes that do not overlap, each with the bytes that follow it by one.

    Item i is ``(text[i·c : (i+1)·c], text[i·c + 1 : (i+1)·c + 1])``, both (c,) int64: every byte is predicted
    once in a pass over all items, whatever their order.
    """

    def __init__(self, text: torch.Tensor, context: int) -> None:
        self.text, self.context = text, context

    def __len__(self) -> int:
        return max((len(self.text) - 1) // self.context, 0)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        start = index * self.context
        piece = self.text[start : start + self.context + 1].long()
        return piece[:-1], piece[1:]
