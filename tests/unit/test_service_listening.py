"""An address that cannot be listened on is told by the key that is wrong."""

from __future__ import annotations

import re

import pytest

from hsm_msl.errors import ConfigurationError
from hsm_msl.service.listening import open_listener


class Config:
    def error(self, key: str, problem: str) -> ConfigurationError:
        return ConfigurationError(f"{key}: {problem}")


@pytest.mark.parametrize(
    ("host", "problem"),
    [
        ("not..a.name", "server.host: 'not..a.name' cannot be resolved"),
        ("fe80::1", "server.host: 'fe80::1' cannot be listened on: "),
        ("192.0.2.1", "server.host: 192.0.2.1 is no address of this machine"),
    ],
)
def test_a_bad_host_is_told_as_one(host: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{re.escape(problem)}"):
        open_listener(Config(), "server", host, 0)


def test_a_port_in_use_is_told_as_one() -> None:
    with open_listener(Config(), "server", "127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(ConfigurationError, match=rf"^server\.port: 127\.0\.0\.1:{port} is in use"):
            open_listener(Config(), "server", "127.0.0.1", port)
