"""`Pds`: one complete Personal Data Server. Only this component creates components.

The order is the design: resources that must outlive the droplet, the droplet, Nomad, secrets and job; once the name
resolves, the ingress; last, the check that it serves. Each component receives values of the earlier ones.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

import pulumi

from components import host
from components.backup import Backup, BackupArgs
from components.clubs import Clubs, ClubsArgs
from components.confirmation import Confirmation, ConfirmationArgs
from components.dns import Dns, DnsArgs
from components.entropy import as_secret
from components.existing import ExistingNomad, ExistingNomadArgs
from components.facts import HostInUse, Invites, Ready, Removals, Resolves, StackIdentity, Unlisted
from components.host import Ground, GroundArgs, Host, HostArgs
from components.ingress import Ingress, IngressArgs, IngressFile, IngressFileArgs
from components.members import Member, MemberArgs
from components.nomad import PROGRAM_TOKEN, CertificatesArgs, NomadAccess, NomadArgs, NomadCertificates
from components.place import Place
from components.render.backup_job import backup_job
from components.render.caddy import caddy_job, caddyfile
from components.render.candidate_job import candidate_job
from components.render.cloud_init import UserDataTooLongError, configuration_hash, refuse_too_long, volume_name
from components.render.confirm_job import confirm_job
from components.render.drill_job import drill_job
from components.render.io import ingress_file, io_job
from components.render.pds_job import JOB, SECRETS_PATH, pds_job
from components.render.restore_job import restore_job
from components.render.watch_job import watch_job
from components.secrets import PdsSecrets, PdsSecretsArgs
from components.settings.environment import env_file, plain_environment
from components.settings.settings import Settings
from components.shared import SharedHost, SharedHostArgs
from components.telling import tell, tell_of, tell_of_strangers
from components.watch import Watch, WatchArgs
from components.workload import PdsJob, PdsJobArgs

_DNS_PATIENCE = 120
"""Seconds that `up` waits for records that it created. Records made by hand are checked once."""


@dataclass(frozen=True, kw_only=True)
class PdsArgs:
    """Arguments of `Pds`: the settings, the stack's name, and the project's name in the engine, ORGANIZATION/NAME."""

    settings: Settings
    stack: str
    project: str


class Pds(pulumi.ComponentResource):
    """A PDS with host, address, name, secrets, job and ingress."""

    outputs: dict[str, pulumi.Input[object]]
    """The stack's exports."""

    def __init__(self, name: str, args: PdsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        settings, stack = args.settings, args.stack
        try:
            if settings.on is None:
                refuse_too_long(settings, stack)
        except UserDataTooLongError as error:
            raise pulumi.RunError(f"Pulumi.{stack}.yaml: {error}") from None
        super().__init__("pds:index:Pds", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)

        identity = StackIdentity(f"{name}-identity", _identity(args), child)
        place = self._place(name, args, identity)
        dns = Dns(f"{name}-dns", DnsArgs(settings=settings, ipv4=place.ipv4, identity=identity), child)
        secrets = PdsSecrets(f"{name}-secrets", PdsSecretsArgs(settings=settings, target=place.target), child)
        jobspec = pds_job(settings, stack)
        workload = PdsJob(
            f"{name}-server",
            PdsJobArgs(settings=settings, jobspec=jobspec, target=place.target, secrets=secrets.variable),
            child,
        )
        backup: Backup | None = None
        copying: dict[str, str] = {}
        if settings.backup:
            copying = {
                "backup": backup_job(settings, stack),
                "restore": restore_job(settings, stack),
                "drill": drill_job(settings, stack),
                "candidate": candidate_job(settings, stack),
            }
            backup = Backup(
                f"{name}-backup",
                BackupArgs(settings=settings, stack=stack, jobspecs=copying, target=place.target, server=workload.job),
                child,
            )
        resolves = Resolves(
            f"{name}-resolves",
            {
                "hostname": settings.hostname,
                "ip": place.ipv4,
                "zone": settings.zone if settings.dns.provider == "digitalocean" else "",
                "nameservers": list(settings.dns.nameservers),
                "issuer": settings.ingress.issuer if settings.ingress_is_ours else "",
                "wait": _DNS_PATIENCE if settings.dns.provider == "digitalocean" else 0,
            },
            pulumi.ResourceOptions(parent=self, depends_on=[dns, workload.job]),
        )
        last: list[pulumi.Resource] = [workload.job]
        files: dict[str, str] = {"pds_job": jobspec}
        kind = settings.ingress.kind
        if kind != "none":
            files["ingress_file"] = ingress_file(settings, stack) if kind == "io" else caddyfile(settings)
            file = IngressFile(
                f"{name}-ingress-file",
                IngressFileArgs(
                    stack=stack,
                    job=kind,
                    text=files["ingress_file"],
                    plain=caddyfile(settings, plain=True) if kind == "caddy" else None,
                    # The host's ingress is running already, and would order a certificate at once.
                    open=None if settings.ingress_is_ours else resolves.open,
                    target=place.files,
                ),
                child,
            )
            last.append(file.variable)
        if place.admin and settings.ingress_is_ours:
            files["ingress_job"] = {"io": io_job, "caddy": caddy_job}[kind](settings, stack)
            ingress = Ingress(
                f"{name}-ingress",
                IngressArgs(
                    job=kind,
                    jobspec=files["ingress_job"],
                    license_hcl=settings.ingress.license_hcl,
                    open=resolves.open,
                    target=place.target,
                    admin=place.admin,
                    file=file.variable,
                ),
                child,
            )
            last.append(ingress.job)
        ready = Ready(
            f"{name}-ready",
            {
                **place.api,
                "management_token": place.management_token,
                "tokens": dict(place.tokens),
                "hostname": settings.hostname,
                "ip": place.ipv4,
                "open": resolves.open if kind != "none" else "none",
                "paused": settings.pds.paused,
                "job": JOB,
                # IO does not report what it reads.
                "ingress_sha256": hashlib.sha256(files["ingress_file"].encode()).hexdigest() if kind == "caddy" else "",
                "files_sha256": hashlib.sha256(json.dumps(files).encode()).hexdigest(),
                "secrets_path": SECRETS_PATH,
                "secrets_digest": secrets.digest,
                "host_id": place.host_id,
                "configuration": place.configuration,
            },
            pulumi.ResourceOptions(parent=self, depends_on=last),
        )
        tell(ready, resolves, place.configuration)
        if settings.alerts:
            watching = watch_job(settings, settings.alerts, stack)
            Watch(
                f"{name}-watch",
                WatchArgs(
                    settings=settings,
                    alerts=settings.alerts,
                    stack=stack,
                    jobspec=watching,
                    tag=place.tag,
                    target=place.target,
                    ready=ready,
                ),
                child,
            )
            if settings.alerts.ping_url:
                files["watch_job"] = watching
        admin_password = secrets.items.apply(lambda items: items["PDS_ADMIN_PASSWORD"])
        server: dict[str, pulumi.Input[str]] = {
            "url": f"https://{settings.hostname}",
            "ip": place.ipv4,
            "open": _open(settings, resolves),
            "admin_password": admin_password,
        }
        members = self._members(name, settings, server, dns, place.ipv4, ready)

        copies: dict[str, pulumi.Input[object]] = {}
        opens_copies: dict[str, pulumi.Input[object]] = {}
        if backup:
            address = backup.repository
            copies = {"backup_repository": address}
            opens_copies = {"backup": backup.items.apply(lambda items: items | {"RESTIC_REPOSITORY": address})}
        self.outputs = {
            "url": f"https://{settings.hostname}",
            "state": ready.state,
            "ipv4": place.ipv4,
            "package_version": settings.pds.package_version,
            "records": pulumi.Output.all(dns.records, *(member.records for member in members.values())).apply(
                lambda tables: [record for table in tables for record in table]
            ),
            "resolves": resolves.state,
            "admin_password": admin_password,
            "pds_env": secrets.items.apply(lambda items: env_file(plain_environment(settings) | items)),
            **({"ingress_file": files["ingress_file"]} if "ingress_file" in files else {}),
            **copies,
            **place.outputs,
            "host_configuration": ready.host_configuration,
            "escrow": as_secret(
                pulumi.Output.all(
                    hostname=settings.hostname,
                    stack=stack,
                    package_version=settings.pds.package_version,
                    environment=plain_environment(settings),
                    secrets=secrets.items,
                    ipv4=place.ipv4,
                    **place.escrow,
                    **opens_copies,
                )
            ),
        }
        confirmed = [asked for asked in settings.members if asked.email_verified]
        if confirmed:
            files["confirm_job"] = jobspec = confirm_job(settings, stack)
            confirmation = Confirmation(
                f"{name}-confirmation",
                ConfirmationArgs(
                    jobspec=jobspec,
                    target=place.target,
                    dids={asked.email: members[asked.handle].did for asked in confirmed},
                    nomad=place.api,
                    paused=settings.pds.paused,
                ),
                child,
            )
            tell_of("E-mail addresses that count as confirmed", confirmation.state)
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
            tell_of("Invite codes", invites.state)
            self.outputs["invite_codes"] = as_secret(invites.codes)
        open_to_others = settings.invites or not settings.pds.invite_required
        # Caddy serves every hosted handle's name. Behind another ingress a handle needs a DNS record like a member's.
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
            tell_of("Accounts that the stack file does not name", unlisted.state)
            tell_of_strangers(stack, unlisted.unlisted)
        if settings.clubs:
            # Not a child: it depends on every one of them, so that a `destroy` deletes it before any of them.
            HostInUse(
                f"{name}-host-in-use",
                {**place.api, "token": place.management_token, **_clubs_of(args, f"{name}-host-in-use")},
                pulumi.ResourceOptions(depends_on=[self]),
            )
        # Not exported: every preview and refresh would list whole files, including scripts.
        jobs = files | {f"{role}_job": text for role, text in copying.items()}
        self.outputs["files"] = {role: _digest(text) for role, text in jobs.items()}
        self.register_outputs({"url": self.outputs["url"], "ipv4": place.ipv4})

    def _place(self, name: str, args: PdsArgs, identity: StackIdentity) -> Place:
        """The host of this PDS, created or found."""
        on = args.settings.on
        if on is None:
            return self._own_host(name, args, identity)
        if on.stack:
            shared = SharedHost(
                f"{name}-host",
                SharedHostArgs(
                    settings=args.settings,
                    stack=args.stack,
                    reference=f"{args.project}/{on.stack}",
                    identity=identity,
                ),
                pulumi.ResourceOptions(parent=self),
            )
            return Place(
                ipv4=shared.ipv4,
                api=shared.api,
                target=shared.target,
                files=shared.files,
                admin=None,
                host_id=shared.cluster_id,
                outputs=_way_in(shared.api),
                escrow={"on": on.stack},
            )
        found = ExistingNomad(
            f"{name}-host",
            ExistingNomadArgs(settings=args.settings, on=on, identity=identity),
            pulumi.ResourceOptions(parent=self),
        )
        address = str(on.nomad_address)
        return Place(
            ipv4=pulumi.Output.from_input(str(on.ipv4)),
            api=found.api,
            target=found.target,
            files=found.target,
            admin=found.target,
            host_id=pulumi.Output.from_input(address),
            outputs=_way_in(found.api),
            escrow={"on": address},
        )

    def _own_host(self, name: str, args: PdsArgs, identity: StackIdentity) -> Place:
        settings, stack = args.settings, args.stack
        child = pulumi.ResourceOptions(parent=self)
        ground = Ground(f"{name}-ground", GroundArgs(settings=settings, stack=stack, identity=identity), child)
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
        api: dict[str, pulumi.Input[str]] = {
            "address": nomad.address,
            "ca_pem": certificates.ca_pem,
            "cert_pem": certificates.client_cert_pem,
            "key_pem": as_secret(certificates.client_key_pem),
            "token": nomad.token,
        }
        outputs = _way_in(api) | {"nomad_management_token": nomad.management_token}
        tokens = {PROGRAM_TOKEN: nomad.accessor_id}
        if settings.clubs:
            clubs = Clubs(
                f"{name}-clubs",
                ClubsArgs(
                    settings=settings,
                    admin=nomad.admin,
                    ipv4=ground.ipv4,
                    api=api,
                    management_token=nomad.management_token,
                ),
                child,
            )
            outputs |= {"clubs": clubs.offers, "club_access": clubs.access}
            tokens |= clubs.tokens
        return Place(
            ipv4=ground.ipv4,
            api=api,
            target=nomad.target,
            files=nomad.target,
            admin=nomad.admin,
            host_id=machine.droplet.id,
            configuration=configuration_hash(settings, stack),
            management_token=nomad.management_token,
            tokens=tokens,
            tag=ground.tag,
            outputs=outputs,
            escrow={
                "volume_id": ground.volume.id,
                "nomad_management_token": nomad.management_token,
                "nomad_ca_pem": certificates.ca_pem,
                "nomad_ca_key_pem": certificates.ca_key_pem,
            },
        )

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
            tell_of("Takedown and deletion", removals.state)
            after.append(removals)
        members: dict[str, Member] = {}
        for asked in settings.members:
            # A changed handle is the same member: the account's state has the previous name.
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
            tell_of(f"The account of {asked.handle}", member.account_state)
            tell_of(f"The handle {asked.handle}", member.handle_state)
            members[asked.handle] = member
        return members


def _identity(args: PdsArgs) -> dict[str, pulumi.Input[object]]:
    """Inputs of `StackIdentity`."""
    settings, on = args.settings, args.settings.on
    return {
        "stack": args.stack,
        "hostname": settings.hostname,
        "on": (on.stack or "") if on else "",
        "region": "" if on else settings.host.region,
        "volume": "" if on else volume_name(settings, args.stack),
        "volume_gib": 0 if on else settings.volume.size_gib,
        "adopt": settings.volume.adopt or "",
    }


def _clubs_of(args: PdsArgs, name: str) -> dict[str, pulumi.Input[object]]:
    """Inputs of the `HostInUse` with this name."""
    project = args.project.rpartition("/")[2]
    urn = f"urn:pulumi:{args.stack}::{project}::pulumi-python:dynamic/pds:HostInUse::{name}"
    return {"clubs": list(args.settings.clubs), "stack": args.stack, "urn": urn}


def _way_in(api: Mapping[str, pulumi.Input[str]]) -> dict[str, pulumi.Input[object]]:
    """Outputs for connections to Nomad, under the names that tools read."""
    found: dict[str, pulumi.Input[object]] = {
        "nomad_address": api["address"],
        "nomad_token": api["token"],
        "nomad_ca_pem": api["ca_pem"],
        "nomad_client_cert_pem": api["cert_pem"],
        "nomad_client_key_pem": api["key_pem"],
    }
    return found | ({"nomad_namespace": api["namespace"]} if "namespace" in api else {})


def _open(settings: Settings, resolves: Resolves) -> pulumi.Input[str]:
    """Whether to query the PDS over HTTPS: "1" or "0", "none" if the ingress is not ours, or "paused"."""
    if settings.pds.paused:
        return "paused"
    return resolves.open if settings.ingress.kind != "none" else "none"


def _digest(text: str) -> str:
    """Identifies a file's content; the resource itself and `build/STACK` have its text."""
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
