"""What operators see of a served service with dialogs: metrics, readiness and deep health on a real token."""

from __future__ import annotations

import json
import time
from pathlib import Path

import httpx
import pytest

from dialog_place import Place
from management_fixture import Management

SECTION = "[management]\nport = 0\nready_every = 0.1\ndeep_every = 0.1\n\n[store]"


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("dialog"))


def test_metrics_and_health_of_dialogs(place: Place) -> None:
    def configured(name: str, other: str, url: str = "") -> Path:
        path = place.configure(name, other, url=url)
        if name == "orders":
            path.write_text(path.read_text().replace("[store]", SECTION))
        return path

    orders, stock = configured("orders", "stock"), configured("stock", "orders")
    with place.serve(orders) as orders_url, place.serve(stock) as stock_url:
        pages = Management.at(place.directory / "orders.log")
        configured("orders", "stock", url=stock_url)
        configured("stock", "orders", url=orders_url)
        place.run("bindings", orders)
        place.run("bindings", stock)
        dialog = place.run("open", orders, "urn:demo:stock").strip()
        place.run("send", orders, dialog, "order", "three chairs")
        assert "order: three chairs" in place.run("receive", stock, "--wait", 30)
        place.run("send", stock, dialog, "answer", "reserved")
        pages.await_value(1, "dialog_inbox_messages")
        assert pages.value("dialog_events_total", event="received") >= 1
        assert "answer: reserved" in place.run("receive", orders, dialog, "--wait", 30)
        pages.await_value(0, "dialog_inbox_messages")
        pages.await_value(0, "dialog_outbox_packets")
        assert pages.value("hsm_up", token="demo") == 1
        assert pages.value("hsm_ops_total", token="demo", op="sign", result="ok") >= 1
        assert pages.health("live") == (200, {"status": "live"})
        status, content = pages.health("ready")
        assert (status, content["status"]) == (200, "ok")
        status, content = pages.health("deep")
        assert {check["name"]: check["status"] for check in content["checks"]} == {
            "signing key: sign and verify": "ok",
            "storage key: wrap and unwrap": "ok",
            "encryption key: every suite in use": "ok",
            "store: write and read": "ok",
        }
        assert httpx.get(orders_url.replace("/dialog", "/health/live")).json() == {"status": "live"}
        store, away = place.directory / "tokens", place.directory / "tokens.away"
        store.rename(away)
        try:
            status, content = pages.health("deep")
            assert (status, content["status"]) == (503, "unavailable"), json.dumps(content)
            assert {check["status"] for check in content["checks"]} == {"ok", "unavailable"}
            assert pages.value("service_ready") == 0
            assert pages.value("hsm_up", token="demo") == 0
        finally:
            away.rename(store)
        pages.await_value(1, "service_ready")
        deadline = time.monotonic() + 30
        while pages.health("deep")[0] != 200:
            assert time.monotonic() < deadline
            time.sleep(0.2)
