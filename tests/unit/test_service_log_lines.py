"""How lines look: one per event, whatever strangers put into names, with the request's ID where there is one."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator

import pytest

from hsm_msl.errors import BackendUnavailableError, ErrorCode, MslError
from hsm_msl.service.watch.event_log import EventLog, Naming, pseudonyms
from hsm_msl.service.watch.log_lines import JsonLines, RequestIds, TextLines
from hsm_msl.service.watch.request_trace import Trace, current, request_id, say, working_on

NASTY = "x\n2026-01-01 ERROR forged\x1b[31m" + "y" * 200


class Captured(logging.Handler):
    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self.addFilter(RequestIds())
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture(params=[JsonLines, TextLines])
def captured(request: pytest.FixtureRequest) -> Iterator[Captured]:
    handler = Captured(request.param())
    logger = logging.getLogger("hsm_msl.messages")
    before = (logger.level, logger.propagate)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    yield handler
    logger.removeHandler(handler)
    logger.level, logger.propagate = before


class Header:
    def __init__(self, identity: str | None) -> None:
        self.identity, self.user, self.entity_auth = identity, None, None


def test_a_request_is_one_line(captured: Captured) -> None:
    trace = Trace("an-id-12")
    log = EventLog("plain")
    with working_on(trace):
        assert current() is trace
        log.refused(MslError(ErrorCode.MSL_PARSE_ERROR, NASTY), Header(NASTY))  # type: ignore[arg-type]
    assert current() is None
    assert captured.lines == []
    say(trace, "ignored", 10, 20, 1_500_000)
    (line,) = captured.lines
    assert "\n" not in line
    assert "\x1b" not in line
    assert len(line) < 600
    for part in ("an-id-12", "refused", "MSL_PARSE_ERROR", "1.5"):
        assert part in line


def test_without_a_request_a_refusal_is_a_line_at_once(captured: Captured) -> None:
    EventLog("pseudonym", b"key").refused(MslError(ErrorCode.MSL_PARSE_ERROR, "detail"), Header("me"))  # type: ignore[arg-type]
    (line,) = captured.lines
    assert pseudonyms(b"key")("me") in line
    assert "detail" not in line
    assert "'me'" not in line


@pytest.mark.parametrize("naming", ["pseudonym", "plain", "none"])
def test_entities_are_named_as_configured(captured: Captured, naming: Naming) -> None:
    EventLog(naming, b"key").failed(BackendUnavailableError("token away"), Header("somebody"))  # type: ignore[arg-type]
    (line,) = captured.lines
    assert ("somebody" in line) == (naming == "plain")
    assert (pseudonyms(b"key")("somebody") in line) == (naming == "pseudonym")
    assert "token away" in line


def test_pseudonyms_depend_on_entity_and_key() -> None:
    one, other = pseudonyms(b"one"), pseudonyms(b"other")
    assert one("a") == one("a")
    assert len({one("a"), one("b"), other("a"), one("\ud800")}) == 4


def test_the_trace_of_a_defect_is_in_its_line(captured: Captured) -> None:
    try:
        raise ZeroDivisionError("a defect")
    except ZeroDivisionError as error:
        EventLog("none").failed(error, None)
    (text,) = captured.lines
    assert "Traceback" in text
    if isinstance(captured.formatter, JsonLines):
        assert "\n" not in text
        assert "ZeroDivisionError: a defect" in json.loads(text)["trace"]


@pytest.mark.parametrize("lines", [JsonLines(), TextLines()])
def test_texts_of_strangers_stay_in_their_line(lines: logging.Formatter) -> None:
    nasty = NASTY + "\ud800\u2028\x85"
    # Straight to the formatter: a test run in several processes cannot pass on what it captures of such a record.
    record = logging.LogRecord("hsm_msl", logging.WARNING, "", 0, "not from %s", (nasty,), None)
    record.fields = {"entity": nasty, "code": None, "sent": 3}
    line = lines.format(record)
    try:
        raise ZeroDivisionError(nasty)
    except ZeroDivisionError:
        defect = lines.format(logging.LogRecord("hsm_msl", logging.ERROR, "", 0, "a defect", (), sys.exc_info()))
    assert line.isprintable()
    assert line.encode()
    assert line.count("ERROR forged") == 2
    assert defect.encode()
    assert not any(part.startswith("2026-01-01") for part in defect.splitlines())


def test_an_id_is_made_where_none_came() -> None:
    assert request_id([], lambda count: bytes(count)) == "00" * 8
    assert request_id([(b"x-request-id", b"a\nb\nc\nd\ne")], lambda count: bytes(count)) == "00" * 8
    assert request_id([(b"x-request-id", b"12345678")], bytes) == "12345678"
