"""The corpus: the same on every call, its held-out files apart, no byte twice in a pass."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from ergometry.demo.corpus import Windows, read_bytes, source_files, split


@pytest.fixture
def library(tmp_path: Path) -> Path:
    for i in range(25):
        (tmp_path / f"m{i:02}.py").write_bytes(b"%d\n" % i)
    for folder in ("site-packages/other", "test", "json/tests", "encodings", "__pycache__"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "left_out.py").write_bytes(b"left out\n")
    (tmp_path / "json/decoder.py").write_bytes(b"decoder\n")
    (tmp_path / "notes.txt").write_bytes(b"no source\n")
    return tmp_path


def test_only_the_library_s_own_sources_are_read_in_the_order_of_their_names(library: Path) -> None:
    names = [path.relative_to(library).as_posix() for path in source_files(library)]
    assert names == ["json/decoder.py", *(f"m{i:02}.py" for i in range(25))]


def test_every_tenth_file_is_held_out_and_none_is_lost(library: Path) -> None:
    files = source_files(library)
    training, held_out = split(files)
    assert held_out == [files[9], files[19]]
    assert sorted([*training, *held_out]) == files


def test_a_library_without_sources_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="Python files"):
        source_files(tmp_path)


def test_this_interpreter_s_library_is_the_same_on_every_call_and_large_enough() -> None:
    first, second = source_files(), source_files()
    assert first == second
    training, held_out = split(first)
    assert not set(training) & set(held_out)
    once, again = read_bytes(training), read_bytes(split(second)[0])
    assert zlib.crc32(once.numpy().tobytes()) == zlib.crc32(again.numpy().tobytes())
    assert len(once) > 3_000_000
    assert len(read_bytes(held_out)) > 200_000


def test_bytes_come_one_file_after_the_other(library: Path) -> None:
    assert bytes(read_bytes([library / "m03.py", library / "m11.py"]).tolist()) == b"3\n11\n"


def test_each_byte_is_predicted_once_from_those_before_it() -> None:
    text = torch.arange(100, dtype=torch.uint8)
    windows = Windows(text, context=8)
    assert len(windows) == 12
    pairs = [windows[i] for i in range(len(windows))]
    assert torch.cat([x for x, _ in pairs]).tolist() == list(range(96))
    assert torch.cat([y for _, y in pairs]).tolist() == list(range(1, 97))
    assert all(x.dtype == y.dtype == torch.int64 for x, y in pairs)


def test_there_is_no_window_beyond_the_last() -> None:
    windows = Windows(torch.zeros(17, dtype=torch.uint8), context=8)
    assert len(windows) == 2
    for index in (2, -1):
        with pytest.raises(IndexError):
            windows[index]
    assert len(Windows(torch.zeros(0, dtype=torch.uint8), context=8)) == 0


def test_a_shuffled_pass_repeats_no_window_and_the_next_comes_in_another_order() -> None:
    text = (torch.arange(2 * 8 * 20 + 1) // 8).to(torch.uint8)  # window i is all i
    loader = DataLoader(Windows(text, 8), 4, shuffle=True, drop_last=True, generator=torch.Generator().manual_seed(3))
    first, second = ([int(row[0]) for x, _ in loader for row in x] for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(40))
    assert first != second
    assert first != sorted(first)
