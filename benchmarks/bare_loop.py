"""What a server must do for one steady-state message and nothing else: split, Base64, JSON, HMAC, AES.

No checks beyond the MAC, no tokens, no objects: the ceiling against which the engine is measured. It uses the same
libraries, the same cached tokens and the same padding by hand.
"""

from __future__ import annotations

import os
import time
from typing import Any

import orjson
import pybase64
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC

_PADDINGS = tuple(bytes([n]) * n for n in range(17))


class BareLoop:
    """Reads an echo request and writes its answer with the session keys of one client.

    Args:
        encryption: the session's AES key.
        mac: the session's HMAC key.
        key_id: written into envelopes.
    """

    def __init__(self, encryption: bytes, mac: bytes, key_id: str) -> None:
        self._aes = algorithms.AES(encryption)
        self._mac = HMAC(mac, SHA256())
        self._key_id = key_id

    def handle(self, body: bytes) -> bytes:
        """Return the answer to one request of one header and any number of chunks."""
        documents = self._split(body)
        outer = orjson.loads(documents[0])
        header = self._open(outer["headerdata"], outer["signature"])
        pieces = []
        for document in documents[1:]:
            chunk = orjson.loads(document)
            inner = self._open(chunk["payload"], chunk["signature"])
            pieces.append(pybase64.b64decode(inner["data"], validate=True))
        data = b"".join(pieces)
        message_id = header["messageid"] + 1
        answer = {
            "handshake": False,
            "useridtoken": header.get("useridtoken"),
            "nonreplayable": False,
            "capabilities": header.get("capabilities"),
            "sender": "server",
            "renewable": False,
            "messageid": message_id,
            "timestamp": int(time.time()),
        }
        protected, signature = self._seal(answer)
        head = orjson.dumps({"headerdata": protected, "signature": signature, "mastertoken": outer["mastertoken"]})
        text = pybase64.b64encode(data).decode()
        protected, signature = self._seal(
            {"data": text, "messageid": message_id, "endofmsg": True, "sequencenumber": 1}
        )
        return head + orjson.dumps({"payload": protected, "signature": signature})

    def _split(self, body: bytes) -> list[bytes]:
        documents = []
        start = 0
        position = body.find(b"}")
        while position >= 0:
            # Inner objects end before a quote, comma or brace; only a whole document ends before an opening brace.
            if position + 1 == len(body) or body[position + 1] == 0x7B:
                documents.append(body[start : position + 1])
                start = position + 1
            position = body.find(b"}", position + 1)
        return documents

    def _open(self, protected: str, signature: str) -> Any:
        data = pybase64.b64decode(protected, validate=True)
        mac = self._mac.copy()
        mac.update(data)
        mac.verify(pybase64.b64decode(signature, validate=True))
        envelope = orjson.loads(data)
        iv = pybase64.b64decode(envelope["iv"], validate=True)
        ciphertext = pybase64.b64decode(envelope["ciphertext"], validate=True)
        padded = Cipher(self._aes, modes.CBC(iv)).decryptor().update(ciphertext)
        return orjson.loads(padded[: -padded[-1]])

    def _seal(self, value: dict[str, object]) -> tuple[str, str]:
        plaintext = orjson.dumps(value)
        iv = os.urandom(16)
        padded = plaintext + _PADDINGS[16 - len(plaintext) % 16]
        ciphertext = Cipher(self._aes, modes.CBC(iv)).encryptor().update(padded)
        data = orjson.dumps(
            {
                "ciphertext": pybase64.b64encode(ciphertext).decode(),
                "sha256": "AA==",
                "keyid": self._key_id,
                "iv": pybase64.b64encode(iv).decode(),
            }
        )
        mac = self._mac.copy()
        mac.update(data)
        return pybase64.b64encode(data).decode(), pybase64.b64encode(mac.finalize()).decode()
