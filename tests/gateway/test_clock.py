"""The clock is read at every observation, so reading it must be cheap."""

import subprocess

from gateway.clock import Clock


def test_once_read_the_clock_starts_no_process_to_be_read_again(monkeypatch):
    clock = Clock()
    first = clock.now()

    def started(*arguments, **options):
        raise AssertionError(f"a process: {arguments}")

    monkeypatch.setattr(subprocess, "Popen", started)
    again = clock.now()
    assert again.mono_ns > first.mono_ns
    assert again.boot_id == first.boot_id
