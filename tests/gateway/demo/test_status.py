"""The subscriber's growing file, read as it grows."""

import json
from pathlib import Path

from gateway.demo.status import SubscriberTail, read_status


def line(wearable: str, kind: str, event_id: str, *numbers: int) -> bytes:
    event = {"source": f"urn:{wearable}", "id": event_id, "data": {"session": "a", "windows": []}}
    event["data"] = {"session": "a", "windows": [{"number": n} for n in numbers]}
    record = {"topic": f"fidget/v1/demo/{wearable}/{kind}", "retain": False, "dup": False, "event": event}
    return json.dumps(record).encode() + b"\n"


def test_each_event_counts_once_and_repeats_are_counted_apart(tmp_path: Path) -> None:
    tail = SubscriberTail(tmp_path / "received.jsonl")
    tail.read()
    assert (tail.messages, tail.repeated) == (0, 0)
    first, second = line("left", "prediction", "a-0", 0), line("left", "prediction", "a-1", 1, 2)
    tail.path.write_bytes(first + second + first)
    tail.read()
    assert (tail.messages, len(tail.events), tail.repeated, tail.windows["left"]) == (3, 2, 1, 3)


def test_a_line_that_is_still_being_written_is_read_once_it_is_whole(tmp_path: Path) -> None:
    tail = SubscriberTail(tmp_path / "received.jsonl")
    whole = line("left", "prediction", "a-0", 0) + line("right", "state", "s")
    for cut in range(len(whole) + 1):
        tail.path.write_bytes(whole[:cut])
        tail.read()
    assert (tail.messages, len(tail.events), tail.windows) == (2, 2, {"left": 1})


def test_presence_is_no_event_of_the_log(tmp_path: Path) -> None:
    tail = SubscriberTail(tmp_path / "received.jsonl")
    presence = {"source": "urn:fidget:gateway:demo", "id": "boot-1-1-online", "data": {"of": "gateway"}}
    record = {"topic": "fidget/v1/demo/state", "retain": True, "dup": False, "event": presence}
    tail.path.write_bytes(2 * (json.dumps(record).encode() + b"\n") + line("left", "state", "s"))
    tail.read()
    assert (tail.messages, len(tail.events), tail.repeated) == (1, 1, 0)


def test_there_is_no_status_before_the_daemon_has_written_one(tmp_path: Path) -> None:
    assert read_status(tmp_path / "status.json") is None
