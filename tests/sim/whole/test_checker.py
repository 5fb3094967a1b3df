"""Is the simulation worth anything? Five ways to break the path, each of which it must find."""

import itertools
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway import events
from gateway.clock import Instant
from gateway.daemon import open_pipeline
from gateway.pipeline import Pipeline
from gateway.store import Committed
from gateway.store.batch import Batch, write
from gateway.store.rows import LoggedEvent
from gateway.stream.outcome import Answer, EventMaker
from gateway.stream.stream import WindowReady
from gateway.sync import Publisher
from gateway.sync.session import Connection
from tests.sim.whole.gateway import Parts, Watched
from tests.sim.whole.test_whole import HOURS, SEEDS, WEARABLES, folder
from tests.sim.whole.world import Whole

__all__ = ["folder"]


class AcknowledgesBeforeTheCommit(Watched):
    def take(self) -> Batch:
        batch = super().take()
        self._on_commit(Committed(self._row, self._seq))
        return batch


class ProgressOutsideTheTransaction(Watched):
    def attempt(self, batch: Batch) -> bool:
        if batch.progress and batch.events:
            write(self._connection, Batch(progress=batch.progress, snapshots=batch.snapshots), self._seq)
            batch.progress, batch.snapshots = {}, {}
            return False  # the rest a moment later
        return super().attempt(batch)


class CursorMovesBeforePuback(Publisher):
    def _send(self, connection: Connection) -> None:
        super()._send(connection)
        for event in self._flight.under_way.values():
            self._acknowledge(event.seq)


class _Altered:
    """An EventMaker whose predictions are altered by a function of the window, the answer and the event."""

    def __init__(self, maker: EventMaker, alter: Any) -> None:
        self._maker, self._alter = maker, alter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._maker, name)

    def prediction(self, window: WindowReady, answer: Answer) -> LoggedEvent:
        return self._alter(self._maker, window, answer)  # type: ignore[no-any-return]


def key_from_a_counter(*given: Any) -> Pipeline:
    pipeline, counter = open_pipeline(*given), itertools.count()

    def alter(maker: EventMaker, window: WindowReady, answer: Answer) -> LoggedEvent:
        event = maker.prediction(window, answer)
        counted = events.prediction_id(window.session, next(counter), maker.derivation)
        return replace(event, id=counted, payload=event.payload.replace(event.id.encode(), counted.encode()))

    pipeline._events = _Altered(pipeline._events, alter)  # type: ignore[assignment]
    return pipeline


def clock_read_in_the_path(*given: Any) -> Pipeline:
    pipeline, clock = open_pipeline(*given), given[4].clock

    def alter(maker: EventMaker, window: WindowReady, answer: Answer) -> LoggedEvent:
        at = Instant(window.at.boot_id, clock.now_ns, window.at.utc_ns, window.at.utc_synced)
        return maker.prediction(replace(window, at=at), answer)

    pipeline._events = _Altered(pipeline._events, alter)  # type: ignore[assignment]
    return pipeline


BREAKAGES = [
    pytest.param(Parts(writer=AcknowledgesBeforeTheCommit), "acknowledged, not durable", id="ack before commit"),
    pytest.param(Parts(writer=ProgressOutsideTheTransaction), "never received", id="progress outside the transaction"),
    pytest.param(
        Parts(open_pipeline=key_from_a_counter),
        "never received|committed twice|again|two contents",
        id="key from a counter",
    ),
    pytest.param(Parts(publisher=CursorMovesBeforePuback), "never received", id="cursor before PUBACK"),
    pytest.param(Parts(open_pipeline=clock_read_in_the_path), "monons", id="clock read in the path"),
]


@pytest.mark.parametrize(("parts", "found"), BREAKAGES)
def test_a_broken_path_is_found(parts: Parts, found: str, folder: Path) -> None:
    with pytest.raises(AssertionError, match=found):
        play_all(parts, folder, SEEDS)


def play_all(parts: Parts, folder: Path, seeds: Iterable[int]) -> None:
    for seed in seeds:
        Whole(seed, folder / str(seed), hours=HOURS, wearables=WEARABLES, parts=parts).run()
