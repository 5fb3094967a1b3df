"""`gateway rescore`: predictions by another bundle, from the samples that the journal still holds.

The answers are made here, also where a daemon runs, so that it goes on collecting; it alone appends them to its log.
"""

import argparse
import asyncio
import fcntl
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np

from gateway.cli.arguments import add_config
from gateway.cli.output import Progress
from gateway.cli.stored import check_wearable, clocks_of, moment_us, opened
from gateway.control.rescored import Rescored, acceptable
from gateway.errors import GatewayError, InputRejected
from gateway.motion.samples import Coverage
from gateway.profiles import profile_of
from gateway.profiles.conversation import Kind, Retention
from gateway.store import Committer, Store
from gateway.store.archive import Archive
from gateway.store.errors import StoreFailed, StoreUnavailable
from gateway.store.rows import Derived, LoggedEvent
from gateway.stream.raw import resumed
from gateway.stream.stream import WindowReady

if TYPE_CHECKING:
    from gateway.client import Clocks
    from gateway.config import Config, WearableSettings
    from gateway.daemon import Loaded
    from gateway.stream.outcome import EventMaker

BATCH_WINDOWS = 32
REQUEST_BYTES = 40_000
"""Of payloads in one request; a request has 64 KiB, and escapes its quotes."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Derives predictions with another bundle from the samples that the journal still holds ([store] "
        "journal_retention_s), as new events that name it; nothing that is there already is changed, and what a run "
        "before has made is not made again. They go to the event log through the running daemon, or directly where "
        "none runs, and from there to the broker. Exit codes: 0 also where there is nothing to do; 1 the database or "
        "the daemon will not; 2 something is wrong with the input."
    )
    add_config(parser)
    parser.add_argument(
        "--bundle",
        metavar="B",
        type=Path,
        required=True,
        default=argparse.SUPPRESS,
        help="the other model bundle's folder",
    )
    parser.add_argument("--variant", metavar="NAME", default=argparse.SUPPRESS, help="of its model (default: it says)")
    parser.add_argument(
        "--since",
        metavar="TIME",
        required=True,
        default=argparse.SUPPRESS,
        help="windows that began then or later: UTC such as 2026-03-01T12:00, or how long ago, such as 2h or 1d",
    )
    parser.add_argument("--wearable", metavar="WEARABLE", help="its id; all of them without it")


def run(args: argparse.Namespace) -> int:
    from gateway.bundle import load_bundle
    from gateway.clock import Clock
    from gateway.config import load_config
    from gateway.daemon import load_variant

    config = load_config(args.config)
    since_us = moment_us(args.since, "--since", Clock().now().utc_ns)
    # beside a writer, be it the daemon or this command
    with ExitStack() as ends:
        archive = ends.enter_context(opened(config.store.path, following=True))
        ends.enter_context(_alone(config.store.path))
        progress = ends.enter_context(Progress(sys.stderr))
        check_wearable(archive, args.wearable, [wearable.id for wearable in config.wearables])
        bundle = load_bundle(args.bundle)
        loaded = load_variant(bundle, bundle.variant(getattr(args, "variant", None))[0])
        wanted = [one for one in config.wearables if args.wearable in (None, one.id)]
        if not wanted:
            raise InputRejected(f"{args.wearable}: not configured, so nobody knows how it is worn")
        live = _live_derivations(config)
        clocks = clocks_of(archive)
        total = 0
        log = ends.enter_context(_Log(config, live))
        for settings in wanted:
            rescorer = _Rescorer(config, settings, loaded, archive, clocks, since_us)
            if rescorer.maker.derivation == live[settings.id]:
                print(f"{settings.id}: this bundle answers for it already, with the same settings")
                continue
            added = 0
            for fresh in rescorer.events():
                added += log.append(fresh)
                progress.say(f"{settings.id}: {added} windows")
            total += added
            print(
                f"{settings.id}: {added} windows added, {rescorer.known} were there already"
                + (f"; {rescorer.frames_left_out} frames could not be used: what their link began with is kept no more"
                   if rescorer.frames_left_out else "")
            )  # fmt: skip
    print(f"{total} windows by {bundle.manifest.model.name} {bundle.digest[:12]}, variant {loaded.model.variant}")
    return 0


@contextmanager
def _alone(database: Path) -> Iterator[None]:
    """What is there already is looked up once, so two at a time would add the same. Raises StoreUnavailable, Busy."""
    lock = database.with_name(database.name + ".rescore.lock")
    try:
        held = lock.open("ab")
    except OSError as error:
        raise StoreUnavailable(lock, error.strerror) from error
    with held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Busy("another rescore is at work here") from None
        yield


def _live_derivations(config: "Config") -> dict[str, str]:
    """Of what answers for each wearable now."""
    from gateway.bundle import load_bundle
    from gateway.daemon import event_maker, model_of

    found = {}
    for wearable in config.wearables:
        settings = config.bundle_of(wearable)
        bundle = load_bundle(settings.path)
        model = model_of(bundle, bundle.variant(settings.variant)[0])
        found[wearable.id] = event_maker(config, wearable, model).derivation
    return found


class Busy(GatewayError):
    hint = "Try again when it is over."


class _Rescorer:
    """known: windows whose events are in the log. frames_left_out: before the beginning of a link or a session."""

    def __init__(
        self,
        config: "Config",
        settings: "WearableSettings",
        loaded: "Loaded",
        archive: Archive,
        clocks: "Clocks",
        since_us: int,
    ) -> None:
        from gateway.daemon import event_maker, new_stream
        from gateway.stream.progress import Progress as Committed

        self._name, self._loaded, self._archive, self._clocks, self._since_us = (
            settings.id, loaded, archive, clocks, since_us,
        )  # fmt: skip
        profile = profile_of(settings.profile)
        record = archive.stream(settings.id)
        state = resumed(profile, record.snapshot if record else b"")
        self._stream = new_stream(config, settings, loaded, state, Committed())
        self._begun = profile.retention is Retention.RING
        self.maker: EventMaker = event_maker(config, settings, loaded.model)
        self.known = self._unbegun = 0
        self._there = _windows_of(archive.prediction_ids(settings.id, self.maker.derivation))

    @property
    def frames_left_out(self) -> int:
        return self._unbegun + self._stream.counters.malformed

    def events(self) -> Iterator[Sequence[LoggedEvent]]:
        """Those that the log has not got, some at a time."""
        waiting: list[WindowReady] = []
        for row in self._archive.journal(self._name):
            self._begun = self._begun or row.kind == Kind.CONNECTED
            if not self._begun:
                self._unbegun += row.kind == Kind.FRAME
                continue
            waiting += [one for one in self._stream.advance(row) if isinstance(one, WindowReady) and self._wanted(one)]
            while len(waiting) >= BATCH_WINDOWS:
                yield self._fresh(waiting[:BATCH_WINDOWS])
                del waiting[:BATCH_WINDOWS]
        if waiting:
            yield self._fresh(waiting)

    def _wanted(self, window: WindowReady) -> bool:
        mono_ns = window.at.mono_ns if window.taken is None else window.taken.mono_ns
        when = self._clocks.at(window.at.boot_id, mono_ns // 1000)
        return when.latest_us is None or (when.utc_us or when.latest_us) >= self._since_us

    def _fresh(self, windows: Sequence[WindowReady]) -> list[LoggedEvent]:
        missing = [one for one in windows if not self._is_there(one)]
        self.known += len(windows) - len(missing)
        if not missing:
            return []
        probabilities = self._loaded.answer(np.stack([window.values for window in missing]))
        return [
            self.maker.prediction(window, self.maker.answer(row))
            for window, row in zip(missing, probabilities, strict=True)
        ]

    def _is_there(self, window: WindowReady) -> bool:
        covered = self._there.get(window.session)
        return covered is not None and not covered.missing(window.number, window.number + 1)


def _windows_of(ids: Collection[str]) -> dict[int, Coverage]:
    """By session; an event of several windows names the first and the last (events.prediction_id)."""
    there: dict[int, Coverage] = {}
    for one in ids:
        session, numbers, _ = one.split("-")
        first, _, last = numbers.partition("..")
        there.setdefault(int(session, 16), Coverage()).add(int(first), int(last or first) + 1)
    return there


class _Log:
    """Where new events go: to the daemon, or to the database where none runs, which is then held until the end."""

    def __init__(self, config: "Config", live: dict[str, str]) -> None:
        self._config, self._live = config, live
        self._alone: tuple[Store, Committer] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._alone is not None:
            self._alone[0].close()

    def append(self, made: Sequence[LoggedEvent]) -> int:
        """How many; on the medium then. Raises GatewayError, StoreInUse where a daemon runs without a socket."""
        from gateway.cli.beside import asked_of_daemon

        rescored = [Rescored(event.payload, event.created_ns) for event in made]
        for part in _parts(rescored):
            told = [one.told() for one in part]
            if self._alone is None and asyncio.run(asked_of_daemon(self._config, "append", {"events": told})):
                continue
            self._commit(acceptable(part, self._config.gateway.id, self._live))
        return len(rescored)

    def _commit(self, made: Sequence[LoggedEvent]) -> None:
        if self._alone is None:
            brokers = self._config.sync.brokers()
            store = Store.open(self._config.store, destinations=[broker.destination for broker in brokers])
            self._alone = store, Committer(store, lambda _: None)
        committer = self._alone[1]
        committer.derived(Derived(None, events=tuple(made)))
        if not committer.attempt(committer.take()):
            raise StoreFailed(f"store: {committer.trouble}")


def _parts(rescored: Sequence[Rescored]) -> Iterator[list[Rescored]]:
    part: list[Rescored] = []
    for one in rescored:
        if part and sum(len(other.payload) for other in part) + len(one.payload) > REQUEST_BYTES:
            yield part
            part = []
        part.append(one)
    if part:
        yield part
