"""The tree of domains against an oracle: what each reading of a machine physically holds.

For every machine, each domain that a source gives is written down as the set of its leaves: the parts that draw the
joules (a package's cores, its uncore, its memory, a board, fans). Two domains overlap exactly if they share a leaf.
Whatever subset of them is read, the placed paths must say the same, and the cover must hold each leaf that is read
once.
"""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ergometry.core.domain import Domain, assert_disjoint, cover
from ergometry.core.ports import Signal
from ergometry.sensors import tree

Leaves = frozenset[str]


def leaves(text: str) -> Leaves:
    return frozenset(text.split())


def sockets(n: int, *, dies: int = 1) -> dict[str, Leaves]:
    """What RAPL gives of n packages, or of their dies."""
    found: dict[str, Leaves] = {}
    for k in range(n):
        for d in range(dies):
            die = f"/die{d}" if dies > 1 else ""
            found[f"node0/package{k}{die}"] = leaves(f"cores{k}.{d} uncore{k}.{d} rest{k}.{d}")
            found[f"node0/package{k}{die}/core"] = leaves(f"cores{k}.{d}")
            found[f"node0/package{k}{die}/uncore"] = leaves(f"uncore{k}.{d}")
            found[f"node0/dram{k}{die}"] = leaves(f"dimms{k}.{d}")
    return found


def union(found: dict[str, Leaves], *more: str) -> Leaves:
    return frozenset().union(*found.values(), more)


def boards(n: int) -> dict[str, Leaves]:
    found = {f"node0/gpu{k}": leaves(f"gpu{k} hbm{k}") for k in range(n)}
    return found | {f"node0/gpu{k}/memory": leaves(f"hbm{k}") for k in range(n)}


def superchips(n: int) -> dict[str, Leaves]:
    """Grace Hopper: hwmon's module, socket and rails; NVML's GPU and its memory."""
    found = boards(n)
    for k in range(n):
        found[f"node0/module{k}"] = leaves(f"arm{k} sysio{k} lpddr{k} gpu{k} hbm{k} regulators{k}")
        found[f"node0/socket{k}"] = leaves(f"arm{k} sysio{k} lpddr{k}")
        found[f"node0/socket{k}/core"] = leaves(f"arm{k}")
        found[f"node0/socket{k}/sysio"] = leaves(f"sysio{k}")
    return found


RAILS = ("vdd_cpu_gpu_cv", "vdd_soc")
JETSON = {"node0/module0": leaves("cpu gpu soc ddr input"), "node0/rails/vdd_cpu_gpu_cv": leaves("cpu gpu")} | {
    "node0/rails/vdd_soc": leaves("soc")
}
ORIN = {
    "node0/rails/vdd_gpu_soc": leaves("gpu soc"),
    "node0/rails/vdd_cpu_cv": leaves("cpu cv"),
    "node0/rails/vin_sys_5v0": leaves("system ddr"),
    "node0/rails/vin_sys_5v0/vddq_vdd2_1v8ao": leaves("ddr"),
}
APPLE = {
    "node0/package0": leaves("cpu gpu ane"),
    "node0/package0/core": leaves("cpu"),
    "node0/package0/gpu0": leaves("gpu"),
}


def laptop() -> dict[str, Leaves]:
    return sockets(1) | {"node0/psys": union(sockets(1), "board")}


def platform() -> dict[str, Leaves]:
    return sockets(2) | boards(2) | {"node0/psys": union(sockets(2), "board")}


def whole(machine: dict[str, Leaves]) -> dict[str, Leaves]:
    """Add what a management controller or a supply reads."""
    return machine | {"node0": union(machine, "fans", "supply", "nic", "disks")}


MACHINES = {
    "one socket, no psys": whole(sockets(1)),
    "laptop with psys": whole(laptop()),
    "two sockets, psys and two GPUs": whole(platform()),
    "two sockets of two dies and a GPU": whole(sockets(2, dies=2) | boards(1)),
    "twelve GPUs": whole(sockets(1) | boards(12)),
    "GH200": whole(superchips(1)),
    "four GH200": whole(superchips(4)),
    "Grace": whole({k: v for k, v in superchips(2).items() if "module" not in k and "gpu" not in k}),
    "Jetson": whole(JETSON),
    "AGX Orin": whole(ORIN),
    "Apple": APPLE,
}
"""What each machine's sources can give: place of its own -> leaves."""


def placed(read: list[str]) -> dict[str, str]:
    """Return own place -> path in the tree, with every signal a source of its own."""
    signals = [Signal(domain, "energy_j", "measured", "x") for domain in read]
    return {signal.domain: tree.place([signal], read)[0].domain for signal in signals}


def check(machine: dict[str, Leaves], read: list[str]) -> None:
    path = placed(read)
    assert len(set(path.values())) == len(read)
    for a, b in combinations(read, 2):
        assert Domain(path[a]).overlaps(Domain(path[b])) == bool(machine[a] & machine[b]), (path[a], path[b])
    kept = cover({Domain(path[own]): machine[own] for own in read})
    assert_disjoint(kept)
    counted = [leaf for held in kept.values() for leaf in held]
    assert len(counted) == len(set(counted)), "a leaf is counted twice"
    assert set(counted) == set().union(*(machine[own] for own in read)), "a leaf that is read is missed"


@pytest.mark.parametrize("name", MACHINES)
def test_all_that_a_machine_has_is_placed_as_its_joules_lie(name):
    check(MACHINES[name], list(MACHINES[name]))


@pytest.mark.parametrize("name", [name for name, machine in MACHINES.items() if len(machine) <= 9])
def test_so_is_every_subset_of_it(name):
    domains = list(MACHINES[name])
    for bits in range(1, 1 << len(domains)):
        check(MACHINES[name], [domain for i, domain in enumerate(domains) if bits >> i & 1])


@given(st.data())
def test_so_are_subsets_of_the_larger_machines_in_any_order(data):
    machine = MACHINES[data.draw(st.sampled_from(sorted(MACHINES)))]
    check(machine, data.draw(st.lists(st.sampled_from(sorted(machine)), min_size=1, unique=True)))


@given(st.data())
def test_placing_again_changes_nothing(data):
    machine = MACHINES[data.draw(st.sampled_from(sorted(MACHINES)))]
    read = data.draw(st.lists(st.sampled_from(sorted(machine)), min_size=1, unique=True))
    once = list(placed(read).values())
    assert placed(once) == {path: path for path in once}


CPU_LEAVES = ("cores", "uncore", "rest", "arm", "sysio", "cpu")
MEMORY_LEAVES = ("dimms", "lpddr", "ddr")


@given(st.data())
def test_models_beside_readings_are_never_counted_twice(data):
    """A model of all processors or of all memory is of the machine's leaves of that kind.

    By itself it is opened only where nothing of its kind is read; beside a reading, it is a second opinion.
    """
    machine = MACHINES[data.draw(st.sampled_from(sorted(MACHINES)))]
    read = data.draw(st.lists(st.sampled_from(sorted(machine)), unique=True))
    models = data.draw(st.lists(st.sampled_from(["node0/cpu", "node0/dram"]), min_size=1, unique=True))
    own = {
        "node0/cpu": frozenset(leaf for leaf in union(machine) if leaf.startswith(CPU_LEAVES)),
        "node0/dram": frozenset(leaf for leaf in union(machine) if leaf.startswith(MEMORY_LEAVES)),
    }
    path = placed([*read, *models])
    kept = cover({Domain(path[place]): place for place in [*read, *models]})
    for a, b in combinations(kept.values(), 2):
        shared = (machine | own)[a] & (machine | own)[b]
        assert not shared, f"{a} and {b} are added and share {set(shared)}"
    measured = set().union(*(machine[place] for place in read)) if read else set()
    counted = set().union(*((machine | own)[place] for place in kept.values()))
    assert measured <= counted
    for model, kinds in (("node0/cpu", tree.CPU_METERS), ("node0/dram", tree.MEMORY_METERS)):
        if model in models and not tree.meters(kinds, read) and "node0" not in read:
            assert model in kept.values()


@pytest.mark.parametrize("name", MACHINES)
def test_what_holds_the_processors_or_the_memory_makes_their_model_needless(name):
    for place, held in MACHINES[name].items():
        if place == "node0":
            continue  # it holds the model too
        for kinds, kept in ((tree.CPU_METERS, CPU_LEAVES), (tree.MEMORY_METERS, MEMORY_LEAVES)):
            if any(leaf.startswith(kept) for leaf in held):
                assert tree.meters(kinds, [place]), place
        if place.startswith("node0/gpu"):
            assert not tree.meters(tree.CPU_METERS | tree.MEMORY_METERS, [place]), place


def test_parts_of_a_machine_are_counted_once_each():
    read = list(sockets(2)) + list(boards(3))
    assert tree.units({"package", "psys"}, read) == 2
    assert tree.units({"dram"}, read) == 2
    assert tree.units({"package"}, sockets(2, dies=4)) == 8
    assert tree.units({"package"}, ["node0/psys/package0", "node0/psys/package0/core"]) == 1
    assert tree.units({"package"}, ["node0/package1", "node0/package10"]) == 2
    assert tree.units({"package"}, ["node0/gpu0"]) == 0


def test_a_second_gpu_is_not_in_the_first_module():
    assert placed(["node0/module1", "node0/gpu1", "node0/gpu10"]) == {
        "node0/module1": "node0/module1",
        "node0/gpu1": "node0/module1/gpu1",
        "node0/gpu10": "node0/gpu10",
    }


@pytest.mark.parametrize("odd", ["node0", "node0/", "node0/9", "node0/GPU", "", "node0/éclair"])
def test_places_that_nobody_knows_stay_where_they_are(odd):
    assert placed([odd, "node0/psys", "node0/module0"])[odd] == odd
