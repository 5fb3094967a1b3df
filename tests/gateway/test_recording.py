import io
import json
import time
from pathlib import Path

import numpy as np
import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import GatewayError, InputRejected
from gateway.motion.axes import parse_axes
from gateway.motion.grid import RecordingRejected
from gateway.recording import COLUMNS, read_recording

G = 9.80665


def csv_text(rows: int = 10) -> str:
    lines = [",".join(COLUMNS)]
    lines += [f"{k / 50:.2f},{k}.5,-{k},9.8,{k}e-3,0,-0.25" for k in range(rows)]
    return "\n".join(lines) + "\n"


@pytest.fixture
def csv_file(tmp_path: Path):
    def write(text: str | bytes) -> list[Path]:
        path = tmp_path / "wrist.csv"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return [path]

    return write


def test_a_csv_gives_its_numbers(csv_file):
    recording = read_recording(csv_file(csv_text()))
    assert recording.acc.timestamps_s.tolist() == [k / 50 for k in range(10)]
    assert recording.acc.values[3].tolist() == [3.5, -3, 9.8]
    assert recording.gyro.values[3].tolist() == [0.003, 0, -0.25]
    assert recording.acc_unit == "m_s2"


@pytest.mark.parametrize(
    "text",
    [
        "note,Gz,Gy,Gx,Az,Ay,Ax,timestamp_s\nfirst,6,5,4,3,2,1,0.5\n",
        "\ufefftimestamp_s, Ax, Ay, Az, Gx, Gy, Gz\r\n0.5, 1, 2, 3, 4, 5, 6\r\n",
        'timestamp_s,Ax,Ay,Az,Gx,Gy,Gz\n"0.5","1","2","3","4","5","6"\n\n',
    ],
    ids=["other order, another column", "byte order mark, spaces, CR LF", "quoted, blank line"],
)
def test_csv_as_spreadsheets_write_it(csv_file, text):
    recording = read_recording(csv_file(text))
    assert recording.acc.timestamps_s.tolist() == [0.5]
    assert recording.acc.values.tolist() == [[1, 2, 3]]
    assert recording.gyro.values.tolist() == [[4, 5, 6]]


def test_units_and_frame_are_applied(csv_file):
    text = "timestamp_s,Ax,Ay,Az,Gx,Gy,Gz\n0,1000,2000,3000,3.141592653589793,0,0\n"
    recording = read_recording(csv_file(text), acc_unit="mg", gyro_unit="rad_s", axes=parse_axes("-y,x,z"))
    assert recording.acc.values == pytest.approx(np.array([[-2 * G, G, 3 * G]]))
    assert recording.gyro.values == pytest.approx(np.array([[0, 180, 0]]))


@settings(max_examples=30)
@given(
    st.lists(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=6, max_size=6), min_size=1)
)
def test_float32_written_shortest_comes_back_to_the_bit(tmp_path_factory, rows):
    values = np.array(rows, np.float32)
    path = tmp_path_factory.mktemp("csv") / "truth.csv"
    lines = [",".join([str(k / 50), *map(str, row)]) for k, row in enumerate(values)]
    path.write_text("\n".join([",".join(COLUMNS), *lines]))
    assert np.array_equal(read_recording([path]).on_grid(50.0).values, values)


BAD_CSV = [  # what is wrong, the file, what is said
    ("empty", "", "no column timestamp_s, Ax"),
    ("no rows", ",".join(COLUMNS), "no samples in it"),
    ("a column is missing", csv_text().replace("Gz", "G"), "no column Gz"),
    ("semicolons", csv_text().replace(",", ";"), "no column timestamp_s"),
    ("NaN", csv_text().replace("3.5,-3", "nan,-3"), "row 5: Ax is 'nan', expected a finite number"),
    ("infinity", csv_text().replace("3.5,-3", "3.5,-inf"), "row 5: Ay is '-inf', expected a finite number"),
    ("a word", csv_text().replace("3.5,-3", "3.5,still"), "row 5: Ay is 'still', expected a finite number"),
    ("an empty cell", csv_text().replace("3.5,-3", "3.5,"), "row 5: Ay is '', expected a finite number"),
    (
        "a short row",
        csv_text().replace("5.5,-5,9.8,5e-3,0,-0.25", "5.5,-5"),
        "row 7: Az is '', expected a finite number",
    ),
    ("time goes back", csv_text().replace("0.18,", "-7.5,"), "row 11: time goes back by 7.66 s"),
    ("bytes", bytes(range(256)), "not a CSV file"),
]


@pytest.mark.parametrize(("text", "said"), [b[1:] for b in BAD_CSV], ids=[b[0] for b in BAD_CSV])
def test_bad_csv_is_one_clear_line(csv_file, text, said):
    with pytest.raises(RecordingRejected) as refused:
        read_recording(csv_file(text))
    assert said in str(refused.value)
    assert "wrist.csv" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert refused.value.exit_code == 2


def test_overlapping_bursts_are_put_in_order_and_counted(csv_file):
    text = ",".join(COLUMNS) + "".join(f"\n{t},{n},0,9.8,0,0,0" for n, t in enumerate([0.0, 0.02, 0.06, 0.04, 0.06]))
    recording = read_recording(csv_file(text))
    assert recording.acc.values[:, 0].tolist() == [0, 1, 3, 2]
    assert recording.repeated == 1


@pytest.mark.parametrize("names", [["a.xlsx"], ["a.csv", "b.parquet"], ["a.txt"], ["a.xlsx", "b.csv"], ["noending"]])
def test_what_is_no_recording_is_refused_by_its_name(tmp_path, names):
    with pytest.raises(RecordingRejected, match="not a recording that can be read") as refused:
        read_recording([tmp_path / name for name in names])
    assert "two .xlsx, .csv or .parquet files" in refused.value.hint


@pytest.mark.parametrize("names", [["a.csv"], ["a.parquet"], ["a.xlsx", "b.xlsx"], ["a.csv", "b.csv"]])
def test_a_missing_file_is_named(tmp_path, names):
    with pytest.raises(InputRejected, match=rf"{names[0]}: No such file"):
        read_recording([tmp_path / name for name in names])


# Some channels only

ACC, GYRO = ("Ax", "Ay", "Az"), ("Gx", "Gy", "Gz")


def some_columns(folder: Path, form: str, names: tuple[str, ...]) -> Path:
    """Ten rows of timestamp_s and these columns: the row's number times the column's place from 1 on."""
    path, rows = folder / f"some.{form}", np.arange(10.0)
    columns = {"timestamp_s": rows / 50} | {name: rows * place for place, name in enumerate(names, 1)}
    if form == "parquet":
        pq.write_table(pa.table(columns), path)
    else:
        lines = [",".join(map(str, row)) for row in zip(*columns.values(), strict=True)]
        path.write_text("\n".join([",".join(columns), *lines]))
    return path


@pytest.mark.parametrize("form", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("there", "needed", "places"),
    [(ACC, ("Az", "Ax"), [0, 1, 2]), (GYRO, GYRO, [3, 4, 5]), ((*ACC, "Gx"), ACC, [0, 1, 2])],
    ids=["accelerometer", "gyroscope", "a gyroscope of one axis"],
)
def test_a_sensor_that_nobody_needs_may_be_missing(tmp_path, form, there, needed, places):
    path = some_columns(tmp_path, form, there)
    recording = read_recording([path], needed=needed)
    assert recording.channels == there[:3]
    grid = recording.on_grid(50.0).values
    assert grid.shape == (10, 6)
    assert grid[:, places].tolist() == [[k, 2 * k, 3 * k] for k in range(10)]
    with pytest.raises(RecordingRejected, match="no column"):
        read_recording([path])


@pytest.mark.parametrize("form", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("there", "needed", "named"),
    [(ACC, ("Ax", "Gy"), "Gx, Gy, Gz"), (("Ax", "Az"), ACC, "Ay"), (GYRO, ("Az",), "Ax, Ay, Az")],
    ids=["one of the other sensor", "one of its own", "none that is there"],
)
def test_a_needed_channel_that_is_missing_is_named(tmp_path, form, there, needed, named):
    with pytest.raises(RecordingRejected, match=rf"some\.{form}: no column {named}$") as refused:
        read_recording([some_columns(tmp_path, form, there)], needed=needed)
    assert "timestamp_s, " + ", ".join(there) in refused.value.hint


def test_a_bad_value_is_named_where_a_sensor_is_missing_too(csv_file):
    with pytest.raises(RecordingRejected, match="row 3: Gy is 'still', expected a finite number"):
        read_recording(csv_file("timestamp_s,Gx,Gy,Gz\n0,1,2,3\n0.02,1,still,3\n"), needed=GYRO)


# Parquet


def parquet(path: Path, **columns: list[float | None]) -> list[Path]:
    whole = {name: [float(i), float(i) + 1] for i, name in enumerate(COLUMNS)} | columns
    pq.write_table(pa.table(whole), path)
    return [path]


def test_parquet_gives_its_numbers(tmp_path):
    recording = read_recording(parquet(tmp_path / "wrist.parquet", extra=[7.0, 8.0]), acc_unit="g")
    assert recording.acc.timestamps_s.tolist() == [0, 1]
    assert recording.acc.values[1] == pytest.approx([2 * G, 3 * G, 4 * G])
    assert recording.gyro.values[0].tolist() == [4, 5, 6]


def test_bad_parquet_is_one_clear_line(tmp_path):
    path = tmp_path / "wrist.parquet"
    with pytest.raises(RecordingRejected, match="row 2: a value that is no finite number"):
        read_recording(parquet(path, Ay=[1.0, None]))
    with pytest.raises(RecordingRejected, match="not a Parquet file with a number in each of its columns"):
        read_recording(parquet(path, Ay=["one", "two"]))
    pq.write_table(pa.table({"timestamp_s": [0.0]}), path)
    with pytest.raises(RecordingRejected, match="no column Ax, Ay, Az, Gx, Gy, Gz"):
        read_recording([path])
    path.write_bytes(b"PAR1 is not enough")
    with pytest.raises(RecordingRejected, match="not a Parquet file"):
        read_recording([path])


# Excel

TIME_COLUMNS = ["timestamp", "timestamp_ms", "sample_time_offset"]


def burst(clock: str, ms: int, offsets: list[int], x: list[float], y: list[float], z: list[float]) -> list[object]:
    return [clock, ms, *(json.dumps([str(value) for value in column]) for column in (offsets, x, y, z))]


ACC_ROWS = [
    burst("03/24/2025, 11:59:59 AM", 766, [0, 10, 29], [-62.5, 1, 2], [3, 4, 5], [-1000, -999, -998]),
    burst("03/24/2025, 12:00:00 PM", 16, [0, 20, 40], [3, 4, 5], [6, 7, 8], [-997, -996, -995]),
]
GYRO_ROWS = [burst("03/24/2025, 11:59:59 AM", 795, [0, 9, 240], [39.1, 1, 2], [0, 0, 0], [-7.5, 8, 9])]


def workbook(path: Path, sensor: str, rows: list[list[object]], header: list[str] | None = None) -> Path:
    book = openpyxl.Workbook()
    sheet = book.worksheets[0]
    sheet.append(header or [*TIME_COLUMNS, *(f"calibrated_{sensor}_{axis}" for axis in "xyz")])
    for row in rows:
        sheet.append(row)
    book.save(path)
    return path


@pytest.mark.parametrize("swapped", [False, True])
def test_the_pair_of_excel_files_in_either_order(tmp_path, swapped):
    paths = [workbook(tmp_path / "1.xlsx", "accel", ACC_ROWS), workbook(tmp_path / "2.xlsx", "gyro", GYRO_ROWS)]
    recording = read_recording(paths[::-1] if swapped else paths)
    # the second burst is 0.25 s after the first: 12:00:00.016 against 11:59:59.766
    assert recording.acc.timestamps_s == pytest.approx([0, 0.010, 0.029, 0.250, 0.270, 0.290], abs=1e-9)
    assert recording.gyro.timestamps_s == pytest.approx([0.029, 0.038, 0.269], abs=1e-9)
    assert recording.acc.values[0] == pytest.approx([-0.0625 * G, 0.003 * G, -G])
    assert recording.gyro.values[0].tolist() == [39.1, 0, -7.5]
    assert recording.acc_unit == "mg"


def test_excel_with_acceleration_in_another_unit(tmp_path):
    paths = [workbook(tmp_path / "1.xlsx", "accel", ACC_ROWS), workbook(tmp_path / "2.xlsx", "gyro", GYRO_ROWS)]
    assert read_recording(paths, acc_unit="m_s2").acc.values[0].tolist() == [-62.5, 3, -1000]


def changed(column: int, cell: object) -> list[list[object]]:
    rows = [list(row) for row in ACC_ROWS]
    rows[1][column] = cell
    return rows


BAD_EXCEL = [  # what is wrong, the accelerometer's rows, its header, what is said
    (
        "a missing column",
        ACC_ROWS,
        [*TIME_COLUMNS, "calibrated_accel_x", "calibrated_accel_y", "w"],
        "calibrated_accel_z",
    ),
    (
        "no time",
        ACC_ROWS,
        ["a", "b", "c", *(f"calibrated_accel_{x}" for x in "xyz")],
        "no column timestamp, timestamp_ms",
    ),
    ("another table", [["Smith", 3]], ["name", "age"], "no column timestamp"),
    ("no rows", [], None, "no samples in it"),
    ("unequal lists", changed(4, '["1","2"]'), None, "row 3: its lists differ in length"),
    ("no list", changed(4, "12.5"), None, "row 3: '12.5' is no JSON list"),
    ("broken JSON", changed(4, '["1","2"'), None, "row 3: "),
    ("a word in a list", changed(4, '["1","2","x"]'), None, "row 3: could not convert string to float: 'x'"),
    ("NaN in a list", changed(4, '["1","NaN","2"]'), None, "row 3: a value that is no finite number"),
    ("an empty cell", changed(4, None), None, "row 3: "),
    (
        "a clock of another kind",
        changed(0, "24.03.2025 12:00"),
        None,
        "row 3: timestamp is '24.03.2025 12:00', expected",
    ),
    ("no milliseconds", changed(1, None), None, "row 3: "),
    ("time goes back", changed(0, "03/24/2025, 11:59:00 AM"), None, "row 3: time goes back by"),
]


@pytest.mark.parametrize(("rows", "header", "said"), [b[1:] for b in BAD_EXCEL], ids=[b[0] for b in BAD_EXCEL])
def test_bad_excel_is_one_clear_line(tmp_path, rows, header, said):
    acc = workbook(tmp_path / "acc.xlsx", "accel", rows, header)
    gyro = workbook(tmp_path / "gyro.xlsx", "gyro", GYRO_ROWS)
    with pytest.raises(RecordingRejected) as refused:
        read_recording([acc, gyro])
    assert said in str(refused.value)
    assert "acc.xlsx" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert refused.value.exit_code == 2


def test_two_files_of_the_same_sensor_are_refused(tmp_path):
    paths = [workbook(tmp_path / f"{n}.xlsx", "gyro", GYRO_ROWS) for n in (1, 2)]
    with pytest.raises(RecordingRejected, match="both hold the columns of the gyro sensor"):
        read_recording(paths)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 nothing else", b"timestamp,timestamp_ms\n1,2\n"])
def test_what_is_no_workbook_is_refused(tmp_path, content):
    (tmp_path / "acc.xlsx").write_bytes(content)
    with pytest.raises(RecordingRejected, match=r"acc.xlsx: not an Excel file"):
        read_recording([tmp_path / "acc.xlsx", workbook(tmp_path / "gyro.xlsx", "gyro", GYRO_ROWS)])


# Damage: whatever the bytes, a recording or a refusal


def excel_bytes() -> bytes:
    book = openpyxl.Workbook()
    for row in [[*TIME_COLUMNS, *(f"calibrated_accel_{axis}" for axis in "xyz")], *ACC_ROWS]:
        book.worksheets[0].append(row)
    book.save(buffer := io.BytesIO())
    return buffer.getvalue()


def parquet_bytes() -> bytes:
    pq.write_table(pa.table({name: [float(i), i + 1.0] for i, name in enumerate(COLUMNS)}), buffer := io.BytesIO())
    return buffer.getvalue()


SENSORS_APART = {
    "gyro": "timestamp_s,Gx,Gy,Gz\n0.005,1,2,3\n0.025,4,5,6\n",
    "acc": "timestamp_s,Ax,Ay,Az\n0,0,0,9.8\n0.02,0,0,9.9\n0.04,0,0,9.7\n",
    "both": csv_text(),
    "none": "timestamp_s,heart\n0,60\n",
}


def apart(folder: Path, *names: str) -> list[Path]:
    paths = [folder / f"{name}.csv" for name in names]
    for path, name in zip(paths, names, strict=True):
        path.write_text(SENSORS_APART[name])
    return paths


@pytest.mark.parametrize("names", [("acc", "gyro"), ("gyro", "acc")])
def test_two_files_hold_a_sensor_each_with_times_of_its_own(tmp_path, names):
    recording = read_recording(apart(tmp_path, *names))
    assert recording.acc.timestamps_s.tolist() == [0, 0.02, 0.04]
    assert recording.acc.values[:, 2].tolist() == [9.8, 9.9, 9.7]
    assert recording.gyro.timestamps_s.tolist() == [0.005, 0.025]
    assert recording.gyro.values.tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("acc", "none"), "they hold Ax, Ay, Az and no sensor"),
        (("both", "gyro"), "they hold Ax, Ay, Az, Gx, Gy, Gz and Gx, Gy, Gz"),
    ],
)
def test_two_files_that_are_no_pair_are_refused_in_words(tmp_path, names, said):
    with pytest.raises(RecordingRejected, match=said) as refused:
        read_recording(apart(tmp_path, *names))
    assert "one holds Ax, Ay, Az and the other Gx, Gy, Gz" in refused.value.hint


WHOLE = {"xlsx": excel_bytes(), "csv": csv_text().encode(), "parquet": parquet_bytes()}


@pytest.mark.parametrize("form", list(WHOLE))
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused_but_never_a_traceback(tmp_path_factory, form, data):
    whole = WHOLE[form]
    damaged = bytearray(whole[: data.draw(st.integers(0, len(whole)))] if data.draw(st.booleans()) else whole)
    for _ in range(data.draw(st.integers(0, 8))):
        if damaged:
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    folder = tmp_path_factory.mktemp("damaged")
    paths = [folder / f"wrist.{form}"]
    paths[0].write_bytes(bytes(damaged))
    if form == "xlsx":
        paths.append(workbook(folder / "gyro.xlsx", "gyro", GYRO_ROWS))
    try:
        recording = read_recording(paths)
    except GatewayError:
        return
    assert np.isfinite(recording.acc.values).all()
    assert (np.diff(recording.acc.timestamps_s) > 0).all()


@pytest.mark.real_data
def test_the_real_recording(real_data):
    started = time.monotonic()
    recording = read_recording(sorted((real_data / "recording").glob("*.xlsx")))
    assert time.monotonic() - started < 20  # 2 s on an idle machine
    # 363,400 samples a sensor, of which 240 and 256 carry a time that was there before
    assert len(recording.acc.values) == 363_400 - 240
    assert len(recording.gyro.values) == 363_400 - 256
    assert np.median(np.linalg.norm(recording.acc.values, axis=1)) == pytest.approx(9.83, abs=0.005)
    grid = recording.on_grid(50.0)
    assert grid.values.shape == (181_700, 6)
    assert grid.windows(200, 100).shape == (1816, 200, 6)
    assert grid.whole(200, 100).all()
    assert grid.gaps == ()
