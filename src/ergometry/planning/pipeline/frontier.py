"""Time and energy of a pipeline's iteration: a linear program's lower bound, and plans of measured points near it.

Energy of an iteration that takes T: Σ_v e_v(f_v) + P_block·(D·T − Σ_v t_v(f_v)), with D devices that draw P_block while
they wait. With x_v the start of operation v and d_v its duration, on the lower convex hull of its effective cost
e_v − P_block·t_v,

    minimise Σ_v cost_v(d_v)  subject to  x_w ≥ x_v + d_v where w waits for v,  x_v + d_v ≤ T,

is a linear program: each hull is its fastest point and segments that may be used, the steepest first, which convexity
makes the optimum do by itself. Its value is a lower bound on the energy of every assignment of measured frequencies
that meets T, and its dual price of T a tangent of the bound, so few deadlines certify the whole frontier.

Rounding: every operation takes its cheapest measured point that is no longer than its duration in the program; the
slack that this leaves is spent in sweeps through the graph. A plan never ends after its deadline.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ergometry.core.errors import UsageError
from ergometry.planning.pipeline.dag import Dag, Operation, Point
from ergometry.planning.pipeline.profile import Profile

Array = npt.NDArray[np.float64]

_ROUNDING_S = 1e-9
_MAX_SWEEPS = 8
_NEAR = 1.5e-3
_TILTS = (0.01, -0.01, 0.03, -0.03, 0.003)
"""Relative weight by which microbatches are told apart. Alike, they have many optima, and most of those run nearly all
operations between two measured points; told apart, the early ones take one point and the late ones the other. They are
tried in turn while the plan is further above the bound than the share ``_NEAR``."""


@dataclass(frozen=True)
class Plan:
    """One point of each operation, and what the iteration then takes.

    Attributes:
        deadline_s: the iteration time allowed.
        iteration_s: that of the plan, at most the deadline.
        energy_j: of one iteration that ends at ``iteration_s``, waiting included.
        energy_at_deadline_j: of one that waits until the deadline, as it must for a straggler.
        lower_bound_j: no assignment of measured points that meets the deadline takes less, waiting until it.
        points: of each operation, in the graph's order.
    """

    deadline_s: float
    iteration_s: float
    energy_j: float
    energy_at_deadline_j: float
    lower_bound_j: float
    points: tuple[Point, ...]

    @property
    def gap(self) -> float:
        """How far above the lower bound the plan is at most, as a share."""
        return self.energy_at_deadline_j / self.lower_bound_j - 1.0


@dataclass(frozen=True)
class Frontier:
    """Plans from the fastest iteration to the cheapest, by rising time and falling energy.

    ``certified`` is how far above the true frontier any of its plans may be, as a share, between deadlines too.
    """

    plans: tuple[Plan, ...]
    certified: float


@dataclass(frozen=True)
class _Hull:
    """Lower convex hull of an operation's (time, effective cost): corners, from the fastest to the cheapest."""

    points: tuple[Point, ...]
    times_s: Array
    costs_j: Array

    @classmethod
    def of(cls, points: Sequence[Point], blocking_w: float) -> _Hull:
        def cost(point: Point) -> float:
            return point.energy_j - blocking_w * point.time_s

        kept: list[Point] = []
        for point in sorted(points, key=lambda p: (p.time_s, cost(p))):
            if kept and cost(point) >= cost(kept[-1]):
                continue  # slower and no cheaper
            while len(kept) > 1 and _above(kept[-2], kept[-1], point, cost):
                kept.pop()
            kept.append(point)
        return cls(tuple(kept), np.array([p.time_s for p in kept]), np.array([cost(p) for p in kept]))


def _above(a: Point, b: Point, c: Point, cost: object) -> bool:
    """Say whether ``b`` lies on or above the line from ``a`` to ``c``."""
    assert callable(cost)
    return bool((cost(b) - cost(a)) * (c.time_s - a.time_s) >= (cost(c) - cost(a)) * (b.time_s - a.time_s))


class PipelinePlanner:
    """Plans the iterations of one pipeline.

    Args:
        dag: what waits for what.
        profile: measured points of each stage's instructions.
        blocking_w: power of a device that waits, W.

    Raises:
        UsageError: an operation was not profiled, or the blocking power is negative.
    """

    def __init__(self, dag: Dag, profile: Profile, *, blocking_w: float) -> None:
        if not (math.isfinite(blocking_w) and blocking_w >= 0):
            raise UsageError(
                expected="a blocking power of 0 W or more",
                got=f"{blocking_w:g} W",
                remedy="give what one device draws while it waits",
            )
        self.dag, self.blocking_w = dag, blocking_w
        measured = profile.of(dag)
        hulls = {points: _Hull.of(points, blocking_w) for points in set(measured)}
        self._hulls = [hulls[points] for points in measured]
        ranked = {points: tuple(sorted(points, key=self._effective_j)) for points in set(measured)}
        self._all = [ranked[points] for points in measured]
        self.fastest_s = dag.iteration_s([float(hull.times_s[0]) for hull in self._hulls])
        """Shortest possible iteration, s."""
        self.slowest_s = dag.iteration_s([float(hull.times_s[-1]) for hull in self._hulls])
        """Iteration in which every operation runs at its own cheapest point, s: slower ones save nothing."""
        self._program = _Program(dag, self._hulls)

    def plan(self, deadline_s: float) -> Plan:
        """Return a plan that meets a deadline, and the lower bound of any.

        Raises:
            UsageError: even the fastest points miss the deadline.
        """
        if not deadline_s >= self.fastest_s * (1 - 1e-12):
            raise UsageError(
                expected=f"an iteration time of {self.fastest_s:.6g} s or more, all at the highest speed",
                got=f"{deadline_s:.6g} s",
                remedy="allow more, use more stages or fewer microbatches",
            )
        return self._solve(max(deadline_s, self.fastest_s))[0]

    def frontier(self, tolerance: float = 1e-3, most: int = 24) -> Frontier:
        """Return plans from the fastest to the cheapest iteration, with the lower bound certified between them.

        Deadlines are added where the tangents of the lower bound leave the most room, until that is below
        ``tolerance`` of the energy or there are ``most`` plans.
        """
        solved = {deadline: self._solve(deadline) for deadline in {self.fastest_s, self.slowest_s}}
        while len(solved) < most:
            room, deadline = self._widest(solved)
            if room <= tolerance:
                break
            solved[deadline] = self._solve(deadline)
        plans = [solved[deadline][0] for deadline in sorted(solved)]
        certified = max([plan.gap for plan in plans] + [self._widest(solved)[0]])
        best: list[Plan] = []
        for plan in plans:
            if not best or plan.energy_j < best[-1].energy_j:
                best.append(plan)
        return Frontier(tuple(best), certified)

    def _widest(self, solved: dict[float, tuple[Plan, float]]) -> tuple[float, float]:
        """Return the largest share by which the bound's chord may lie above the bound, and at which deadline."""
        widest = (0.0, self.fastest_s)
        deadlines = sorted(solved)
        for left, right in itertools.pairwise(deadlines):
            (a, slope_a), (b, slope_b) = solved[left], solved[right]
            low, high, width = a.lower_bound_j, b.lower_bound_j, right - left
            if not slope_b > slope_a:
                continue  # the tangents are one line
            # Where the two tangents meet the bound may be lowest; the chord is what time-sharing two plans reaches.
            meets = (low - high + slope_b * width) / (slope_b - slope_a)
            meets = min(max(meets, 0.0), width)
            tangent = max(low + slope_a * meets, high - slope_b * (width - meets))
            room = (low + (high - low) * meets / width - tangent) / tangent
            if room > widest[0] and 0.0 < meets < width:
                widest = (room, left + meets)
        return widest

    def _solve(self, deadline_s: float) -> tuple[Plan, float]:
        """Return a plan for a deadline, and the slope of the lower bound there, J/s."""
        starts, durations, cost_j, slope = self._program.solve(deadline_s)
        waiting_w = self.blocking_w * self.dag.devices
        least_j = cost_j + waiting_w * deadline_s
        chosen = self._rounded(starts, durations, deadline_s)
        for tilt in _TILTS:
            if self._cost_j(chosen) - cost_j <= _NEAR * least_j:
                break
            other = self._rounded(*self._program.solve(deadline_s, tilt)[:2], deadline_s)
            chosen = min(chosen, other, key=self._cost_j)
        times = [point.time_s for point in chosen]
        effective = self._cost_j(chosen)
        iteration_s = self.dag.iteration_s(times)
        plan = Plan(
            deadline_s=deadline_s,
            iteration_s=iteration_s,
            energy_j=effective + waiting_w * iteration_s,
            energy_at_deadline_j=effective + waiting_w * deadline_s,
            lower_bound_j=least_j,
            points=tuple(chosen),
        )
        return plan, slope + waiting_w

    def _rounded(self, starts: Array, durations: Array, deadline_s: float) -> list[Point]:
        """Return a measured point of each operation that together meet the deadline, slack spent: the best of three.

        Rounded each by itself; or from either end of the graph, each handing on what its own rounding left over.
        """
        ends = starts + durations
        found = [self._swept(chosen, deadline_s) for chosen in self._roundings(starts, durations, ends)]
        met = [chosen for chosen in found if self.dag.iteration_s([p.time_s for p in chosen]) <= deadline_s]
        fastest = [hull.points[0] for hull in self._hulls]
        return min([*met, fastest], key=self._cost_j)

    def _roundings(self, starts: Array, durations: Array, ends: Array) -> Iterator[list[Point]]:
        dag = self.dag
        yield [self._fit(v, took) for v, took in enumerate(durations)]
        chosen, free = [hull.points[0] for hull in self._hulls], np.zeros(len(durations))
        for v, befores in enumerate(dag.before):
            start = max((free[u] for u in befores), default=0.0)
            chosen[v] = self._fit(v, ends[v] - start)
            free[v] = start + chosen[v].time_s
        yield chosen
        chosen, free = list(chosen), np.zeros(len(durations))
        for v in range(len(durations) - 1, -1, -1):
            end = min((free[w] for w in dag.after[v]), default=float(np.max(ends)))
            chosen[v] = self._fit(v, end - starts[v])
            free[v] = end - chosen[v].time_s
        yield chosen

    def _swept(self, chosen: list[Point], deadline_s: float) -> list[Point]:
        """Return the plan with its slack spent, in sweeps from either end in turn, until nothing changes."""
        for sweep in range(_MAX_SWEEPS):
            before = list(chosen)
            (self._forward if sweep % 2 == 0 else self._backward)(chosen, deadline_s)
            if chosen == before and sweep > 0:
                break
        return chosen

    def _effective_j(self, point: Point) -> float:
        """Energy of an operation beyond what its device would draw waiting for as long, J."""
        return point.energy_j - self.blocking_w * point.time_s

    def _cost_j(self, chosen: Sequence[Point]) -> float:
        return math.fsum(map(self._effective_j, chosen))

    def _fit(self, v: int, available_s: float) -> Point:
        """Return the cheapest measured point that takes no longer (but for rounding); the fastest where none does."""
        fits = next((point for point in self._all[v] if point.time_s <= available_s + _ROUNDING_S), None)
        return fits if fits is not None else self._hulls[v].points[0]

    def _forward(self, chosen: list[Point], deadline_s: float) -> None:
        """Give each operation, the first in time first, what is left until those that wait for it must begin."""
        dag = self.dag
        latest = self._latest_ends(chosen, deadline_s)
        ends = [0.0] * len(chosen)
        for v, befores in enumerate(dag.before):
            start = max((ends[u] for u in befores), default=0.0)
            chosen[v] = self._slower(v, chosen[v], latest[v] - start)
            ends[v] = start + chosen[v].time_s

    def _backward(self, chosen: list[Point], deadline_s: float) -> None:
        """The same from the end: each gets what is left since those that it waits for may have ended."""
        dag = self.dag
        starts = dag.starts([point.time_s for point in chosen])
        begins = [deadline_s] * len(chosen)
        for v in range(len(chosen) - 1, -1, -1):
            end = min((begins[w] for w in dag.after[v]), default=deadline_s)
            chosen[v] = self._slower(v, chosen[v], end - starts[v])
            begins[v] = end - chosen[v].time_s

    def _slower(self, v: int, now: Point, available_s: float) -> Point:
        found = self._fit(v, available_s)
        return found if self._effective_j(found) < self._effective_j(now) else now

    def _latest_ends(self, chosen: Sequence[Point], deadline_s: float) -> list[float]:
        latest = [deadline_s] * len(chosen)
        for v in range(len(chosen) - 1, -1, -1):
            for w in self.dag.after[v]:
                latest[v] = min(latest[v], latest[w] - chosen[w].time_s)
        return latest

    def frequencies(self, plan: Plan) -> dict[Operation, Point]:
        """Return the point of each operation of a plan."""
        return dict(zip(self.dag.operations, plan.points, strict=True))


class _Program:
    """The linear program of one graph, for any deadline: only the right-hand side changes."""

    def __init__(self, dag: Dag, hulls: Sequence[_Hull]) -> None:
        from scipy.sparse import csr_array

        n = len(hulls)
        widths = [np.diff(hull.times_s) for hull in hulls]
        slopes = [np.diff(hull.costs_j) / np.diff(hull.times_s) for hull in hulls]
        first = n + np.concatenate(([0], np.cumsum([len(w) for w in widths]))).astype(np.int64)
        columns = int(first[-1])
        self._first, self._n = first, n
        self._fastest = np.array([hull.times_s[0] for hull in hulls])
        self._fixed_j = math.fsum(float(hull.costs_j[0]) for hull in hulls)
        self._cost = np.concatenate([np.zeros(n), *slopes]) if columns > n else np.zeros(n)
        self._upper = np.concatenate([np.full(n, np.inf), *widths]) if columns > n else np.full(n, np.inf)
        last = [v for v, waiting in enumerate(dag.after) if not waiting]
        # x_v + Σ δ_v − x_w ≤ −t_v (v before w), and x_v + Σ δ_v ≤ T − t_v at the ends
        rows, cols, values, right = [], [], [], []
        for row, (v, w) in enumerate([*dag.edges, *((v, -1) for v in last)]):
            segments = range(int(first[v]), int(first[v + 1]))
            rows += [row] * (1 + len(segments) + (w >= 0))
            cols += [v, *segments, *([w] if w >= 0 else [])]
            values += [1.0] * (1 + len(segments)) + ([-1.0] if w >= 0 else [])
            right.append(-self._fastest[v])
        batch = np.array([operation.microbatch for operation in dag.operations], dtype=np.float64)
        place = np.concatenate([np.zeros(n), np.repeat(batch / max(1.0, batch.max()), np.diff(first))])
        self._tilt = self._cost * place
        self._ends = len(dag.edges)
        self._matrix = csr_array((values, (rows, cols)), shape=(len(right), columns))
        self._right = np.array(right)

    def solve(self, deadline_s: float, tilt: float = 0.0) -> tuple[Array, Array, float, float]:
        """Return starts (n,) and durations (n,), s, the least Σ cost (J) and its slope in the deadline (J/s).

        With ``tilt`` savings weigh more the later their microbatch; the least cost is then of that other program.
        """
        from scipy.optimize import linprog

        right = self._right.copy()
        right[self._ends :] += deadline_s
        bounds = np.column_stack([np.zeros_like(self._upper), self._upper])
        cost = self._cost + tilt * self._tilt
        found = linprog(cost, A_ub=self._matrix, b_ub=right, bounds=bounds, method="highs")
        if found.status != 0:
            raise RuntimeError(f"the pipeline's linear program was not solved: {found.message}")
        segments = np.concatenate([found.x[self._n :], [0.0]])
        cut = (self._first[:-1] - self._n).astype(np.int64)
        spent = np.add.reduceat(segments, cut)
        spent[self._first[1:] == self._first[:-1]] = 0.0
        slope = float(np.sum(found.ineqlin.marginals[self._ends :]))
        return found.x[: self._n], self._fastest + spent, self._fixed_j + float(found.fun), slope
