"""The tables: named once, and none too wide for its slot of the ring."""

from __future__ import annotations

from ergometry.core import series
from ergometry.core.series import BY_CODE, HEALTH, MAX_COLUMNS, PHASES, PROCESS, SENT, STEPS, Series

ALL = [value for value in vars(series).values() if isinstance(value, Series)]


def test_codes_and_names_are_not_shared() -> None:
    assert len(ALL) == len(SENT) + 2
    assert len({s.name for s in ALL}) == len(ALL)
    assert len({s.code for s in SENT}) == len(SENT)
    assert set(BY_CODE.values()) == set(SENT)
    assert all(BY_CODE[s.code] is s for s in SENT)


def test_every_row_fits_its_slot() -> None:
    assert all(0 < len(s.columns) <= MAX_COLUMNS for s in SENT)


def test_columns_are_not_repeated() -> None:
    assert all(len(set(s.columns)) == len(s.columns) for s in ALL)


def test_zero_is_for_what_the_recorder_writes_itself() -> None:
    assert PROCESS.code == HEALTH.code == 0
    assert 0 not in BY_CODE


def test_a_step_has_a_time_for_every_phase_within_it() -> None:
    within = [phase for phase in PHASES if phase != "evaluation"]
    assert [c for c in STEPS.columns if c.removesuffix("_s") in PHASES] == [f"{phase}_s" for phase in within]
