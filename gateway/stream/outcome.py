"""Finished events, to the byte, from what a stream gives. Pure: the time is that of the journal row behind it."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from gateway import events
from gateway.clock import Instant
from gateway.motion.samples import Float32
from gateway.store.rows import LoggedEvent
from gateway.stream.coalescing import Run
from gateway.stream.stream import Counters, DriftReady, StateReady, WindowReady

PIPELINE_VERSION = 4
"""Raised whenever the same journal gives other windows or other answers."""


Head = list[Any]
"""Of an event: what its windows have in common beside session and answer; JSON values."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model says of one window. activity: its top class; reasons: why it should not be relied on."""

    activity: str
    confidence: float
    probabilities: dict[str, float]
    reasons: tuple[events.Reason, ...]


@dataclass(frozen=True, slots=True)
class Model:
    """What answers: a bundle's digest, the variant that runs, its labels in the order of its outputs, its windows.

    wrist: that it learnt on, "left" or "right"; "either" and None rule out none.
    """

    bundle: str
    variant: str
    labels: tuple[str, ...]
    window: int
    hop: int
    rate_hz: float
    wrist: str | None = None

    def learnt_elsewhere(self, wrist: str | None) -> bool:
        """Whether it is known to have learnt on the other wrist than this one."""
        return self.wrist in ("left", "right") and wrist not in (None, self.wrist)


def derivation_digest(model: Model, settings: dict[str, object]) -> str:
    """12 hex digits that change with whatever changes an answer: bundle, variant, settings, pipeline."""
    answering = {name: value for name, value in asdict(model).items() if name != "wrist"}  # the bundle's digest has it
    content = {"model": answering, "settings": settings, "pipeline": PIPELINE_VERSION}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class EventMaker:
    """Of one wearable. frame_known: its mounting is, so that its axes mean what the model's mean. wrist: where it is
    worn, None where nobody said. shared: other gateways tell of it too."""

    gateway: str
    wearable: str
    wearer: str | None
    model: Model
    derivation: str
    frame_known: bool
    wrist: str | None = None
    counted: bool = True
    """The wearable numbers or times its samples."""
    shared: bool = False

    def answer(self, probabilities: Float32) -> Answer:
        """probabilities: (labels,), in the order of the model's."""
        by_label = {label: float(p) for label, p in zip(self.model.labels, probabilities, strict=True)}
        activity = max(by_label, key=by_label.__getitem__)
        reasons = {
            events.Reason.FRAME_UNKNOWN: not self.frame_known,
            events.Reason.OTHER_WRIST: self.model.learnt_elsewhere(self.wrist),
        }
        return Answer(
            activity, by_label[activity], by_label, tuple(reason for reason, is_so in reasons.items() if is_so)
        )

    def prediction(self, window: WindowReady, answer: Answer) -> LoggedEvent:
        return self._prediction(window.session, (self.record(window, answer),), window.at)

    def record(self, window: WindowReady, answer: Answer) -> events.WindowRecord:
        model = self.model
        taken = window.taken if window.taken and window.taken.mono_ns >= 0 else None  # else of an earlier boot
        return events.WindowRecord(
            number=window.number,
            start_s=window.number * model.hop / model.rate_hz,
            taken_mono_us=taken and taken.mono_ns // 1000,
            taken_uncertainty_us=taken and taken.uncertainty_ns // 1000,
            decision="uncertain" if answer.reasons else "activity",
            reasons=answer.reasons,
            activity=answer.activity,
            confidence=answer.confidence,
            probabilities=answer.probabilities,
            quality=events.Quality(
                interpolated=window.interpolated / model.window,
                saturated=window.saturated,
                uncounted=None if self.counted else True,
            ),
        )

    def run(self, run: Run, head: Head | None = None) -> LoggedEvent:
        """Of windows that share an event. head: of an earlier start that answered them, where it is another one."""
        windows = tuple(held.record for held in run.windows)
        return (self if head is None else self._as_then(head))._prediction(run.session, windows, run.at, compact=True)

    @property
    def head(self) -> Head:
        """What else an answer is made of, as JSON values: whoever answers otherwise has another one."""
        model = self.model
        return [model.bundle, model.variant, model.window, model.hop, model.rate_hz, self.derivation]

    def _as_then(self, head: Head) -> "EventMaker":
        bundle, variant, window, hop, rate_hz, derivation = head
        model = replace(self.model, bundle=bundle, variant=variant, window=window, hop=hop, rate_hz=rate_hz)
        return replace(self, model=model, derivation=derivation)

    def _prediction(
        self, session: int, windows: tuple[events.WindowRecord, ...], at: Instant, *, compact: bool = False
    ) -> LoggedEvent:
        model, first, last = self.model, windows[0].number, windows[-1].number
        data = events.PredictionData(
            session=f"{session:016x}",
            windows=windows,
            window=model.window,
            hop=model.hop,
            rate_hz=model.rate_hz,
            bundle=model.bundle,
            variant=model.variant,
            derivation=self.derivation,
        )
        event = events.Prediction(
            id=events.prediction_id(session, first, self.derivation, last),
            **self._attributes(at),
            sequence=events.sequence(first),
            data=events.compacted(data) if compact else data,
        )
        return self._logged("prediction", event, at)

    def drift(self, ready: DriftReady) -> LoggedEvent:
        summary = ready.summary
        features = {
            name: events.FeatureDrift(
                sketch=f.sketch,
                minimum=f.minimum,
                maximum=f.maximum,
                mean=f.mean,
                shift=f.shift,
                distance=f.distance,
            )
            for name, f in summary.features.items()
        }
        data = events.DriftData(
            session=f"{ready.session:016x}",
            start_s=summary.start_s,
            end_s=summary.end_s,
            windows=summary.windows,
            bundle=self.model.bundle,
            features=features,
        )
        event = events.Drift(
            id=events.drift_id(ready.session, summary.start_s, self.gateway if self.shared else None),
            **self._attributes(ready.at),
            data=data,
        )
        return self._logged("drift", event, ready.at)

    def state(self, ready: StateReady, counters: Counters) -> LoggedEvent:
        device, detail = ready.device, ready.detail
        battery_percent = device.battery_percent if device else None
        data = events.WearableState(
            link="connected" if ready.connected else "disconnected",
            links=counters.links,
            trouble=detail.trouble or None,
            trouble_why=detail.trouble_why or None,
            bundle=self.model.bundle,
            variant=self.model.variant,
            manufacturer=detail.manufacturer,
            model=detail.model,
            firmware=device.firmware if device else detail.firmware,
            battery_percent=detail.battery_percent if battery_percent is None else battery_percent,
            rssi_dbm=detail.rssi_dbm,
            ring_held=device and device.ring_held,
            ring_capacity=device and device.ring_capacity,
            ring_overwritten=device and device.overwritten,
            ring_overflow_h=None if ready.ring_overflow_h is None else round(ready.ring_overflow_h, 2),
            worn=ready.worn,
            mounting=ready.mounting,
            mounting_fits=ready.mounting_fits,
            windows=counters.windows,
            windows_broken=counters.broken,
            samples_interpolated=counters.interpolated,
            samples_lost=counters.lost_samples,
            samples_lost_estimated=counters.lost_estimated,
            samples_lost_by=counters.lost_by_reason,
            samples_elsewhere=counters.elsewhere_samples,
            frames_malformed=counters.malformed,
        )
        event = events.State(
            id=events.wearable_state_id(ready.row, ready.at.boot_id),
            **self._attributes(ready.at),
            data=data,
        )
        return self._logged("state", event, ready.at)

    def _attributes(self, at: Instant) -> dict[str, Any]:
        """Those of CloudEvents that every event of this wearable has."""
        return {
            "source": events.wearable_source(self.wearable),
            "subject": self.wearer,
            "time": utc(at),
            "gateway": self.gateway,
            "bootid": at.boot_id,
            "monons": str(at.mono_ns),
        }

    def _logged(self, kind: str, event: events.Event, at: Instant) -> LoggedEvent:
        topic = events.topic_of(events.TOPIC_PREFIX, self.gateway, self.wearable, kind)
        return logged(kind, self.wearable, event, topic, at, retain=kind == "state")


def logged(
    kind: str, wearable: str | None, event: events.Event, topic: str, at: Instant, *, retain: bool
) -> LoggedEvent:
    """The event as the log holds it."""
    return LoggedEvent(
        kind, wearable, event.source, event.id, topic, events.encode(event), at.utc_ns, at.boot_id, retain
    )


def clock_event(gateway: str, at: Instant, uncertainty_ns: int) -> LoggedEvent:
    """What this boot's monotonic time is in UTC, as known now."""
    event = events.Clock(
        id=f"{at.boot_id}-{at.mono_ns}",
        source=events.gateway_source(gateway),
        time=utc(at),
        gateway=gateway,
        bootid=at.boot_id,
        monons=str(at.mono_ns),
        data=events.ClockData(
            boot=at.boot_id, offset_us=(at.utc_ns - at.mono_ns) // 1000, uncertainty_us=uncertainty_ns // 1000
        ),
    )
    topic = events.topic_of(events.TOPIC_PREFIX, gateway, None, "clock")
    return logged("clock", None, event, topic, at, retain=False)


def store_event(gateway: str, at: Instant, data: events.GatewayState) -> LoggedEvent:
    """On the topic of the gateway's own state, which stays retained there."""
    event = events.State(
        id=events.store_state_id(at.boot_id, at.mono_ns),
        source=events.gateway_source(gateway),
        time=utc(at),
        gateway=gateway,
        bootid=at.boot_id,
        monons=str(at.mono_ns),
        data=data,
    )
    topic = events.topic_of(events.TOPIC_PREFIX, gateway, None, "state")
    return logged("state", None, event, topic, at, retain=False)


def utc(at: Instant) -> str | None:
    """None while the clock is not trusted."""
    return events.rfc3339(at.utc_ns) if at.utc_synced else None
