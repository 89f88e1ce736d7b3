"""Recurring jobs as a whole: what the policy converges to, what it remembers, and what it refuses."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

import ergometry.planning
from ergometry.core.errors import UsageError
from ergometry.planning.recurring import RecurringJob, Settings
from ergometry.planning.recurring.knowledge import _profile
from ergometry.planning.recurring.records import write_atomically

SIZES = (16, 32, 64, 128, 256, 512)
LIMITS = (100.0, 150.0, 200.0, 250.0)
LEVELS = 4


class Workshop:
    """A job that obeys the laws: epochs ∝ 1 + B/B_c, an epoch costs 1 + B_t/B, power a valley; noise as asked."""

    def __init__(
        self, critical: float = 120.0, noise: float = 0.0, joule: float = 1.0, fails: tuple[int, ...] = ()
    ) -> None:
        self.critical, self.noise, self.joule, self.fails = critical, noise, joule, fails
        self.rng = np.random.default_rng(5)
        self.spent: list[float] = []

    def epochs(self, size: int) -> float:
        return math.inf if size in self.fails else 8 * (1 + size / self.critical)

    def stretch(self, size: int, limit: float) -> tuple[float, float]:
        """Seconds and joules of a whole epoch."""
        seconds = 60 * (1 + 64 / size) * (1 + 0.2 * max(0.0, math.log(180 / limit)) ** 2)
        return seconds, seconds * 0.85 * limit * self.joule

    def cost(self, job: RecurringJob, size: int, limit: float) -> float:
        seconds, joules = self.stretch(size, limit)
        return job.spec.cost(seconds, joules)

    def best(self, job: RecurringJob) -> float:
        return min(
            math.ceil(self.epochs(b)) * min(self.cost(job, b, p) for p in LIMITS)
            for b in SIZES
            if math.isfinite(self.epochs(b))
        )

    def recur(self, job: RecurringJob, keep=lambda job: job) -> tuple[RecurringJob, list[tuple[int, int, bool]]]:
        """One recurrence; ``keep`` may put the job away and fetch it again after every call."""
        done, paid = [], 0.0
        for _ in range(20):
            size = job.next_batch_size()
            job = keep(job)
            epochs = self.epochs(size) * math.exp(self.noise * self.rng.standard_normal())
            epoch, reached, going = 0, False, True
            while going and not reached:
                epoch += 1
                part = 0.0
                while part < 1 - 1e-9:
                    limit, longest = job.next_segment(epoch, part)
                    seconds, joules = self.stretch(size, limit)
                    share = 1 - part if longest is None else min(1 - part, longest / seconds)
                    job.observe_segment(limit, seconds * share, joules * share, share)
                    paid += job.spec.cost(seconds, joules) * share
                    part += share
                    job = keep(job)
                reached = epoch >= epochs
                if not reached:
                    levels = sum(epoch >= epochs * f for f in (0.1, 0.3, 0.6)) if math.isfinite(epochs) else 1
                    going = epoch < job.spec.max_epochs and job.keep_going(epoch, levels)
                    job = keep(job)
            job.end_attempt(epoch, reached)
            job = keep(job)
            done.append((size, epoch, reached))
            if reached:
                break
        self.spent.append(paid)
        return job, done


def new(**changes) -> RecurringJob:
    spec = {
        "batch_sizes": SIZES, "power_limits_w": LIMITS, "default_batch_size": 512,
        "max_epochs": 100, "metric_levels": LEVELS,
    }  # fmt: skip
    return RecurringJob(**{**spec, **changes})


def play(job: RecurringJob, shop: Workshop, times: int, keep=lambda job: job) -> tuple[RecurringJob, list]:
    log = []
    for _ in range(times):
        job, done = shop.recur(job, keep)
        log += done
    return job, log


def test_it_is_the_policy_that_the_room_offers() -> None:
    assert ergometry.planning.RecurringJob is RecurringJob
    with pytest.raises(AttributeError, match="no attribute 'Recurring'"):
        ergometry.planning.Recurring  # noqa: B018


@pytest.mark.parametrize("critical", [20.0, 120.0, 3000.0])
def test_without_noise_it_runs_at_the_optimum_after_few_recurrences(critical: float) -> None:
    shop, job = Workshop(critical), new()
    job, _ = play(job, shop, 20)
    best = shop.best(job)
    assert np.median(shop.spent[8:]) < 1.01 * best
    assert sum(shop.spent[1:]) / best - 19 < 2.0


def test_the_first_recurrence_is_the_users_own() -> None:
    shop = Workshop()
    _, log = play(new(default_batch_size=64), shop, 1)
    assert [size for size, *_ in log] == [64]


def test_put_away_and_fetched_after_every_call_it_does_the_same() -> None:
    def through(job: RecurringJob) -> RecurringJob:
        return RecurringJob.from_json(job.to_json())

    _, straight = play(new(), Workshop(noise=0.15), 8)
    job, resumed = play(new(), Workshop(noise=0.15), 8, through)
    assert resumed == straight
    assert RecurringJob.from_json(job.to_json()).to_json() == job.to_json()


def test_the_order_of_batch_sizes_does_not_matter() -> None:
    limits = {b: LIMITS[:3] if b < 100 else LIMITS for b in SIZES}
    shuffled = (128, 16, 512, 64, 32, 256)
    logs = [
        play(new(batch_sizes=order, limits_at=[limits[b] for b in order]), Workshop(noise=0.1), 6)[1]
        for order in (SIZES, shuffled)
    ]
    assert logs[0] == logs[1]


@pytest.mark.parametrize("factor", [1e-6, 3.0, 1e9])
def test_the_unit_of_the_joule_does_not_matter(factor: float) -> None:
    logs = [play(new(energy_weight=1.0), Workshop(noise=0.1, joule=j), 6)[1] for j in (1.0, factor)]
    assert logs[0] == logs[1]


def test_a_size_that_never_reaches_the_target_is_not_tried_for_ever() -> None:
    shop = Workshop(critical=120.0, noise=0.05, fails=(16, 32, 64))
    _, log = play(new(), shop, 40)
    failed = [epochs for size, epochs, _ in log if size in shop.fails]
    assert 0 < len(failed) <= 8
    assert max(failed) < 60
    assert all(size not in shop.fails for size, *_ in log[-15:])


def test_a_target_that_nothing_reaches_is_told() -> None:
    shop, job = Workshop(fails=SIZES), new(max_epochs=20)
    job, log = play(job, shop, 1)
    assert len(log) == 20
    assert not any(reached for *_, reached in log)
    assert "No attempt has reached the target yet" in job.explain()


def test_one_batch_size_leaves_the_power_limit_to_choose() -> None:
    job = new(batch_sizes=(64,), default_batch_size=None)
    shop = Workshop()
    job, log = play(job, shop, 3)
    assert {size for size, *_ in log} == {64}
    limit, longest = RecurringJob.from_json(job.to_json()), None
    limit.next_batch_size()
    chosen, longest = limit.next_segment(2, 0.0)
    assert chosen == min(LIMITS, key=lambda p: shop.cost(job, 64, p))
    assert longest is None


def test_a_limit_that_is_cheap_against_all_smoothness_is_found_in_the_end_one_an_attempt() -> None:
    limits = tuple(float(p) for p in range(100, 251, 25))

    class Rough(Workshop):
        def stretch(self, size: int, limit: float) -> tuple[float, float]:
            dear = 0.0 if limit == 100.0 else 0.1 + (math.log(limit / 200.0) / 0.8) ** 2
            return 60 * math.exp(dear), 12_000 * math.exp(dear)

    # A search that wants more than can be gained ends with its first reading.
    incurious = Settings(limit_tolerance=10.0)
    job = new(batch_sizes=(64,), default_batch_size=64, power_limits_w=limits, settings=incurious)
    shop = Rough()
    read = []
    for _ in range(8):
        job, _ = shop.recur(job)
        read.append(len(job._meters[64]))
    assert read == [1, 2, 3, 4, 5, 6, 7, 7]
    job.next_batch_size()
    assert job.next_segment(2, 0.0) == (100.0, None)


def test_what_was_learnt_on_another_machine_spares_the_first_runs() -> None:
    there, _ = play(new(), Workshop(noise=0.1), 15)
    cold, warm = Workshop(noise=0.1), Workshop(noise=0.1)
    play(new(max_power_w=250.0), cold, 10)
    job = new(batch_sizes=SIZES[1:]).warm_start(there.to_json())
    job, log = play(job, warm, 10)
    best = warm.best(job)
    assert log[0][0] != 512
    assert sum(warm.spent) / best - 10 < 0.6 * (sum(cold.spent) / best - 10)
    again = RecurringJob.from_json(job.to_json())
    assert again.next_batch_size() == job.next_batch_size()


def test_what_an_epoch_costs_elsewhere_is_one_of_the_laws_it_may_follow_here() -> None:
    class Odd(Workshop):
        def stretch(self, size: int, limit: float) -> tuple[float, float]:
            seconds, joules = super().stretch(size, limit)
            return (seconds * 5, joules * 5) if size == 256 else (seconds, joules)

    plain, odd = (new().warm_start(play(new(), shop, 8)[0].to_json()) for shop in (Workshop(), Odd()))
    here, there = (job._known.outcomes() for job in (plain, odd))
    at, near = SIZES.index(256), SIZES.index(512)
    assert there.mean[at] - there.mean[near] > here.mean[at] - here.mean[near] + 0.5


def test_a_profile_goes_on_beyond_the_sizes_it_was_read_at() -> None:
    x = np.array([0.0, 3.0, 5.0, 6.0, 9.0])
    got = _profile(x, {8: 4.0, 32: 2.0, 64: 1.5})
    np.testing.assert_allclose(got, [4.0 + 3 * 1.0, 4.0, 2.0, 1.5, 1.5 - 3 * 0.5])
    np.testing.assert_allclose(_profile(x, {8: 4.0}), 4.0)


def test_the_least_trial_costs_an_expected_epoch_not_a_median_one() -> None:
    job, _ = play(new(), Workshop(), 1)
    known = job._known
    mean, cov, _ = known._rate.moments()
    far = known.outcomes().floor[0]
    assert far == pytest.approx(mean[0] + 0.5 * cov[0, 0])
    assert cov[0, 0] > 0.1


def test_after_its_share_of_trials_a_recurrence_is_run_to_its_end_also_when_resumed() -> None:
    def hopeless(attempts: int) -> bool:
        job, _ = play(new(settings=Settings(attempts=attempts)), Workshop(), 3)
        job.next_batch_size()
        job.end_attempt(1, False)
        job = RecurringJob.from_json(job.to_json())
        size = job.next_batch_size()
        seconds, joules = Workshop().stretch(size, 150.0)
        job.observe_segment(150.0, seconds, joules, 1.0)
        return all(job.keep_going(epoch, 0) for epoch in range(1, 90))

    assert hopeless(2)
    assert not hopeless(3)


def test_a_single_unlucky_run_does_not_lock_a_size_out() -> None:
    class Unlucky(Workshop):
        def epochs(self, size: int) -> float:
            plain = super().epochs(size)
            return 2.2 * plain if size == 128 and len(self.spent) < 4 else plain

    shop = Unlucky(critical=120.0)
    job, _ = play(new(), shop, 60)
    assert np.mean(shop.spent[-10:]) < 1.03 * Workshop(critical=120.0).best(job)


def test_sizes_that_may_be_better_are_looked_at_also_where_no_trial_is_worth_its_cost() -> None:
    class Flat(Workshop):
        def epochs(self, size: int) -> float:
            return {64: 15.0, 128: 20.0}[size]

        def stretch(self, size: int, limit: float) -> tuple[float, float]:
            return 60.0, 60.0 * 200

    spec = {"batch_sizes": (64, 128), "default_batch_size": 128, "power_limits_w": (200.0,)}
    at_64 = []
    for share in (0.0, 0.25):
        settings = Settings(horizon=0.0, horizon_growth=0.0, second_looks=share)
        _, log = play(new(**spec, settings=settings), Flat(), 40)
        job, shop, resumed = new(**spec, settings=settings), Flat(), []
        for _ in range(40):
            job, done = shop.recur(RecurringJob.from_json(job.to_json()))
            resumed += done
        assert resumed == log
        at_64.append([size for size, *_ in log[-10:]].count(64))
    assert at_64[0] == 0
    assert at_64[1] > 5


def test_it_explains_itself() -> None:
    job = new()
    assert "your default, batch size 512" in job.explain()
    job, _ = play(job, Workshop(noise=0.1), 6)
    words = job.explain()
    assert words.startswith("6 runs have reached the target")
    assert "is expected to cost least" in words
    assert "W (" in words
    assert "Others: " in words


def test_saving_leaves_the_old_file_or_the_new(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "job.json"
    job, _ = play(new(), Workshop(), 2)
    job.save(path)
    assert RecurringJob.load(path).to_json() == job.to_json()
    with pytest.raises(TypeError):
        write_atomically(path, 3)  # type: ignore[arg-type]
    assert RecurringJob.load(path).to_json() == job.to_json()
    assert list(tmp_path.iterdir()) == [path]


def test_an_attempt_whose_process_died_can_be_ended_or_forgotten() -> None:
    job = new()
    job.next_batch_size()
    with pytest.raises(UsageError, match="running attempt to be ended first"):
        job.next_batch_size()
    job.end_attempt(0, False)
    assert job.next_batch_size() == 512
    job.next_segment(1, 0.0)
    job.observe_segment(150.0, 60.0, 6000.0, 1.0)
    job.keep_going(1, 0)
    resumed = RecurringJob.from_json(job.to_json())
    resumed.end_attempt(1, False)
    assert "0 runs have reached the target, 1 attempt has not" in resumed.explain()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_sizes": ()}, "one or more distinct batch sizes"),
        ({"batch_sizes": (32, 32)}, "one or more distinct batch sizes"),
        ({"default_batch_size": 48}, "a default among"),
        ({"power_limits_w": ()}, "power limits above 0 W"),
        ({"power_limits_w": (100.0, math.nan)}, "power limits above 0 W"),
        ({"max_power_w": 200.0}, "limits up to the board's 200 W"),
        ({"energy_weight": 1.2}, "an energy weight in"),
        ({"max_epochs": 0}, "max_epochs"),
        ({"limits_at": [LIMITS]}, "for each batch size"),
        ({"limits_at": [(90.0,)] * len(SIZES)}, "for each batch size"),
    ],
)
def test_an_impossible_job_is_refused(changes, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        new(**changes)


@pytest.mark.parametrize(
    ("seconds", "joules", "fraction"),
    [(math.nan, 1.0, 0.5), (1.0, math.nan, 0.5), (1.0, -3.0, 0.5), (1.0, 1.0, math.inf)],
)
def test_a_stretch_that_was_not_metered_is_refused(seconds: float, joules: float, fraction: float) -> None:
    job = new()
    job.next_batch_size()
    with pytest.raises(UsageError, match="not metered"):
        job.observe_segment(150.0, seconds, joules, fraction)
    with pytest.raises(UsageError, match="not metered"):
        job.observe_probe(64, 150.0, seconds, joules, fraction)


def test_calls_out_of_turn_and_strange_limits_are_refused() -> None:
    job = new()
    with pytest.raises(UsageError, match="a running attempt, got none"):
        job.next_segment(1, 0.0)
    job.next_batch_size()
    with pytest.raises(UsageError, match="a power limit among"):
        job.observe_segment(175.0, 1.0, 100.0, 0.1)
    with pytest.raises(UsageError, match="a batch size among"):
        job.observe_probe(48, 150.0, 1.0, 100.0, 0.1)
    with pytest.raises(UsageError, match="epoch 101"):
        job.keep_going(101, 0)
    with pytest.raises(UsageError, match="at most 4 levels"):
        job.keep_going(1, 5)


def test_probes_are_taken_in_and_remembered() -> None:
    job, plain = new(), new()
    for j in (job, plain):
        play(j, Workshop(), 1)
    job.observe_probe(16, 150.0, 5.0, 5.0, 0.5)
    assert job._known.outcomes().mean[0] < plain._known.outcomes().mean[0] - 1
    assert RecurringJob.from_json(job.to_json()).explain() == job.explain()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda s: "{", "the JSON of a recurring job"),
        (lambda s: "[]", "schema ergometry.recurring/1, got list"),
        (lambda s: json.dumps({**s, "schema": "ergometry.recurring/9"}), "got ergometry.recurring/9"),
        (lambda s: json.dumps({k: v for k, v in s.items() if k != "meters"}), "a whole state"),
        (lambda s: json.dumps({**s, "attempts": [{**s["attempts"][0], "epochs": 1000}]}), "an attempt within"),
        (lambda s: json.dumps({**s, "attempts": [{**s["attempts"][0], "crossed": [9, 3]}]}), "an attempt within"),
        (lambda s: json.dumps({**s, "attempts": [{**s["attempts"][0], "batch_size": 48}]}), "batch sizes among"),
        (lambda s: json.dumps({**s, "due": [0.0]}), "6 values of due"),
        (lambda s: json.dumps({**s, "meters": [[512, 150.0, 1.0, float("nan"), 1.0]]}), "epochs, seconds and joules"),
    ],
)
def test_a_damaged_state_is_refused(spoil, words: str) -> None:
    job, _ = play(new(), Workshop(), 1)
    with pytest.raises(UsageError, match=words):
        RecurringJob.from_json(spoil(json.loads(job.to_json())))


def test_a_missing_file_is_told(tmp_path) -> None:
    with pytest.raises(UsageError, match=r"save\(\) it first"):
        RecurringJob.load(tmp_path / "none.json")


def test_histories_that_do_not_help_are_refused() -> None:
    there, _ = play(new(name="translation"), Workshop(), 2)
    with pytest.raises(UsageError, match="the same job on another machine"):
        new(name="speech").warm_start(there.to_json())
    with pytest.raises(UsageError, match="the same job on another machine"):
        new(name="translation", metric_levels=3).warm_start(there.to_json())
    with pytest.raises(UsageError, match="start cold"):
        new().warm_start(new().to_json())
    begun, _ = play(new(name="translation"), Workshop(), 1)
    with pytest.raises(UsageError, match="that has not begun"):
        begun.warm_start(there.to_json())


def test_settings_travel_with_the_state() -> None:
    job = new(settings=Settings(horizon=7.0, run_noise=(0.1, 0.2)))
    assert RecurringJob.from_json(job.to_json()).settings == job.settings
