"""The environment of a PDS's first month: a stack with backups in a clone of the project, its Spaces, and servers of
others that it reaches."""

import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

import yaml

from tests.contract.club import Club
from tests.e2e.environment.buckets import SpacesService, spaces
from tests.e2e.environment.directory import Directory, directory
from tests.e2e.environment.docker import gateway
from tests.e2e.environment.environment import ROOT, E2eEnvironment, e2e_env
from tests.e2e.environment.ingresses import INGRESSES
from tests.e2e.environment.other_servers import OLD_HOST, OldServer, old_server, receiver
from tests.e2e.environment.reader import Reader, clone
from tests.support.certificates import server_context
from tests.support.s3 import KEYS, ask
from tests.support.smtp_relay import SmtpRelay, serve

BUCKET, ANOTHER, COPIES = "my-club-blobs", "another-name", "club-copies"
"""Buckets: the first and second one of the blobs, and that of the backups."""
OTLP, RELAY = "otlp.example.net", "smtp.resend.com"

Posts = tuple[int, "Queue[tuple[str, str, str]]"]
"""Port and requests of a `receiver`."""


@dataclass(kw_only=True)
class Month:
    """The operator and their stack, its Spaces and members, and the servers of others."""

    reader: Reader
    e2e_env: E2eEnvironment
    service: SpacesService
    plc: Directory
    address: str
    """This machine's, for containers."""
    relay: SmtpRelay
    old: OldServer
    otlp: Posts
    switch: Posts
    club: Club | None = None

    @property
    def data(self) -> Path:
        """The server's files."""
        [machine] = self.e2e_env.machines.machines()
        return machine.volume / "pds"

    def objects(self, bucket: str, prefix: str) -> list[str]:
        """The names of the objects in a bucket."""
        return re.findall("<Key>([^<]+)</Key>", ask("GET", f"{self.service.url}/{bucket}?list-type=2&prefix={prefix}"))

    def on_disk(self) -> list[Path]:
        """The blobs on the volume."""
        return list((self.data / "blocks").glob("did:*/*"))

    def served(self) -> None:
        """Assert that the server sends each member's blobs."""
        assert self.club
        for member in self.club.at(self.e2e_env.health_url()).members:
            cids = member.client.query("com.atproto.sync.listBlobs", {"did": member.did})["cids"]
            assert cids
            for cid in cids:
                assert b"".join(member.client.stream_blob(member.did, cid))

    def checked(self, page: str, command: str) -> dict[str, str]:
        """The lines of `./pds check` by name; it has something to do in this environment."""
        output = self.reader.types(page, command, check=False).output
        return {line[7:].partition(":")[0]: line for line in output.splitlines() if line[7:]}

    def no_changes(self) -> None:
        """Assert that the stack is as its file has it."""
        self.e2e_env.pulumi("preview", "--expect-no-changes")


@contextmanager
def first_month(folder: Path, cache: Path) -> Iterator[Month]:
    """Start everything; stop it at the end. Raises E2eError, LiveError."""
    with ExitStack() as stack:
        made = stack.enter_context(e2e_env(folder, cache))
        address, authority = gateway(made.docker_host), made.authority
        plc = stack.enter_context(directory(made.folder / "plc", cache, made.docker_host, authority))
        INGRESSES["io"](made, stack)
        service = stack.enter_context(spaces(made, plc, BUCKET, ANOTHER, COPIES, others=(OTLP, RELAY, OLD_HOST)))
        tls = server_context(authority.issue(RELAY, address), made.folder)
        # Port and user of the preset `resend`.
        wanted = SmtpRelay(tls="implicit", context=tls, login=("resend", "re_123"), port=2465)
        relay = stack.enter_context(serve(wanted, address))
        old = stack.enter_context(old_server(made.folder / "old", cache, plc, authority, relay, address))
        otlp = stack.enter_context(receiver(address, authority, made.folder / "otlp", OTLP))
        switch = stack.enter_context(receiver(address, authority, made.folder / "switch"))
        made = _main(service, plc)
        env = {**made.env, "PATH": f"{_ssh_stand_in(made.folder)}:{made.env['PATH']}", "PYTHONUNBUFFERED": "1"}
        yield Month(
            reader=Reader(made.project, env),
            e2e_env=made,
            service=service,
            plc=plc,
            address=address,
            relay=relay,
            old=old,
            otlp=otlp,
            switch=switch,
        )


def _main(service: SpacesService, plc: Directory) -> E2eEnvironment:
    """The operator's stack, open to everyone."""
    config = yaml.load((service.made.project / "Pulumi.bench.yaml").read_text(), yaml.CSafeLoader)["config"]
    service.made.pulumi("stack", "rm", "--yes")
    clone(service.made.project)
    made = service.made.beside("main", config)
    made.configure(
        pds={
            "plc_url": plc.url,
            "image": service.pds_image,
            "invite_required": False,
            "open_registration": True,
            # Else the server queries no directory at a private address, which `check` needs.
            "extra_env": {"PDS_DISABLE_SSRF_PROTECTION": "true"},
        },
        host={"size": "s-4vcpu-8gb"},
        backup={"bucket": COPIES, "image": service.restic_image, "interval_minutes": 1440},
    )
    for name, value in zip(("access_key_id", "secret_access_key"), KEYS.values(), strict=True):
        made.pulumi("config", "set", "--secret", "--path", f"pds:backup.{name}", value)
    return made


def _ssh_stand_in(folder: Path) -> Path:
    """A folder with a program named ssh, which forwards a socket on this machine."""
    programs = folder / "bin"
    programs.mkdir()
    ssh = programs / "ssh"
    ssh.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m tests.support.unix_tunnel "$@"\n')
    ssh.chmod(0o755)
    return programs
