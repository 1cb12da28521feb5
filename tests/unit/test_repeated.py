"""Work repeated beside the messages: it goes on after a defect and ends when it is closed."""

from __future__ import annotations

import threading

import pytest

from hsm_msl.service.repeated import Repeated

WAIT = 30.0


class Looks(Repeated):
    def __init__(self) -> None:
        super().__init__("looking", 0.001)
        self.count = 0
        self.third = threading.Event()

    def look(self) -> None:
        self.count += 1
        if self.count == 1:
            raise RuntimeError("a defect")
        if self.count == 3:
            self.third.set()


def test_a_defect_is_logged_and_the_work_goes_on_until_closed(caplog: pytest.LogCaptureFixture) -> None:
    looks = Looks()
    looks.start()
    assert looks.third.wait(WAIT)
    looks.close()
    assert "looking failed" in caplog.text
    assert "a defect" in caplog.text
    assert not [thread for thread in threading.enumerate() if thread.name == "looking"]


def test_what_was_never_started_can_be_closed() -> None:
    looks = Looks()
    looks.close()
    assert looks.count == 0
