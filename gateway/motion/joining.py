"""One session's bursts to six-wide grid rows: one sensor as it is, two that stream apart joined by device time."""

from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from gateway.motion.resample import Resampler, Rows, RowsLost, array_of, text_of
from gateway.motion.samples import Coverage, Float32, Int64, Sensor

JOIN_WAIT_S = 30.0
"""Rows of one sensor wait so long, in device time, for the other's. Polar's bursts come 2.5 s apart at most."""
_CHUNK = 256
_PARTS = (Sensor.ACC, Sensor.GYRO)


@dataclass(slots=True, eq=False)
class _Chunk:
    """_CHUNK rows of which a sensor is missing. here: (n, 2), per sensor."""

    values: Float32
    here: NDArray[np.bool_]
    saturated: NDArray[np.bool_]


@dataclass(slots=True)
class SensorJoin:
    """native_rate_hz: of each sensor. Sensors have one origin of time, and indices of their own. batch: Resampler's."""

    native_rate_hz: float
    grid_rate_hz: float
    batch: tuple[int, int] = (1, 0)
    sensors: dict[Sensor, Resampler] = field(default_factory=dict)
    unpaired: int = 0
    """Rows of one sensor that were given up because the other's did not come."""
    _final: Coverage = field(default_factory=Coverage)  # rows that went out or were lost
    _chunks: dict[int, _Chunk] = field(default_factory=dict)  # by first row // _CHUNK
    _newest: int = 0

    def of(self, sensor: Sensor) -> Resampler:
        if sensor not in self.sensors:
            self.sensors[sensor] = Resampler(self.native_rate_hz, self.grid_rate_hz, self.batch)
        return self.sensors[sensor]

    def add(
        self, sensor: Sensor, first: int, taken_ns: Int64, values: Float32, saturated: bool
    ) -> list[Rows | RowsLost]:
        return self._joined(sensor, self.of(sensor).add(first, taken_ns, values, saturated))

    def lose(self, sensor: Sensor, first: int, end: int) -> list[Rows | RowsLost]:
        return self._joined(sensor, self.of(sensor).lose(first, end))

    def end(self) -> list[Rows | RowsLost]:
        """No more samples will come. Rows beyond the last that is whole are none."""
        rows: list[Rows | RowsLost] = []
        for sensor, resampler in self.sensors.items():
            rows += self._joined(sensor, resampler.end())
        ranges = self._final.ranges
        rows += self._lose(0, ranges[-1][1] if ranges else 0)
        self._chunks.clear()
        return rows

    @property
    def rows(self) -> int:
        """One past the last row that is settled."""
        return self._final.ranges[-1][1] if self._final.ranges else 0

    def behind(self, grid_rate_hz: float, batch: tuple[int, int]) -> "SensorJoin":
        """As if for this other grid all rows were settled that a sample which is known of may reach."""
        other = SensorJoin(self.native_rate_hz, grid_rate_hz, batch)
        other.sensors = {sensor: resampler.behind(grid_rate_hz, batch) for sensor, resampler in self.sensors.items()}
        other._final.add(0, max((resampler.rows for resampler in other.sensors.values()), default=0))
        other._newest = other.rows
        return other

    @property
    def buffered(self) -> int:
        return sum(r.buffered for r in self.sensors.values()) + len(self._chunks) * _CHUNK

    def _joined(self, sensor: Sensor, rows: list[Rows | RowsLost]) -> list[Rows | RowsLost]:
        if sensor is Sensor.IMU:
            return rows
        joined: list[Rows | RowsLost] = []
        for settled in rows:
            if isinstance(settled, RowsLost):
                joined += self._lose(settled.first, settled.end)
            else:
                joined += self._pair(_PARTS.index(sensor), settled)
        return joined + self._give_up()

    def _lose(self, first: int, end: int) -> list[Rows | RowsLost]:
        missing = self._final.missing(first, end)
        for low, high in missing:
            self._final.add(low, high)
            self._drop(low, high)
        return [RowsLost(low, high) for low, high in missing]

    def _pair(self, part: int, rows: Rows) -> list[Rows | RowsLost]:
        paired: list[Rows | RowsLost] = []
        end = rows.first + len(rows.values)
        self._newest = max(self._newest, end)
        columns = _PARTS[part].columns
        for number in range(rows.first // _CHUNK, (end - 1) // _CHUNK + 1):
            start = number * _CHUNK
            for low, high in self._final.missing(max(rows.first, start), min(end, start + _CHUNK)):
                chunk = self._chunks.setdefault(number, _empty())
                inside, of_rows = slice(low - start, high - start), slice(low - rows.first, high - rows.first)
                chunk.values[inside, columns] = rows.values[of_rows]
                chunk.saturated[inside] |= rows.saturated[of_rows]
                chunk.here[inside, part] = True
                for first, after in _runs(chunk.here[inside, 0] & chunk.here[inside, 1], low - start):
                    self._final.add(start + first, start + after)
                    values = chunk.values[first:after].copy()
                    paired.append(Rows(start + first, values, chunk.saturated[first:after].copy()))
                self._drop(low, high)
        return paired

    def _give_up(self) -> list[Rows | RowsLost]:
        """Nothing waits longer than JOIN_WAIT_S for its partner."""
        horizon = self._newest - int(JOIN_WAIT_S * self.grid_rate_hz)
        oldest = min(self._chunks, default=horizon) * _CHUNK
        lost = []
        if self._chunks and oldest + _CHUNK <= horizon:
            waiting = (c.here.any(axis=1).sum() for n, c in self._chunks.items() if (n + 1) * _CHUNK <= horizon)
            self.unpaired += int(sum(waiting))
            lost = self._lose(oldest, horizon // _CHUNK * _CHUNK)
        return lost

    def _drop(self, first: int, end: int) -> None:
        """Forgets chunks around these rows that are final. A range may be as long as 32 bits allow."""
        touched = [n for n in self._chunks if n * _CHUNK < end and (n + 1) * _CHUNK > first]
        for number in touched:
            if not self._final.missing(number * _CHUNK, (number + 1) * _CHUNK):
                del self._chunks[number]

    def state(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "native_rate_hz": self.native_rate_hz,
            "grid_rate_hz": self.grid_rate_hz,
            "batch": self.batch,
            "sensors": {str(sensor): resampler.state() for sensor, resampler in self.sensors.items()},
            "unpaired": self.unpaired,
            "final": self._final.ranges,
            "chunks": [
                [n, text_of(c.values.astype("<f4")), text_of(c.here.astype("u1")), text_of(c.saturated.astype("u1"))]
                for n, c in self._chunks.items()
            ],
            "newest": self._newest,
        }

    @classmethod
    def restore(cls, state: dict[str, Any]) -> Self:
        return cls(
            state["native_rate_hz"],
            state["grid_rate_hz"],
            tuple(state["batch"]),
            {Sensor(sensor): Resampler.restore(s) for sensor, s in state["sensors"].items()},
            state["unpaired"],
            Coverage.of(state["final"]),
            {
                n: _Chunk(
                    array_of(values, "<f4").astype(np.float32).reshape(_CHUNK, 6),
                    array_of(here, "u1").astype(np.bool_).reshape(_CHUNK, 2),
                    array_of(saturated, "u1").astype(np.bool_),
                )
                for n, values, here, saturated in state["chunks"]
            },
            state["newest"],
        )


def _runs(whole: NDArray[np.bool_], start: int) -> list[tuple[int, int]]:
    """First and end of each run of what is True, counted from start."""
    if not whole.any():
        return []
    if whole.all():
        return [(start, start + len(whole))]
    edges = np.flatnonzero(np.diff(np.concatenate([[False], whole, [False]]))).reshape(-1, 2)
    return [(start + int(first), start + int(end)) for first, end in edges]


def _empty() -> _Chunk:
    return _Chunk(np.zeros((_CHUNK, 6), np.float32), np.zeros((_CHUNK, 2), np.bool_), np.zeros(_CHUNK, np.bool_))
