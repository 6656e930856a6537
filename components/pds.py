"""`Pds`: one Personal Data Server, whole. The only component that builds components.

Order is the design: what must outlive the droplet, then the droplet, then Nomad, then secrets and job, then, once the
name resolves, the ingress; last, the proof that it serves. Each component is handed what it needs of the earlier ones.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

import pulumi

from components import host
from components.backup import Backup, BackupArgs
from components.confirmation import Confirmation, ConfirmationArgs
from components.dns import Dns, DnsArgs
from components.dynamic import Invites, Ready, Removals, Resolves, Unlisted
from components.entropy import as_secret
from components.host import Ground, GroundArgs, Host, HostArgs
from components.ingress import Ingress, IngressArgs, IngressFile, IngressFileArgs
from components.members import Member, MemberArgs
from components.nomad import PROGRAM_TOKEN, CertificatesArgs, NomadAccess, NomadArgs, NomadCertificates
from components.render.backup_job import backup_job
from components.render.caddy import caddy_job, caddyfile
from components.render.cloud_init import UserDataTooLongError, configuration_hash, refuse_too_long
from components.render.confirm_job import confirm_job
from components.render.io import ingress_file, io_job
from components.render.pds_job import JOB, SECRETS_PATH, pds_job
from components.render.watch_job import watch_job
from components.secrets import PdsSecrets, PdsSecretsArgs
from components.settings.environment import plain_environment
from components.settings.settings import Settings
from components.watch import Watch, WatchArgs
from components.workload import PdsJob, PdsJobArgs

_AS_ASKED = ("there", "hers", "done", "made")
"""States in which nothing is left to say."""

_DNS_PATIENCE = 120
"""Seconds that `up` waits for records which it has just made; records made by hand are looked at once."""


@dataclass(frozen=True, kw_only=True)
class PdsArgs:
    """What `Pds` is told: the settings, and the stack's name."""

    settings: Settings
    stack: str


class Pds(pulumi.ComponentResource):
    """A PDS with host, address, name, secrets, job and ingress."""

    outputs: dict[str, pulumi.Input[object]]
    """What the stack exports."""

    def __init__(self, name: str, args: PdsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        settings, stack = args.settings, args.stack
        try:
            refuse_too_long(settings, stack)
        except UserDataTooLongError as error:
            raise pulumi.RunError(f"Pulumi.{stack}.yaml: {error}") from None
        super().__init__("pds:index:Pds", name, None, opts)
        configuration = configuration_hash(settings, stack)
        child = pulumi.ResourceOptions(parent=self)

        ground = Ground(f"{name}-ground", GroundArgs(settings=settings, stack=stack), child)
        certificates = NomadCertificates(f"{name}-certificates", CertificatesArgs(ipv4=ground.ipv4), child)
        machine = Host(
            f"{name}-host",
            HostArgs(
                settings=settings,
                stack=stack,
                tag=ground.tag,
                firewall=ground.firewall,
                reserved_ip=ground.reserved_ip,
                volume=ground.volume,
                vpc_uuid=ground.vpc_uuid,
                ca_pem=certificates.ca_pem,
                server_cert_pem=certificates.server_cert_pem,
                server_key_pem=certificates.server_key_pem,
            ),
            child,
        )
        dns = Dns(f"{name}-dns", DnsArgs(settings=settings, ipv4=ground.ipv4), child)
        nomad = NomadAccess(
            f"{name}-nomad",
            NomadArgs(
                settings=settings,
                ipv4=ground.ipv4,
                port=host.NOMAD_PORT,
                ca_pem=certificates.ca_pem,
                client_cert_pem=certificates.client_cert_pem,
                client_key_pem=certificates.client_key_pem,
                droplet=machine.droplet,
                volume=ground.volume,
                firewall=ground.firewall,
                assignment=machine.assignment,
            ),
            child,
        )
        secrets = PdsSecrets(f"{name}-secrets", PdsSecretsArgs(settings=settings, target=nomad.target), child)
        jobspec = pds_job(settings)
        workload = PdsJob(
            f"{name}-server",
            PdsJobArgs(settings=settings, jobspec=jobspec, target=nomad.target, secrets=secrets.variable),
            child,
        )
        backup: Backup | None = None
        if settings.backup:
            backup = Backup(
                f"{name}-backup",
                BackupArgs(
                    settings=settings,
                    stack=stack,
                    jobspec=backup_job(settings, stack),
                    target=nomad.target,
                    server=workload.job,
                ),
                child,
            )
        resolves = Resolves(
            f"{name}-resolves",
            {
                "hostname": settings.hostname,
                "ip": ground.ipv4,
                "zone": settings.zone,
                "nameservers": list(settings.dns.nameservers),
                "wait": _DNS_PATIENCE if settings.dns.provider == "digitalocean" else 0,
            },
            pulumi.ResourceOptions(parent=self, depends_on=[dns, workload.job]),
        )
        last: list[pulumi.Resource] = [workload.job]
        files: dict[str, str] = {"pds_job": jobspec}
        kind = settings.ingress.kind
        if kind != "none":
            render_file, render_job = {"io": (ingress_file, io_job), "caddy": (caddyfile, caddy_job)}[kind]
            files |= {"ingress_file": render_file(settings), "ingress_job": render_job(settings)}
            file = IngressFile(
                f"{name}-ingress-file",
                IngressFileArgs(stack=stack, job=kind, text=files["ingress_file"], target=nomad.target),
                child,
            )
            ingress = Ingress(
                f"{name}-ingress",
                IngressArgs(
                    job=kind,
                    jobspec=files["ingress_job"],
                    license_hcl=settings.ingress.license_hcl,
                    open=resolves.open,
                    target=nomad.target,
                    admin=nomad.admin,
                    file=file.variable,
                ),
                child,
            )
            last.append(ingress.job)
        api: dict[str, pulumi.Input[str]] = {
            "address": nomad.address,
            "ca_pem": certificates.ca_pem,
            "cert_pem": certificates.client_cert_pem,
            "key_pem": as_secret(certificates.client_key_pem),
            "token": nomad.token,
        }
        ready = Ready(
            f"{name}-ready",
            {
                **api,
                "token_name": PROGRAM_TOKEN,
                "management_token": nomad.management_token,
                "hostname": settings.hostname,
                "ip": ground.ipv4,
                "open": resolves.open if kind != "none" else "none",
                "paused": settings.pds.paused,
                "job": JOB,
                "files_sha256": hashlib.sha256(json.dumps(files).encode()).hexdigest(),
                "secrets_path": SECRETS_PATH,
                "secrets_digest": secrets.digest,
                "droplet_id": machine.droplet.id,
                "configuration": configuration,
            },
            pulumi.ResourceOptions(parent=self, depends_on=last),
        )
        _tell(ready, resolves, configuration)
        if settings.alerts:
            watching = watch_job(settings, settings.alerts)
            Watch(
                f"{name}-watch",
                WatchArgs(
                    settings=settings,
                    alerts=settings.alerts,
                    stack=stack,
                    jobspec=watching,
                    tag=ground.tag,
                    target=nomad.target,
                    ready=ready,
                ),
                child,
            )
            if settings.alerts.ping_url:
                files["watch_job"] = watching
        admin_password = secrets.items.apply(lambda items: items["PDS_ADMIN_PASSWORD"])
        server: dict[str, pulumi.Input[str]] = {
            "url": f"https://{settings.hostname}",
            "ip": ground.ipv4,
            "open": _open(settings, resolves),
            "admin_password": admin_password,
        }
        members = self._members(name, settings, server, dns, ground.ipv4, ready)

        copies: dict[str, pulumi.Input[object]] = {}
        opens_copies: dict[str, pulumi.Input[object]] = {}
        if backup:
            address = backup.repository
            copies = {"backup_job": backup_job(settings, stack), "backup_repository": address}
            opens_copies = {"backup": backup.items.apply(lambda items: items | {"RESTIC_REPOSITORY": address})}
        self.outputs = {
            "url": f"https://{settings.hostname}",
            "state": ready.state,
            "ipv4": ground.ipv4,
            "package_version": settings.pds.package_version,
            "records": pulumi.Output.all(dns.records, *(member.records for member in members.values())).apply(
                lambda tables: [record for table in tables for record in table]
            ),
            "resolves": resolves.state,
            "admin_password": admin_password,
            "pds_env": secrets.items.apply(lambda items: _env_file(plain_environment(settings) | items)),
            "nomad_address": nomad.address,
            "nomad_token": nomad.token,
            "nomad_management_token": nomad.management_token,
            "nomad_ca_pem": certificates.ca_pem,
            "nomad_client_cert_pem": certificates.client_cert_pem,
            "nomad_client_key_pem": as_secret(certificates.client_key_pem),
            **files,
            **copies,
            "host_configuration": ready.host_configuration,
            "escrow": as_secret(
                pulumi.Output.all(
                    hostname=settings.hostname,
                    stack=stack,
                    package_version=settings.pds.package_version,
                    environment=plain_environment(settings),
                    secrets=secrets.items,
                    ipv4=ground.ipv4,
                    volume_id=ground.volume.id,
                    nomad_management_token=nomad.management_token,
                    nomad_ca_pem=certificates.ca_pem,
                    nomad_ca_key_pem=certificates.ca_key_pem,
                    **opens_copies,
                )
            ),
        }
        confirmed = [asked for asked in settings.members if asked.email_verified]
        if confirmed:
            self.outputs["confirm_job"] = jobspec = confirm_job(settings)
            confirmation = Confirmation(
                f"{name}-confirmation",
                ConfirmationArgs(
                    jobspec=jobspec,
                    target=nomad.target,
                    dids={asked.email: members[asked.handle].did for asked in confirmed},
                    nomad=api,
                ),
                child,
            )
            _tell_of("E-mail addresses that count as confirmed", confirmation.state)
        if members:
            self.outputs["members"] = pulumi.Output.all(
                **{
                    handle: pulumi.Output.all(
                        did=member.did,
                        handle=member.live_handle,
                        account=member.account_state,
                        handle_state=member.handle_state,
                    )
                    for handle, member in members.items()
                }
            )
            self.outputs["member_passwords"] = as_secret(
                pulumi.Output.all(**{handle: member.initial_password for handle, member in members.items()})
            )
        if settings.invites:
            invites = Invites(
                f"{name}-invites",
                {**server, "count": settings.invites.count, "uses": settings.invites.uses},
                pulumi.ResourceOptions(parent=self, depends_on=[ready]),
            )
            _tell_of("Invite codes", invites.state)
            self.outputs["invite_codes"] = as_secret(invites.codes)
        open_to_others = settings.invites or not settings.pds.invite_required
        # Caddy serves every hosted handle's name; behind another ingress it takes the record that a member has.
        if open_to_others and kind != "caddy":
            unlisted = Unlisted(
                f"{name}-unlisted",
                {
                    **server,
                    "dids": [member.did for member in members.values()],
                    "known": [*(asked.handle for asked in settings.members), *settings.takedown, *settings.delete],
                },
                pulumi.ResourceOptions(parent=self, depends_on=[ready]),
            )
            _tell_of("Accounts that the stack file does not name", unlisted.state)
            _tell_of_strangers(stack, unlisted.unlisted)
        self.register_outputs({"url": self.outputs["url"], "ipv4": ground.ipv4})

    def _members(
        self,
        name: str,
        settings: Settings,
        server: Mapping[str, pulumi.Input[str]],
        dns: Dns,
        ipv4: pulumi.Output[str],
        ready: Ready,
    ) -> dict[str, Member]:
        """The members by handle. Removals come first: they may free a handle or an e-mail address."""
        after: list[pulumi.Resource] = [ready]
        if settings.members or settings.takedown or settings.delete:
            removals = Removals(
                f"{name}-removals",
                {**server, "takedown": list(settings.takedown), "delete": dict(settings.delete)},
                pulumi.ResourceOptions(parent=self, depends_on=[ready]),
            )
            _tell_of("Takedown and deletion", removals.state)
            after.append(removals)
        members: dict[str, Member] = {}
        for asked in settings.members:
            # A changed handle is the same member: her account's state is found under the name that it had.
            was = [pulumi.Alias(name=f"{name}-member-{asked.was}")] if asked.was else []
            member = Member(
                f"{name}-member-{asked.handle}",
                MemberArgs(
                    settings=settings,
                    member=asked,
                    server=server,
                    ipv4=ipv4,
                    zone=dns.zone,
                    after=after,
                    wait=_DNS_PATIENCE,
                ),
                pulumi.ResourceOptions(parent=self, aliases=was),
            )
            _tell_of(f"The account of {asked.handle}", member.account_state)
            _tell_of(f"The handle {asked.handle}", member.handle_state)
            members[asked.handle] = member
        return members


def _open(settings: Settings, resolves: Resolves) -> pulumi.Input[str]:
    """Whether the PDS is asked over HTTPS: "1" or "0", "none" where the ingress is not ours, or "paused"."""
    if settings.pds.paused:
        return "paused"
    return resolves.open if settings.ingress.kind != "none" else "none"


def _env_file(environment: dict[str, str]) -> str:
    """What `pdsadmin` reads from `~/pds.env`."""
    return "".join(f"{name}={value}\n" for name, value in environment.items())


def _tell_of(what: str, state: pulumi.Output[str]) -> None:
    """Say at the end of `up` what is pending, and what differs from the stack file."""

    def say(found: str) -> None:
        if found not in _AS_ASKED:
            later = ". The next `pulumi up` goes on" if found.startswith("pending") else ""
            pulumi.warn(f"{what}: {found.removesuffix('.')}{later}.")

    state.apply(say)


def _tell_of_strangers(stack: str, handles: pulumi.Output[list[str]]) -> None:
    """Say at the end of `up` whose handle has no DNS record, and what makes it."""

    def say(found: list[str]) -> None:
        if found:
            pulumi.warn(
                f"{', '.join(found)}: on the PDS and not in Pulumi.{stack}.yaml, so without a DNS record; apps may "
                f"show 'invalid handle'. `./pds members {stack} --adopt` writes them into it, and the next `pulumi up` "
                "makes the records."
            )

    handles.apply(say)


def _tell(ready: Ready, resolves: Resolves, configuration: str) -> None:
    """Say at the end of `up` what is not as it should be, and what to do."""

    def say(found: list[str]) -> None:
        state, dns, born = found
        if state not in ("serving", "paused"):
            pulumi.warn(f"The PDS is {state}. {dns}. The next `pulumi up` looks again.")
        if born != configuration:
            pulumi.warn(
                f"The host was built from cloud-init {born or 'unknown'}, the program now has {configuration}. "
                "Nothing was rebuilt. To rebuild it, raise 'pds:host: {generation: …}'."
            )

    pulumi.Output.all(ready.state, resolves.state, ready.host_configuration).apply(say)
