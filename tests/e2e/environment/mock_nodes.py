"""Nomad nodes without an agent: registered, kept alive and "run" over Nomad's RPC, as many as needed in one process.

A mock node is a copy of a real one under another ID, name and datacenter. It sends heartbeats, and reports every
allocation that the servers place on it as running. Nothing runs, no volume is mounted, no template is rendered, and no
service is registered. For the servers it costs what a node costs, less the queries with which a real client waits for
its allocations.

RPC: a byte for the kind of connection, TLS, then net/rpc with msgpack (nomad/rpc.go, helper/pool/conn.go).
"""

import socket
import ssl
import struct
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from io import BufferedReader
from typing import Any

import httpx

_TLS, _NOMAD = b"\x04", b"\x01"
_SECONDS = 30.0
_HEARTBEAT = 5.0
"""Seconds between a node's heartbeats; Nomad's TTL is 10 s at least."""


class RpcError(Exception):
    """The server's error."""


class Rpc:
    """A connection to the RPC port of one of `servers`: the next one if it is lost. One call at a time."""

    def __init__(self, servers: Sequence[tuple[str, int]], tls: ssl.SSLContext, name: str, region: str) -> None:
        self._servers, self._tls, self._name, self._region = list(servers), tls, name, region
        self._socket: ssl.SSLSocket | None = None
        self._reader: BufferedReader | None = None
        self._number = 0
        self._lock = threading.Lock()

    def call(self, method: str, body: Mapping[str, Any]) -> Any:
        """The reply. Raises RpcError, and OSError if no server answers."""
        with self._lock:
            try:
                return self._call(method, {"Region": self._region, **body})
            except OSError:
                self.close()
                self._servers.append(self._servers.pop(0))
                raise

    def close(self) -> None:
        """Close the connection; the next call opens one."""
        if self._socket is not None:
            self._socket.close()
        self._socket = self._reader = None

    def _call(self, method: str, body: Mapping[str, Any]) -> Any:
        if self._socket is None or self._reader is None:
            plain = socket.create_connection(self._servers[0], _SECONDS)
            plain.sendall(_TLS)
            self._socket = self._tls.wrap_socket(plain, server_hostname=self._name)
            self._socket.sendall(_NOMAD)
            self._reader = self._socket.makefile("rb")
        self._number += 1
        self._socket.sendall(pack({"ServiceMethod": method, "Seq": self._number}) + pack(body))
        header = unpack(self._reader)
        reply = unpack(self._reader)
        if header["Error"]:
            raise RpcError(header["Error"])
        return reply


@dataclass
class MockNodes:
    """The nodes of one process. `token` is a management token, to read which allocations there are."""

    rpc: Callable[[], Rpc]
    allocations: Callable[[], list[dict[str, Any]]]
    """All allocations of the cluster, as `/v1/allocations` shows them."""
    secrets: dict[str, str] = field(default_factory=dict)
    """Node ID to its secret."""
    errors: list[str] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def register(self, rpc: Rpc, real: str, hosts: Mapping[str, Sequence[str]], token: str) -> None:
        """Register a copy of the node `real` for each of `hosts`, a datacenter with its clubs, whose volumes it has."""
        node = rpc.call("Node.GetNode", {"NodeID": real, "AuthToken": token})["Node"]
        for number, (datacenter, clubs) in enumerate(hosts.items()):
            identity, secret = str(uuid.uuid4()), str(uuid.uuid4())
            meta = {**(node["Meta"] or {}), "pds_droplet": str(900_000_000 + number)}
            copy = {**node, "ID": identity, "SecretID": secret, "Name": datacenter, "Datacenter": datacenter}
            copy |= {"Meta": meta, "Events": None, "Status": "initializing", "ComputedClass": "", "HTTPAddr": ""}
            names = [f"pds-{club}" for club in clubs]
            copy["HostVolumes"] = {name: {"Name": name, "Path": "/mock", "ReadOnly": False} for name in names}
            # The servers' own clients are of another pool, and have neither Docker nor the host network of clubs.
            copy |= {"NodePool": "default", "Attributes": {**node["Attributes"], "driver.docker": "1"}}
            copy["Drivers"] = {**(node["Drivers"] or {}), "docker": {"Detected": True, "Healthy": True}}
            copy["NodeResources"] = _with_loopback(node["NodeResources"])
            copy |= {"IdentitySigningKeyID": "", "CreateIndex": 0, "ModifyIndex": 0}
            rpc.call("Node.Register", {"Node": copy})
            self.secrets[identity] = secret
            self._beat(rpc, identity)

    def start(self) -> None:
        """Send heartbeats and report allocations as running, until `stop`."""
        for work in (self._heartbeats, self._run_allocations):
            self._threads.append(threading.Thread(target=work, daemon=True))
            self._threads[-1].start()

    def stop(self) -> None:
        """End it."""
        self._ended.set()
        for thread in self._threads:
            thread.join(_SECONDS)

    def _beat(self, rpc: Rpc, identity: str) -> None:
        body = {"NodeID": identity, "Status": "ready", "AuthToken": self.secrets[identity]}
        rpc.call("Node.UpdateStatus", body)

    def _heartbeats(self) -> None:
        rpc = self.rpc()
        while not self._ended.is_set():
            began = time.monotonic()
            for identity in list(self.secrets):
                try:
                    self._beat(rpc, identity)
                except (RpcError, OSError) as error:
                    self.errors.append(str(error))
                    self._ended.wait(0.2)
            self._ended.wait(max(0.0, _HEARTBEAT - (time.monotonic() - began)))
        rpc.close()

    def _run_allocations(self) -> None:
        rpc = self.rpc()
        while not self._ended.wait(0.5):
            waiting: dict[str, list[dict[str, Any]]] = {}
            with suppress(OSError, ValueError, httpx.HTTPError):  # no leader for a while
                for item in self.allocations():
                    if item["ClientStatus"] == "pending" and item["NodeID"] in self.secrets:
                        waiting.setdefault(item["NodeID"], []).append(item)
            for identity, items in waiting.items():
                body = {"Alloc": [_running(item) for item in items], "AuthToken": self.secrets[identity]}
                try:
                    rpc.call("Node.UpdateAlloc", body)
                except (RpcError, OSError) as error:
                    self.errors.append(str(error))
        rpc.close()


def _with_loopback(resources: Mapping[str, Any]) -> dict[str, Any]:
    """The resources, with the host network on which the program lets a PDS listen."""
    networks = resources["NodeNetworks"] or []
    if any(address["Alias"] == "loopback" for network in networks for address in network["Addresses"] or []):
        return dict(resources)
    address = {"Family": "ipv4", "Alias": "loopback", "Address": "127.0.0.1", "ReservedPorts": "", "Gateway": ""}
    loopback = {"Mode": "host", "Device": "lo", "MacAddress": "", "Speed": 1000, "Addresses": [address]}
    return {**resources, "NodeNetworks": [*networks, loopback]}


def _running(item: Mapping[str, Any]) -> dict[str, Any]:
    names = ("ID", "NodeID", "Namespace", "JobID", "TaskGroup")
    state = {"State": "running", "Failed": False}
    return {**{name: item[name] for name in names}, "ClientStatus": "running", "TaskStates": {"pds": state}}


def pack(value: Any) -> bytes:
    """`value` as msgpack, with the types that Nomad's own library writes."""
    if value is None:
        return b"\xc0"
    if isinstance(value, bool):
        return b"\xc3" if value else b"\xc2"
    if isinstance(value, int):
        if 0 <= value < 128:
            return bytes([value])
        return b"\xcf" + struct.pack(">Q", value) if value > 0 else b"\xd3" + struct.pack(">q", value)
    if isinstance(value, float):
        return b"\xcb" + struct.pack(">d", value)
    if isinstance(value, str):
        data = value.encode("utf-8", "surrogateescape")
        if len(data) < 32:
            return bytes([0xA0 | len(data)]) + data
        return (b"\xda" + struct.pack(">H", len(data)) if len(data) < 1 << 16 else b"\xdb" + _long(data)) + data
    if isinstance(value, list | tuple):
        return b"\xdd" + _long(value) + b"".join(map(pack, value))
    assert isinstance(value, Mapping), type(value)
    return b"\xdf" + _long(value) + b"".join(pack(key) + pack(item) for key, item in value.items())


def _long(value: Any) -> bytes:
    return struct.pack(">I", len(value))


_NUMBERS = {0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q"} | {
    0xD0: ">b",
    0xD1: ">h",
    0xD2: ">i",
    0xD3: ">q",
}
_LENGTHS = {0xC4: ">B", 0xC5: ">H", 0xC6: ">I", 0xD9: ">B", 0xDA: ">H", 0xDB: ">I"}
"""Of texts and bytes."""


def unpack(reader: BufferedReader) -> Any:
    """The next value. Bytes are texts, as Nomad reads them. Raises OSError at the end of the stream, ValueError for an
    extension type."""
    [kind] = _read(reader, 1)
    if kind < 0x80 or kind >= 0xE0:
        return kind if kind < 0x80 else kind - 256
    if kind < 0x90:
        return {unpack(reader): unpack(reader) for _ in range(kind & 0x0F)}
    if kind < 0xA0:
        return [unpack(reader) for _ in range(kind & 0x0F)]
    if kind < 0xC0:
        return _text(reader, kind & 0x1F)
    if kind in _NUMBERS:
        return struct.unpack(_NUMBERS[kind], _read(reader, struct.calcsize(_NUMBERS[kind])))[0]
    if kind in _LENGTHS:
        form = _LENGTHS[kind]
        return _text(reader, struct.unpack(form, _read(reader, struct.calcsize(form)))[0])
    if kind in (0xDC, 0xDD, 0xDE, 0xDF):
        form = ">H" if kind in (0xDC, 0xDE) else ">I"
        length = struct.unpack(form, _read(reader, struct.calcsize(form)))[0]
        if kind < 0xDE:
            return [unpack(reader) for _ in range(length)]
        return {unpack(reader): unpack(reader) for _ in range(length)}
    if kind in (0xC0, 0xC2, 0xC3):
        return {0xC0: None, 0xC2: False, 0xC3: True}[kind]
    raise ValueError(f"msgpack type {kind:#x} is not expected here")


def _text(reader: BufferedReader, length: int) -> str:
    return _read(reader, length).decode("utf-8", "surrogateescape")


def _read(reader: BufferedReader, length: int) -> bytes:
    data = reader.read(length)
    if len(data) < length:
        raise OSError("the connection ended")
    return data
