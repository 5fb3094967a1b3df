"""Events as a gateway publishes them, and a broker."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from gateway import events
from tests.gateway.sync.conftest import children, embedded, mosquitto

__all__ = ["children", "embedded", "mosquitto"]

DOCS = Path(__file__).resolve().parents[3] / "docs"
EXAMPLES = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", (DOCS / "events.md").read_text(), re.S)]
_PREDICTION, _CLOCK, _BIRTH = (
    next(e for e in EXAMPLES if e["type"] == f"fidget.{kind}.v1" and e["data"].get("of") != "wearable")
    for kind in ("prediction", "clock", "state")
)
BOOT = "0b9c1f5e-6f0a-4a57-9d3b-2f6f3c1f8f11"


class Made:
    """Makes events; what is not asked for is that of the documentation's examples."""

    def prediction(
        self,
        number: int = 0,
        *,
        windows: int = 1,
        source: str = "urn:fidget:wearable:left",
        session: str = "00000000000000ab",
        derivation: str = "9f86d081884c",
        taken_us: int | None = None,
        **attributes: Any,
    ) -> events.Prediction:
        record = _PREDICTION["data"]["windows"][0]
        records = [
            {k: v for k, v in record.items() if not k.startswith("taken")} | {"number": n, "start_s": n * 2.0}
            for n in range(number, number + windows)
        ]
        if taken_us is not None:
            records[0] |= {"taken_mono_us": taken_us, "taken_uncertainty_us": 0}
        data = _PREDICTION["data"] | {"session": session, "derivation": derivation, "windows": records}
        named = {"id": f"{session}-{number}-{derivation}", "source": source, "sequence": events.sequence(number)}
        return events.Prediction.model_validate(_timed(_PREDICTION | named | {"data": data}, attributes))

    def clock(self, offset_us: int, uncertainty_us: int = 0, **attributes: Any) -> events.Clock:
        event = _timed(_CLOCK, attributes)
        data = {"boot": event["bootid"], "offset_us": offset_us, "uncertainty_us": uncertainty_us}
        return events.Clock.model_validate(event | {"id": f"{event['bootid']}-{event['monons']}", "data": data})

    def life(
        self, start: int, connection: int = 1, status: str = "online", *, boot: str = BOOT, mono_us: int = 0
    ) -> events.State:
        data = _BIRTH["data"] | {"start": start, "connection": connection, "status": status}
        named = {"id": events.gateway_state_id(boot, start, connection, status), "data": data}
        return events.State.model_validate(_timed(_BIRTH | named, {"bootid": boot, "mono_us": mono_us}))

    def wearable(self, link: str = "connected", *, row: int = 1, **attributes: Any) -> events.State:
        """A wearable's state, by its journal row."""
        data = {"of": "wearable", "link": link}
        event = _timed(_BIRTH | {"source": "urn:fidget:wearable:left", "data": data}, attributes)
        return events.State.model_validate(event | {"id": events.wearable_state_id(row, event["bootid"])})


def _timed(event: dict[str, Any], attributes: dict[str, Any]) -> dict[str, Any]:
    """mono_us instead of monons; without `time` unless that is asked for."""
    given = dict(attributes)
    mono_us = given.pop("mono_us", 0)
    untimed = {name: value for name, value in event.items() if name != "time"}
    return untimed | {"bootid": BOOT, "monons": str(mono_us * 1000)} | given


@pytest.fixture(scope="session")
def made() -> Made:
    return Made()
