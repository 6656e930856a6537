"""The parts of `make bench` that need no engine: prices of clusters, and what speaks Nomad's RPC."""

import datetime
import io
import re
import socket
import ssl
import threading
from typing import Any

import pytest

from cli.stacks.prices import PRICE_TABLE, listed
from components.settings.parse import read
from tests.e2e.environment.environment import ROOT
from tests.e2e.environment.mock_nodes import Rpc, RpcError, pack, unpack
from tests.e2e.environment.reader import stack_files
from tests.e2e.figures_prices import HOSTS, priced
from tests.support.certificates import Authority

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 127, 128, 2**40, -1, -(2**40), 1.5),
    *("", "a" * 31, "a" * 32, "a" * 70_000, "\udcff not UTF-8", "ü"),
    *([], [1, "two", None], {}, {"Node": {"Attributes": {"a": "b"}, "Events": None}, "Seq": 1}),
)


def _read(data: bytes) -> Any:
    return unpack(io.BufferedReader(io.BytesIO(data)))


@pytest.mark.parametrize("value", VALUES, ids=lambda value: str(value)[:20])
def test_a_value_is_what_it_was_after_packing(value: Any) -> None:
    assert _read(pack(value)) == value


def test_reads_the_short_forms_that_nomad_writes() -> None:
    """By hand from the specification of msgpack."""
    short = b"\x82\xa1a\x93\x01\xff\xcd\x01\x00\xa1b\xc4\x02hi"
    assert _read(short) == {"a": [1, -1, 256], "b": "hi"}


def test_a_lost_connection_is_an_error_and_the_next_call_asks_another_server(tmp_path: Any) -> None:
    authority = Authority("a CA")
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(authority.issue("server.global.nomad").written(tmp_path, "server"))
    trusting = authority.trusted()
    listening = socket.create_server(("127.0.0.1", 0))
    with socket.create_server(("127.0.0.1", 0)) as other:
        closed = other.getsockname()
    seen: list[Any] = []

    def serve() -> None:
        plain, _ = listening.accept()
        seen.append(plain.recv(1))
        with serving.wrap_socket(plain, server_side=True) as secured:
            seen.append(secured.recv(1))
            reader = secured.makefile("rb")
            for error in ("", "no such node"):
                seen.append((unpack(reader), unpack(reader)))
                secured.sendall(pack({"ServiceMethod": "", "Seq": 1, "Error": error}) + pack({"Index": 7}))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    rpc = Rpc([closed, listening.getsockname()], trusting, "server.global.nomad", "global")
    with pytest.raises(OSError, match="refused"):
        rpc.call("Node.Register", {})
    assert rpc.call("Node.Register", {"Node": None}) == {"Index": 7}
    with pytest.raises(RpcError, match="no such node"):
        rpc.call("Node.UpdateStatus", {"NodeID": "x"})
    rpc.close()
    thread.join(600)
    listening.close()
    assert seen[:2] == [b"\x04", b"\x01"], "TLS, then Nomad's protocol (helper/pool/conn.go)"
    assert seen[2] == ({"ServiceMethod": "Node.Register", "Seq": 1}, {"Region": "global", "Node": None})


def test_a_full_cluster_costs_what_its_parts_cost() -> None:
    rows = {(row.hosts, row.workers): row for row in priced()}
    assert {hosts for hosts, _ in rows} == set(HOSTS)
    usd, gib = PRICE_TABLE["droplets"]["usd_per_month"], PRICE_TABLE["volumes"]["usd_per_gib_and_month"]
    two = rows[2, "s-2vcpu-4gb"]
    assert two.usd == pytest.approx(3 * usd["s-1vcpu-1gb"] + 3 * usd["s-2vcpu-4gb"] + 2 * 50 * gib)
    assert two.clubs == 2 * 3, "3,338 MiB for jobs, 256 of them for the ingress, 896 for a club"
    each = [rows[hosts, "s-2vcpu-4gb"].usd / rows[hosts, "s-2vcpu-4gb"].clubs for hosts in HOSTS]
    assert each == sorted(each, reverse=True), "servers and the spare are shared by more clubs"


@pytest.mark.parametrize(("servers", "price"), [(3, "= {usd} USD a month"), (1, "With one server it is {usd} USD")])
def test_the_guide_has_the_price_of_its_own_cluster(servers: int, price: str) -> None:
    page = "docs/guide/cluster.md"
    config = stack_files(page)["fleet"]
    assert config["cluster"]["servers"] == {"count": 3}
    config["cluster"]["servers"] = {"count": servers}
    config["cluster"]["takeover"]["token"] = "dop_v1_takeover"  # the page sets it by a command
    usd = listed().host(read(config, "Pulumi.fleet.yaml", "fleet"))
    assert usd is not None
    text = " ".join((ROOT / page).read_text().split())
    assert price.format(usd=f"{usd:.0f}") in text
    date = re.search(r"With the prices of (\w+ \d+)", text)
    assert date
    assert datetime.datetime.strptime(date[1], "%B %Y").strftime("%Y-%m") == PRICE_TABLE["droplets"]["date"][:7]
