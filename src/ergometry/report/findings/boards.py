"""What the boards have to say: clocks held down by heat or by a limit, temperature, little use."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ergometry.core import series
from ergometry.core.domain import Domain
from ergometry.core.estimate import Estimate, Provenance, total
from ergometry.core.run import Run
from ergometry.core.trace import Trace
from ergometry.report.findings.finding import Finding
from ergometry.report.words import duration, listed, percent, quantity
from ergometry.work.accounts import Accounts
from ergometry.work.health import Board

HELD = 0.05
"""A board held down for a smaller share of its busy time is not worth a word."""

LITTLE_USED = 0.5
HOT_C = 85.0
"""Data-centre boards begin to slow down at about 85 to 90 °C."""

_IDLE_SAMPLES = 3

Mask = npt.NDArray[np.bool_]


def heat(_run: Run, books: Accounts) -> Finding | None:
    """Find that heat held boards' clocks down."""
    return _slowed(
        books,
        "heat",
        "heat",
        "cool it: airflow, dust, the room; or a lower power limit, at which its clock is steady and no hotter",
    )


def power_brake(_run: Run, books: Accounts) -> Finding | None:
    """Find that a brake from outside the boards, such as the power supply's, held their clocks down."""
    return _slowed(
        books,
        "power_brake",
        "a brake from outside the board",
        "a power supply or the rack gives it when overloaded: look at their limits",
    )


def _slowed(books: Accounts, cause: str, name: str, remedy: str) -> Finding | None:
    held = _held(books, cause)
    if not held:
        return None
    spent = _spent(books, held, [board.held[cause] & board.busy for board in held])
    evidence = _evidence(held, cause)
    return Finding(
        f"board.{cause}",
        f"{name} held {_who(held)} below {_their(held)} top clock {_most(held, cause)} of the time",
        f"{evidence}; {quantity(spent)} spent meanwhile" if spent.known else evidence,
        remedy,
        # Boards that work together wait for the slowest.
        _saving(books, max(board.lost_s(cause) for board in held)),
        spent.value or 0.0,
    )


def power_cap(_run: Run, books: Accounts) -> Finding | None:
    """Find, as a fact and not as a fault, that the power limit held boards' clocks down."""
    return _limited(
        books,
        "power_cap",
        "the power limit held {who} below {their} top clock {share} of the time",
        "none if the limit is meant: the energy of an example is often lower under one, and the run longer;"
        " erg compare tells for runs at two limits",
    )


def other_limit(_run: Run, books: Accounts) -> Finding | None:
    """Find, as a fact, that something else held boards' clocks down: clocks that were set, boards that wait."""
    return _limited(
        books,
        "other",
        "neither heat nor power held {who} below {their} top clock {share} of the time",
        "look for clocks that someone has set (nvidia-smi -q -d CLOCK), and for boards that wait for one another",
    )


def _limited(books: Accounts, cause: str, text: str, remedy: str) -> Finding | None:
    """Return a finding without a saving: a higher clock need not save energy."""
    held = _held(books, cause)
    if not held:
        return None
    words = text.format(who=_who(held), their=_their(held), share=_most(held, cause))
    return Finding(f"board.{cause}", words, _evidence(held, cause), remedy, None, 0.0)


def little_used(run: Run, books: Accounts) -> Finding | None:
    """Find that boards were used less than half of the time between the first step and the last."""
    steps = run.table(series.STEPS)
    if not len(steps):
        return None
    begin_s, end_s = float(np.nanmin(steps["t0_s"])), float(np.nanmax(steps["t1_s"]))
    found: list[tuple[Board, float]] = []
    for board in books.boards:
        training = (board.begin_s < end_s) & (board.end_s > begin_s)
        used = board.mean("utilisation", "", training)
        if used.value is not None and used.value < LITTLE_USED:
            found.append((board, used.value))
    if not found:
        return None
    idle_s = [(1.0 - used) * (end_s - begin_s) for _, used in found]
    idle_w = [_idle_w(books, board) for board, _ in found]
    saving = total(watts * seconds for watts, seconds in zip(idle_w, idle_s, strict=True))
    saving = Estimate(saving.value, saving.stderr, "J", Provenance.MODELLED, _IDLE_METHOD, saving.why)
    whole = [_joules(books, board, begin_s, end_s) for board, _ in found]
    stake = saving.value if saving.value is not None else _open_stake(whole, [used for _, used in found])
    each = ", ".join(f"{board.name} {percent(used)}" for board, used in found)
    who = _who([board for board, _ in found])
    return Finding(
        "board.little_used",
        f"there was work for {who} {percent(max(used for _, used in found))} of the time in training",
        f"mean utilisation: {each}, over {duration(end_s - begin_s)}",
        "feed it more: larger batches, a loader that keeps up, fewer waits for the host; or use fewer boards",
        saving,
        stake,
    )


_IDLE_METHOD = "at most, the boards' idle power × the time in which they had nothing to do"


def hot(_run: Run, books: Accounts) -> Finding | None:
    """Find that boards came near the temperature at which they slow down, where that has not happened yet."""
    warm = [
        board
        for board in books.boards
        if (board.most("temperature_c", "degC").value or 0.0) >= HOT_C and _share(board, "heat") <= HELD
    ]
    if not warm:
        return None
    most = max(board.most("temperature_c", "degC").value or 0.0 for board in warm)
    each = ", ".join(
        f"{board.name} {board.mean('temperature_c', 'degC').value:.0f} °C on average,"
        f" {board.most('temperature_c', 'degC').value:.0f} °C at most"
        for board in warm
    )
    who = _who(warm)
    return Finding(
        "board.hot",
        f"a temperature of {most:.0f} °C was reached by {who}",
        f"temperatures: {each}",
        "cool it before heat slows it down: airflow, dust, the room",
        Estimate.unknown("J", "how its leakage grows with temperature is not known", Provenance.MODELLED),
        0.0,
    )


def _who(boards: Sequence[Board]) -> str:
    return listed([board.name for board in boards]) if len(boards) <= 2 else f"{len(boards)} boards"


def _share(board: Board, cause: str) -> float:
    return board.held_share(cause).value or 0.0


def _held(books: Accounts, cause: str) -> list[Board]:
    return [board for board in books.boards if _share(board, cause) > HELD]


def _their(boards: Sequence[Board]) -> str:
    return "its" if len(boards) == 1 else "their"


def _most(boards: Sequence[Board], cause: str) -> str:
    return percent(max(_share(board, cause) for board in boards))


def _evidence(boards: Sequence[Board], cause: str) -> str:
    return "of the time it was busy: " + "; ".join(_held_words(board, cause) for board in boards)


def _held_words(board: Board, cause: str) -> str:
    """Return what is known of one board that was held down, such as ``gpu0 62 %, at 1.3 GHz of 2 GHz, up to 88 °C``."""
    held = board.held[cause] & board.busy
    words = f"{board.name} {percent(_share(board, cause))}"
    clock, top = board.mean("clock_hz", "Hz", held), board.most("max_clock_hz", "Hz")
    if clock.known and top.known:
        words += f", at {quantity(clock)} of {quantity(top)}"
    temperature, limit = board.most("temperature_c", "degC"), board.mean("power_limit_w", "W", held)
    if cause == "heat" and temperature.known:
        words += f", up to {quantity(temperature)}"
    if cause == "power_cap" and limit.known:
        words += f", limit {quantity(limit)}"
    return words


def _trace(books: Accounts, board: Board) -> Trace | None:
    """Return the joules of a board, wherever in the tree it is metered."""
    return next((trace for domain, trace in books.metered.traces.items() if _is_board(domain, board)), None)


def _is_board(domain: Domain, board: Board) -> bool:
    return domain.path.split("/")[-1] == board.name


def _spent(books: Accounts, boards: Sequence[Board], when: Sequence[Mask]) -> Estimate:
    """Return the joules that boards used at some of their samples."""
    terms = []
    for board, chosen in zip(boards, when, strict=True):
        trace = _trace(books, board)
        if trace is None:
            return Estimate.unknown("J", f"no counter of {board.name} was read")
        joules = trace.cumulative_j(board.end_s[chosen]) - trace.cumulative_j(board.begin_s[chosen])
        value = float(joules.sum())
        edges = np.flatnonzero(np.diff(np.concatenate(([False], chosen, [False])).astype(int)))
        split = math.sqrt(len(edges) / 12.0) * trace.mean_power_w * float(np.mean(board.seconds))
        stderr = math.hypot(split, trace.signal.rel_stderr * value)
        terms.append(Estimate(value, stderr, "J", Provenance(trace.signal.provenance), trace.signal.method))
    return total(terms)


def _joules(books: Accounts, board: Board, begin_s: float, end_s: float) -> float:
    trace = _trace(books, board)
    return 0.0 if trace is None else trace.energy(begin_s, end_s).value or 0.0


def _open_stake(joules: Sequence[float], used: Sequence[float]) -> float:
    return math.fsum(each * (1.0 - share) for each, share in zip(joules, used, strict=True))


def _idle_w(books: Accounts, board: Board) -> Estimate:
    """Return a board's idle power, W: its source's, or what it drew at samples in which it had nothing to do."""
    trace = _trace(books, board)
    if trace is None:
        return Estimate.unknown("W", f"no counter of {board.name} was read")
    signal = trace.signal
    if signal.static_w is not None:
        stderr = None if signal.static_rel_stderr is None else signal.static_w * signal.static_rel_stderr
        return Estimate(signal.static_w, stderr, "W", Provenance.MODELLED, "calibrated idle power")
    idle = ~board.busy & np.isfinite(board.table["utilisation"]) & (board.seconds > 0)
    if np.count_nonzero(idle) < _IDLE_SAMPLES:
        return Estimate.unknown("W", f"needs the idle power of {board.name}: it was never seen idle")
    joules = trace.cumulative_j(board.end_s[idle]) - trace.cumulative_j(board.begin_s[idle])
    watts = joules / board.seconds[idle]
    stderr = float(np.std(watts, ddof=1)) / math.sqrt(len(watts))
    mean = float(np.average(watts, weights=board.seconds[idle]))
    return Estimate(mean, math.hypot(stderr, signal.rel_stderr * mean), "W", Provenance.DERIVED, "power seen when idle")


def _saving(books: Accounts, lost_s: float) -> Estimate:
    """Return what the top clock would save at most: the idle power of all that is metered × the seconds lost.

    A board itself uses no less for its work at a higher clock and voltage; what ends sooner is waiting.
    """
    if not math.isfinite(lost_s):
        return Estimate.unknown("J", "the board does not tell its clock", Provenance.MODELLED)
    static = books.by_component["static"]
    run_s = math.fsum(e.value or 0.0 for e in books.seconds_by_phase.values())
    if static.value is not None and run_s > 0:
        part = static * (lost_s / run_s)
        return Estimate(part.value, part.stderr, "J", Provenance.MODELLED, _SAVING_METHOD)
    boards = {board.name: _idle_w(books, board) for board in books.boards}
    terms = []
    for domain, trace in books.metered.cover().items():
        signal = trace.signal
        if signal.static_w is not None:
            stderr = None if signal.static_rel_stderr is None else signal.static_w * signal.static_rel_stderr
            terms.append(Estimate(signal.static_w, stderr, "W", Provenance.MODELLED))
        else:
            terms.append(
                boards.get(domain.path.split("/")[-1], Estimate.unknown("W", f"needs the idle power of {domain}"))
            )
    idle = total(terms) if terms else Estimate.unknown("W", "no power source was read")
    saved = idle * lost_s
    return Estimate(saved.value, saved.stderr, "J", Provenance.MODELLED, _SAVING_METHOD, saved.why)


_SAVING_METHOD = "at most, idle power of what is metered × the seconds that the lower clock added"
