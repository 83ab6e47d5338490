"""`Precedence`: loads let requests pass."""

from __future__ import annotations

import asyncio
import threading

import pytest

from service.precedence import Precedence


class Steps:
    """A loader thread that makes one step after the other."""

    def __init__(self, precedence: Precedence) -> None:
        self.made = 0
        self._precedence = precedence
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._make, daemon=True)

    def __enter__(self) -> Steps:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _make(self) -> None:
        while not self._ended.is_set():
            self._precedence.give_way()
            self.made += 1

    async def in_so_many_turns(self, turns: int) -> int:
        """Steps made while the event loop turned so often."""
        before = self.made
        for _ in range(turns):
            await asyncio.sleep(0.001)
        return self.made - before


async def test_no_step_is_made_while_a_request_is_answered_but_now_and_then_one() -> None:
    """Law: while a request is answered steps are rarer than without one by far, and go on all the same."""
    precedence = Precedence()
    with Steps(precedence) as steps:
        free = await steps.in_so_many_turns(100)
        with precedence.answering():
            held = await steps.in_so_many_turns(100)
    assert 1 <= held < free / 3


async def test_a_request_that_waits_for_a_load_holds_none_up() -> None:
    """Law: within `waiting` the request does not count; behind it, it does again."""
    precedence = Precedence(longest_s=30.0)
    with Steps(precedence) as steps:
        with precedence.answering():
            with precedence.waiting():
                assert await steps.in_so_many_turns(50) > 0
            await steps.in_so_many_turns(50)  # a step that had begun
            assert await steps.in_so_many_turns(50) == 0
            with precedence.waiting():
                assert await steps.in_so_many_turns(50) > 0
        await asyncio.sleep(0)  # the request ends, or the thread would not be done before its 30 s are over


async def test_a_request_counts_until_its_reply_is_written() -> None:
    """Law: the turn of the event loop in which a request ends belongs to it, also when it ended with an error."""
    precedence = Precedence(longest_s=0.0)
    with pytest.raises(ValueError, match="refused"), precedence.answering():
        raise ValueError("refused")
    assert precedence.is_answering
    await asyncio.sleep(0)
    assert not precedence.is_answering


async def test_the_last_of_several_requests_opens_the_way() -> None:
    """Law: it is free again when no request at all is being answered."""
    precedence = Precedence(longest_s=0.0)
    with precedence.answering():
        with precedence.answering():
            pass
        await asyncio.sleep(0)
        assert precedence.is_answering
    await asyncio.sleep(0)
    assert not precedence.is_answering


async def test_long_after_the_last_request_steps_follow_at_once() -> None:
    """Law: no pause is made before the first request and 50 ms after the last; in between there is one a step."""
    now, slept = [100.0], list[float]()
    precedence = Precedence(now=lambda: now[0], sleep=slept.append)

    def pauses() -> int:
        before = len(slept)
        precedence.give_way()
        return len(slept) - before

    assert pauses() == 0
    with precedence.answering():
        pass
    await asyncio.sleep(0)
    assert pauses() == 1
    now[0] += 0.049
    assert pauses() == 1
    now[0] += 0.002
    assert pauses() == 0


async def test_no_pause_is_made_for_whoever_waits_for_the_load() -> None:
    """Law: within `waiting` there is none; behind it there is one again."""
    slept = list[float]()
    precedence = Precedence(longest_s=0.0, now=lambda: 100.0, sleep=slept.append)
    with precedence.answering():
        with precedence.waiting():
            precedence.give_way()
            assert slept == []
        precedence.give_way()
        assert len(slept) == 1
    await asyncio.sleep(0)


async def test_others_hold_up_whoever_waits_for_a_tenth_of_the_time() -> None:
    """Law: while one request is answered, steps are more frequent by far if another waits for them."""
    precedence = Precedence(longest_s=0.1)
    with Steps(precedence) as steps, precedence.answering():
        held = await steps.in_so_many_turns(200)
        with precedence.answering(), precedence.waiting():
            await steps.in_so_many_turns(100)  # a wait that had begun
            waited_for = await steps.in_so_many_turns(200)
        await asyncio.sleep(0)
    assert 1 <= held < waited_for / 3
