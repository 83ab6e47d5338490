"""Cores: how a list is read and shared out, what is refused, and where the threads of a started engine run."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters_store.backbone import read_bundle
from benchmarks.forge import Run
from service import server, workers
from service.cores import ALL, bind, listed, named, shares, usable
from service.engines.chosen import Engines
from service.engines.native import EXTENSION
from service.errors import EngineFailed
from service.refusals import SettingsInvalid
from service.settings import load_settings
from service.threads import WorkerThread
from tests.service.live import espalier, settings_of

CORES = st.lists(st.integers(0, 9999), unique=True, max_size=40)
SCORE = {"user_id": 7, "domain_id": "theme-1", "item_ids": ["item-1"]}
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="threads are bound to cores on Linux only")
on_two_cores = pytest.mark.skipif(len(usable()) < 2, reason="this process may run on one core only")


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("", ()),
        ("3", (3,)),
        ("2-5,8", (2, 3, 4, 5, 8)),
        ("8, 2-3", (8, 2, 3)),
        ("7-7", (7,)),
        ("007", (7,)),
        (ALL, usable()),
    ],
)
def test_a_list_names_cores_in_its_order(text: str, cpus: tuple[int, ...]) -> None:
    """Law: numbers and ranges mean what they mean to the kernel's own lists, and order is kept."""
    assert named(text) == cpus


@given(CORES)
def test_what_is_listed_is_read_back(cpus: list[int]) -> None:
    """Law: cores written as a list are the same cores, in the same order."""
    assert named(listed(cpus)) == tuple(cpus)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        *(
            (text, "is no list of cores")
            for text in ("2;5", "a", "2 5", "-3", "2-", "2,,3", "2,", ",2", "²", "0-99999")
        ),
        *((text, "is no list of cores") for text in ("2\n", "2-3-4", "all,2", "2,  3", "0x2")),
        ("5-2", "5-2 runs backwards: write 2-5"),
        ("3,3", "core 3 is named more than once"),
        ("1-3,2-4", "core 2-3 is named more than once"),
    ],
)
def test_what_is_no_list_is_refused_by_name(text: str, said: str) -> None:
    """Law: the service names the setting and what is wrong with it; nothing is guessed."""
    with pytest.raises(SettingsInvalid) as refusal:
        load_settings({"store": "memory://", "engine_cpus": text}, environ={})
    assert "engine_cpus: " in str(refusal.value)
    assert said in str(refusal.value)


def test_a_single_core_may_be_a_number(tmp_path: Path) -> None:
    """Law: YAML reads a list of one core as a number; it is taken, and reaches the core of the service."""
    (tmp_path / "espalier.yaml").write_text("store: memory://\nengine_cpus: 3\n")
    assert load_settings({}, tmp_path / "espalier.yaml", environ={}).replica.engine_cpus == (3,)
    assert load_settings({"store": "memory://"}, environ={}).replica.engine_cpus == ()


@given(st.data(), st.integers(1, 5), st.integers(1, 5))
def test_each_worker_has_its_own_cores_one_for_each_thread(data: st.DataObject, count: int, threads: int) -> None:
    """Law: the parts are as many as workers, each as large as its threads, in order, and together the list."""
    size = count * threads
    cpus = data.draw(st.lists(st.integers(0, 60), unique=True, min_size=size, max_size=size))
    parts = shares(listed(cpus), workers=count, threads=threads, allowed=range(61))
    assert [len(part) for part in parts] == [threads] * count
    assert [cpu for part in parts for cpu in part] == cpus


@given(CORES.filter(bool), st.integers(1, 5), st.integers(1, 5))
def test_a_list_of_another_length_is_refused(cpus: list[int], count: int, threads: int) -> None:
    """Law: no thread goes without a core, and no core without a thread."""
    if len(cpus) == count * threads:
        assert len(shares(listed(cpus), workers=count, threads=threads, allowed=cpus)) == count
    else:
        with pytest.raises(SettingsInvalid, match=rf"engine_cpus: .*take {count * threads}, one for each thread"):
            shares(listed(cpus), workers=count, threads=threads, allowed=cpus)


@pytest.mark.parametrize(
    ("text", "allowed", "said"),
    [
        ("2-5", (0, 1, 2, 3), r"may run on 0-3, not on 4-5: "),
        ("9", (0, 2, 4), r"may run on 0,2,4, not on 9: "),
        ("0", (), r"on Linux only"),
        ("0-2", (0, 1, 2, 3), r"0-2 is 3 cores, but 2 workers with engine_threads: 2 take 4"),
    ],
)
def test_cores_that_cannot_be_had_are_refused_by_name(text: str, allowed: Sequence[int], said: str) -> None:
    """Law: a refusal says which cores there are, or how many it takes."""
    with pytest.raises(SettingsInvalid, match=rf"^engine_cpus: .*{said}"):
        shares(text, workers=2, threads=2, allowed=allowed)


def test_without_a_list_nobody_is_bound() -> None:
    """Law: the empty list suits any number of workers and threads, on any system."""
    assert shares("", workers=3, threads=7, allowed=()) == [(), (), ()]


@on_linux
@pytest.mark.parametrize(("run", "count"), [(server.run, 1), (workers.run, 2)], ids=["alone", "workers"])
def test_a_server_that_lacks_the_cores_does_not_start(run: Callable[..., None], count: int) -> None:
    """Law: whoever runs the service refuses a list that this machine has not, before anything is loaded."""
    absent = max(usable()) + 1
    settings = settings_of(port=0, workers=count, engine_cpus=f"{absent}-{absent + count - 1}")
    with pytest.raises(SettingsInvalid, match=rf"not on {absent}"):
        run(settings, config=None, announce=lambda _: None)


@on_linux
async def test_cores_that_were_lost_are_told_and_change_nothing() -> None:
    """Law: where the system refuses, the error names the cores that are left, and the thread runs where it ran."""
    thread = WorkerThread("espalier-test")
    try:
        with pytest.raises(EngineFailed, match=rf"bound to 9999 .*may run on {listed(usable())} now"):
            await thread.run(lambda: bind([9999]))
        assert await thread.run(usable) == usable()
    finally:
        thread.close()


def running() -> set[int]:
    """The threads of this process, as the kernel numbers them."""
    return {int(path.name) for path in Path("/proc/self/task").iterdir()}


@on_two_cores
@pytest.mark.parametrize(("engine", "least"), [("onnx", 2), ("native", 1)])
async def test_each_thread_of_a_started_engine_runs_on_its_core(random_run: Run, engine: str, least: int) -> None:
    """Law: the calling thread is on the first core of the list, what the engine starts on the other; nothing else is.

    So the kernel says of the threads themselves, those of the native engine and of ONNX Runtime.
    """
    if engine == "native":
        pytest.importorskip(EXTENSION, reason="the extension espalier-kernels is not installed")
    own, before = usable(), running()
    first, second = own[-1], own[0]
    async with espalier(random_run, engine=engine, engine_threads=2, engine_cpus=f"{first},{second}") as live:
        reply = await live.client.post("/score", json=SCORE)
        started = {thread: os.sched_getaffinity(thread) for thread in running() - before}
        names = {thread.native_id: thread.name for thread in threading.enumerate()}
    assert reply.status_code == 200
    assert [names[thread] for thread, cpus in started.items() if cpus == {first}] == ["espalier-engine_0"]
    helpers = [thread for thread, cpus in started.items() if cpus == {second}]
    assert len(helpers) >= least
    assert all(cpus == set(own) for cpus in started.values() if len(cpus) > 1)
    assert usable() == own


@on_linux
async def test_threads_of_an_engine_that_comes_later_have_the_priority_of_the_first(random_run: Run) -> None:
    """Law: a backbone is read at low priority, and yet scored at the process's own."""
    backbone, engines = read_bundle(random_run.folder / "bundle"), Engines(lambda *_: None)

    def make() -> object:
        return engines.make("onnx", backbone, threads=2, rows_per_run=64)

    kept = [make()]
    reading = WorkerThread("espalier-test", niceness=5)
    try:
        await reading.run(lambda: None)
        before = running()
        kept.append(await reading.run(make))
        started = running() - before
    finally:
        reading.close()
    assert started
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert {os.getpriority(os.PRIO_PROCESS, thread) for thread in started} == {own}
