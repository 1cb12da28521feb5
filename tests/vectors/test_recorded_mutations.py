"""Every recorded request with one member changed, and with two: which check comes when decides what is answered.

With one, our server answers what the table in ``request_rules`` says (msl-wire sections 4 to 9), or the same as to
the request as it was; with two, to the fault that comes first in msl-engine section 6. Never anything unnamed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import combinations
from typing import Any

import pytest

from hsm_msl.errors import ErrorCode as E
from recorded_exchange import recordings
from recorded_request import Fault, Object, Path, RecordedRequest, paths, recorded_request
from request_rules import ABSENT, AS_BEFORE, FLIPPED, RULES


def features(pair: Object) -> list[str]:
    """Return what patterns of a place may begin with."""
    sent, header = pair["request"], pair["request"]["header"]
    requests = header.get("keyrequestdata", [])
    found = ["session" if "session_encryption_key_hex" in sent else sent["entityauthdata"]["scheme"]]
    found.append("handshake" if header["handshake"] else "message")
    found += [request["scheme"] for request in requests]
    if "keyresponsedata" in pair["response"].get("header", {}):
        found += ["exchange", *(f"{request['scheme']} exchange" for request in requests)]
    if header.get("servicetokens"):
        found.append("tokens")
    return found


def expectations(pair: Object, layer: str, path: Path) -> list[tuple[object, E | str]]:
    """Return values for the member at this place with their answers; of two rules the later one counts."""
    place = ".".join(map(str, (layer, *path)))
    places = [place, *(f"{feature} {place}" for feature in features(pair))]
    cases: dict[str, tuple[object, E | str]] = {}
    for rule in RULES:
        if any(re.fullmatch(rule.path, candidate) for candidate in places):
            cases.update({f"{type(value)} {value!r}": (value, answer) for value, answer in rule.cases()})
    return list(cases.values())


def requests() -> list[Any]:
    """Return the recorded requests, each with those members that no earlier one of the same kind had."""
    seen: set[tuple[str, ...]] = set()
    found = []
    for recording in recordings():
        for number, pair in enumerate(recording.pairs):
            if pair["response"]["type"] == "error":
                continue
            request = recorded_request(recording, number)
            fresh = []
            for layer, obj in request.layers().items():
                for path in paths(obj):
                    told = features(pair)
                    kind = (layer, *map(str, path), *(told if "keydata" in path else told[:2]))
                    if kind not in seen and expectations(pair, layer, path):
                        seen.add(kind)
                        fresh.append((layer, path))
            if fresh:
                found.append(pytest.param(request, fresh, id=f"{recording.name} {number}"))
    return found


@pytest.mark.parametrize(("sent", "members"), requests())
def test_a_request_with_one_member_changed(sent: RecordedRequest, members: list[tuple[str, Path]]) -> None:
    assert sent.answer(bytes.fromhex(sent.pair["request_hex"])) is None
    for layer, path in members:
        for value, expected in expectations(sent.pair, layer, path):
            error = sent.answer(sent.body(Fault(layer, path, value)))
            named = None if error is None else E(error["internalcode"])
            case = f"{layer} {path} {value!r}: {named!r}"
            if expected is AS_BEFORE:
                assert error is None, case
                continue
            assert named is expected, case
            assert error is not None
            assert error["errorcode"] == named.response, case
            assert error["errormsg"].startswith(named.name), case


HEADER = (
    Fault("header", ("messageid",), -1),
    Fault("header", ("timestamp",), "now"),
    Fault("header", ("useridtoken", "tokendata"), ""),
    Fault("header", ("userauthdata", "scheme"), "NOVEL"),
    Fault("header", ("userauthdata", "authdata", "password"), "wrong"),
    Fault("header", ("servicetokens", 0, "tokendata"), ""),
    Fault("header", ("nonreplayableid",), "1"),
    Fault("header", ("renewable",), ABSENT),
    Fault("header", ("handshake",), "no"),
    Fault("header", ("capabilities", "languages"), [5]),
    Fault("header", ("keyrequestdata", 0, "scheme"), "NOVEL"),
    Fault("header", ("useridtoken", "signature"), FLIPPED),
    Fault("chunk", ("signature",), FLIPPED),
    Fault("payload", ("sequencenumber",), -1),
    Fault("payload", ("messageid",), -1),
    Fault("payload", ("compressionalgo",), "NOVEL"),
    Fault("payload", ("data",), ""),
)
"""Faults of header and first chunk in the order of msl-engine section 6, rows D1 to E3, and msl-wire section 7."""

IN_ORDER = {
    "session": (
        Fault("outer", ("mastertoken", "tokendata"), ""),
        Fault("outer", ("signature",), 5),
        Fault("outer", ("headerdata",), ""),
        Fault("outer", ("mastertoken", "signature"), FLIPPED),
        Fault("outer", ("signature",), FLIPPED),
        *HEADER,
    ),
    "PSK": (
        Fault("outer", ("entityauthdata", "scheme"), "NOVEL"),
        Fault("outer", ("entityauthdata", "authdata"), 5),
        Fault("outer", ("signature",), 5),
        Fault("outer", ("headerdata",), ""),
        Fault("outer", ("entityauthdata", "authdata", "identity"), "nobody"),
        Fault("outer", ("signature",), FLIPPED),
        *HEADER,
    ),
}


def requests_of_both_kinds() -> list[Any]:
    """Return one request with everything a session has, and one that begins a session."""
    named = {recording.name: recording for recording in recordings()}
    return [
        pytest.param("session", recorded_request(named["NONE_client3.DIFFIE_HELLMAN.user1.enc0.sig0.nrep1"], 2)),
        pytest.param("session", recorded_request(named["NONE_client3.DIFFIE_HELLMAN.user1.enc0.sig0.nrep1"], 1)),
        pytest.param("PSK", recorded_request(named["PSK_client1.ASYMMETRIC_WRAPPED_JWK_RSA.user1"], 0)),
    ]


def present(sent: RecordedRequest, faults: Iterable[Fault]) -> list[Fault]:
    """Return the faults in members that the request has."""
    there = {(layer, path) for layer, obj in sent.layers().items() for path in paths(obj)}
    return [fault for fault in faults if (fault.layer, fault.path) in there]


@pytest.mark.parametrize(("kind", "sent"), requests_of_both_kinds())
def test_of_two_faults_the_earlier_is_answered(kind: str, sent: RecordedRequest) -> None:
    faults = present(sent, IN_ORDER[kind])
    alone = [sent.answer(sent.body(fault)) for fault in faults]
    assert len({(error or {}).get("errormsg") for error in alone}) > len(faults) - 4
    tried = 0
    for (first, told), (second, _) in combinations(zip(faults, alone, strict=True), 2):
        if first.path[: len(second.path)] == second.path[: len(first.path)]:
            continue  # the same member, or one inside the other
        error = sent.answer(sent.body(first, second))
        assert told is not None, first
        assert error is not None
        assert (error["internalcode"], error["errormsg"]) == (told["internalcode"], told["errormsg"]), (first, second)
        tried += 1
    assert tried > 50


def test_an_expired_token_is_noticed_after_the_header_and_before_the_payload() -> None:
    """Row E3: what is wrong in the header is said first, what is wrong in a chunk is not seen any more."""
    named = {recording.name: recording for recording in recordings()}
    sent = recorded_request(named["NONE_client3.ASYMMETRIC_WRAPPED_JWK_RSA.user1"], 1)
    faults = present(sent, HEADER)
    assert {fault.layer for fault in faults} == {"header", "chunk", "payload"}
    for fault in faults:
        error = sent.answer(sent.body(fault), seconds=4000)
        assert error is not None
        if fault.layer == "header":
            assert error["errormsg"] == (sent.answer(sent.body(fault)) or {}).get("errormsg")
        else:
            assert error["internalcode"] == E.MESSAGE_EXPIRED_NO_KEYREQUEST_DATA
