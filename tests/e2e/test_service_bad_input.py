"""Bad input over real HTTP: a named MSL error or one line of HTTP, never a traceback, and the server goes on."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import httpx
import pytest

from hsm_msl.errors import ErrorCode
from hsm_msl.msl.conversation import Send
from hsm_msl.service.http_client import HttpClient
from service_world import RunningServer, ServiceWorld

Http = httpx.Client
UPGRADE = {"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c", "http2-settings": "AAMAAABkAARAAAAAAAIAAAAA"}
"""What java.net.http.HttpClient sends along with a POST unless told otherwise, and curl --http2."""


@pytest.fixture(scope="module")
def http(service: RunningServer) -> Iterator[Http]:
    with httpx.Client(base_url=service.url, trust_env=False, timeout=30) as client:
        yield client


@pytest.fixture
def request_body(service_world: ServiceWorld) -> bytes:
    """A first message of a known entity, as its client would send it."""
    with closing(service_world.client()) as client:
        step = next(client.msl.request(client.message(b"hello " * 100)))
    assert isinstance(step, Send)
    return step.body


@pytest.fixture(scope="module")
def another(service_world: ServiceWorld, service: RunningServer) -> Iterator[Callable[[], bytes]]:
    """Another client, in the middle of its session all the time: sends one message and returns the reply."""
    with closing(service_world.client()) as client, HttpClient(client.msl, service.url) as http:
        yield lambda: http.request(client.message(b"still here")).payload


@pytest.fixture(autouse=True)
def server_goes_on(service: RunningServer, another: Callable[[], bytes]) -> Iterator[None]:
    yield
    assert service.process.poll() is None
    assert another() == b"still here"
    assert "Traceback" not in service.log.read_text()


def msl_error(response: httpx.Response) -> dict[str, Any]:
    """Check what deployed clients need of an error and return its data (the sample server's RSA does not encrypt)."""
    assert response.status_code == 200
    assert "Traceback" not in response.text
    outer = json.loads(response.content)  # one object and nothing behind it
    assert list(outer) == ["signature", "errordata", "entityauthdata"]
    assert b" " not in response.content
    assert base64.b64decode(outer["signature"])
    error: dict[str, Any] = json.loads(base64.b64decode(outer["errordata"]))
    assert error["errormsg"]
    assert error["internalcode"] >= 100000
    assert error["errorcode"] >= 1
    return error


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", ErrorCode.MESSAGE_DATA_MISSING),
        (b"\r\n", ErrorCode.MSL_PARSE_ERROR),
        (b"hello?", ErrorCode.MSL_PARSE_ERROR),
        (b"\x00\xff\xfe\x80" * 1000, ErrorCode.MSL_PARSE_ERROR),
        (b"{}", ErrorCode.MSL_PARSE_ERROR),
        (b"[]", ErrorCode.MSL_PARSE_ERROR),
        (b'"text"', ErrorCode.MSL_PARSE_ERROR),
        (b"{" * 100_000, ErrorCode.MSL_PARSE_ERROR),
        (b'{"headerdata":' + b"[" * 100_000 + b"]" * 100_000 + b"}", ErrorCode.MSL_PARSE_ERROR),
        (b'{"headerdata":"AAAA","headerdata":"AAAA","signature":""}', ErrorCode.MSL_PARSE_ERROR),
        (b'{"headerdata":"AAAA","signature":""}', ErrorCode.MESSAGE_ENTITY_NOT_FOUND),
        (b'{"headerdata":"%%%","signature":""}', ErrorCode.MSL_PARSE_ERROR),
        (
            b'{"headerdata":"AAAA","signature":"","entityauthdata":{"scheme":"SMOKE","authdata":{}}}',
            ErrorCode.UNIDENTIFIED_ENTITYAUTH_SCHEME,
        ),
        (
            b'{"headerdata":"AAAA","signature":"","entityauthdata":{"scheme":"X509","authdata":{}}}',
            ErrorCode.ENTITYAUTH_FACTORY_NOT_FOUND,
        ),
        (
            b'{"headerdata":"AAAA","signature":"","entityauthdata":{"scheme":"PSK","authdata":{"identity":"nobody"}}}',
            ErrorCode.INCORRECT_ENTITYAUTH_DATA,
        ),
        (b'{"headerdata":"","signature":"","mastertoken":{}}', ErrorCode.MSL_PARSE_ERROR),
        (b'{"headerdata":"AAAA","signature":"","mastertoken":{"tokendata":"","signature":""}}', None),
        (b'{"x":"' + b"a" * 11_000_000 + b'"}', ErrorCode.MSL_PARSE_ERROR),
    ],
    ids=lambda value: repr(value[:24]) if isinstance(value, bytes) else "",
)
def test_garbage(http: Http, body: bytes, code: ErrorCode | None) -> None:
    """Empty, garbage, wrong shapes, deep nesting, an object over the limit (msl-wire sections 2.4 and 3)."""
    error = msl_error(http.post("/", content=body))
    if code is not None:
        assert error["internalcode"] == code


def test_truncated_anywhere(http: Http, request_body: bytes) -> None:
    """A request cut at any place is an MSL error, also between its objects (msl-wire section 3)."""
    places = range(1, len(request_body), max(1, len(request_body) // 40))
    for place in places:
        error = msl_error(http.post("/", content=request_body[:place]))
        assert error["internalcode"] == ErrorCode.MSL_PARSE_ERROR, place


def test_changed_anywhere(http: Http, request_body: bytes) -> None:
    """A flipped byte is refused, and what is refused does not say why keys or padding did not fit."""
    for place in range(0, len(request_body), max(1, len(request_body) // 40)):
        changed = request_body[:place] + bytes([request_body[place] ^ 1]) + request_body[place + 1 :]
        error = msl_error(http.post("/", content=changed))
        assert error["internalcode"] not in (
            ErrorCode.CIPHERTEXT_BAD_PADDING,
            ErrorCode.CIPHERTEXT_ILLEGAL_BLOCK_SIZE,
            ErrorCode.INTERNAL_EXCEPTION,
        ), place


def test_oversized(http: Http, service: RunningServer) -> None:
    """A body over the limit is refused by HTTP once its length is declared; one below it is read as it comes."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1073741825\r\n\r\n")
        answer = connection.recv(1000)
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b"the request is larger than 1073741824 bytes" in answer + connection.recv(1000)
    body = b"{" + b" " * (16 * 1024 * 1024)
    for content in (body, (body[place : place + 65536] for place in range(0, len(body), 65536))):
        assert msl_error(http.post("/", content=content))["internalcode"] == ErrorCode.MSL_PARSE_ERROR


def test_oversized_is_noticed_before_it_arrives(service: RunningServer) -> None:
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_wrong_method(http: Http, method: str) -> None:
    response = http.request(method, "/")
    assert response.status_code == 405
    assert response.headers["allow"] == "POST"
    assert response.text in ("send MSL messages with POST\n", "")


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "text/plain"},
        {"content-type": "application/json; charset=utf-8"},
        {"content-type": "image/png"},
        {"host": "service.example.com"},
        {"host": "[not a host"},
        {"accept": "text/html"},
        {"connection": "close"},
        UPGRADE,
        {**UPGRADE, "expect": "100-continue"},
    ],
    ids=str,
)
@pytest.mark.parametrize("path", ["/", "/nq/some%5Epath/", "/a//b/../c?x=1&y", "/health/live"])
def test_headers_and_paths_do_not_matter(
    service_world: ServiceWorld, http: Http, headers: dict[str, str], path: str, request_body: bytes
) -> None:
    """Deployed clients send any Content-Type, percent-encoded paths and a fixed foreign Host."""
    response = http.post(path, content=request_body, headers=headers)
    assert response.status_code == 200
    header = json.loads(response.content[: response.content.index(b"}{") + 1].replace(b"}{", b"}"))
    assert list(header) == ["headerdata", "signature", "entityauthdata"]


def test_answers_have_the_order_deployed_clients_cut_at(http: Http, request_body: bytes) -> None:
    """deployed-clients: compact JSON, the reference's member order, nothing between the objects."""
    content = http.post("/", content=request_body).content
    header_text, payload_text = content.split(b"}{", 1)
    header, payload = json.loads(header_text + b"}"), json.loads(b"{" + payload_text)
    assert list(payload) == ["payload", "signature"]
    data = json.loads(base64.b64decode(header["headerdata"]))
    token = data["keyresponsedata"]["mastertoken"]
    assert list(token) == ["tokendata", "signature"]
    inner = json.loads(base64.b64decode(token["tokendata"]))
    assert list(inner) == ["sessiondata", "renewalwindow", "serialnumber", "expiration", "sequencenumber"]
    assert list(json.loads(base64.b64decode(payload["payload"]))) == ["ciphertext", "sha256", "keyid", "iv"]


def test_disconnecting_in_the_middle(service: RunningServer, request_body: bytes) -> None:
    """Clients that go away while sending or before the answer leave nothing behind."""
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(request_body)
    for sent in (head[:10], head, head + request_body[:1000], head + request_body):
        with socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection:
            connection.sendall(sent)


def test_offers_of_another_protocol_in_a_row(service: RunningServer, request_body: bytes) -> None:
    """Each is answered in HTTP/1.1, and the connection goes on; the pieces may arrive in any cut."""
    fields = "".join(f"{name}: {value}\r\n" for name, value in UPGRADE.items()).encode()
    with_length = b"POST / HTTP/1.1\r\nHost: x\r\n%sContent-Length: %d\r\n\r\n" % (fields, len(request_body))
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(request_body), request_body)
    chunked = b"POST / HTTP/1.1\r\nHost: x\r\n%sTransfer-Encoding: chunked\r\n\r\n" % fields
    last = b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close, Upgrade\r\nUpgrade: websocket\r\n\r\n"
    sent = with_length + request_body + chunked + chunks + last
    for size in (len(sent), 700):
        with socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection:
            for start in range(0, len(sent), size):
                connection.sendall(sent[start : start + size])
            received = b"".join(iter(lambda: connection.recv(65536), b""))
        assert received.count(b"HTTP/1.1 200 OK") == 3
        assert received.count(b"headerdata") == 2
        assert received.endswith(b'{"status":"live"}')


def test_not_even_http(service: RunningServer) -> None:
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection:
        connection.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 this is TLS\r\n\r\n")
        assert b"Traceback" not in connection.recv(4096)


def test_health_pages(http: Http) -> None:
    assert http.get("/health/live").json() == {"status": "live"}
    assert http.get("/health/ready").json() == {"status": "ready"}
