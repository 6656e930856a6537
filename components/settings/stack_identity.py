"""Values that must stay the same for a stack's life: hostname, location of the volume, and the volume's name; and two
that only commands change: the place of the PDS (`./pds move`, `adopt`, `release`) and the location of the blobs
(`./pds blobs`).

Pure functions over two sets of values: the state's, and the stack file's. The dynamic resource `StackIdentity` compares
them at each preview, before the engine examines anything else: the engine's own advice for a volume in another region
is to remove its protection.
"""

from collections.abc import Mapping
from typing import Any

from components.settings.sections.host import NomadOptions
from components.settings.sections.settings import Settings

RESOURCE = "pds-identity"
"""The name of `StackIdentity` in every state."""

FORGET = "PDS_FORGET_HOSTNAME"
"""Variable of the operator's shell that names a hostname under which no server ever ran."""

BLOBS_MOVED = "PDS_BLOBS_MOVED"
"""Variable of the shell in which `pulumi up` runs, set by an operator who copied blobs to or from a bucket of their
own: the location to which all blobs were moved. The volume has no record of it, so that `up` tells the volume check,
too."""

BLOBS_COPIED = "PDS_BLOBS_COPIED"
"""The same, set by `./pds blobs`, which has recorded the location on the volume. So no resource has it, and the next
preview is empty."""

MOVED_TO = "PDS_MOVED_TO"
"""Variable of the shell in which `pulumi up` runs: the place that the PDS may have from now on (`place`). `./pds move`,
`adopt` and `release` set it."""

OWN_DROPLET, EXISTING_NOMAD = "own droplet", "existing Nomad"
"""Places that are no stack's host. No stack has a name with a space."""

NOT_TOUCHED = "Nothing was changed."


def place(settings: Settings) -> str:
    """Where the PDS of these settings runs: STACK is another stack's host, STACK/HOST a host of a cluster, which is a
    datacenter of its Nomad. Empty for a cluster, which has no PDS."""
    if settings.cluster:
        return ""
    if settings.on is None:
        return OWN_DROPLET
    if settings.on.stack is None:
        return EXISTING_NOMAD
    datacenter = settings.nomad.datacenter
    is_named = datacenter != NomadOptions.model_fields["datacenter"].default
    return f"{settings.on.stack}/{datacenter}" if is_named else settings.on.stack


def described(known: str) -> str:
    """A place as a sentence names it."""
    if known in (OWN_DROPLET, EXISTING_NOMAD):
        return {OWN_DROPLET: "its own droplet", EXISTING_NOMAD: "an existing Nomad"}[known]
    stack, _, host = known.partition("/")
    return f"host {host} of {stack}" if host else f"the host of {stack}"


def fault(known: Mapping[str, Any], wanted: Mapping[str, Any]) -> str | None:
    """Why `wanted` cannot follow `known`, in a sentence with a remedy; None if it can.

    Both hold the inputs of `StackIdentity`: `stack`, `hostname`, `on` (the stack whose host it shares), `place`, and
    `region`, `volume` (its name), `volume_gib`, `adopt` (a volume's ID), which are empty for a stack without its own
    host, and `blobs`, their location (`pds_env.blob_location`).
    """
    stack, file = wanted["stack"], f"Pulumi.{wanted['stack']}.yaml"
    if known["hostname"] != wanted["hostname"]:
        was, now = known["hostname"], wanted["hostname"]
        return (
            f"pds:hostname: this stack is the PDS of {was}, and {file} has {now}. A hostname is permanent: every "
            f"identity on the server contains it. {NOT_TOUCHED} Write 'hostname: {was}' back; a PDS of another name is "
            f"another stack. Only if no server ever ran as {was}: `{FORGET}={was} pulumi up --stack {stack}`."
        )
    if known["stack"] != stack and wanted["on"]:
        return (
            f"(stack name): this club was called {known['stack']}, by which its host {wanted['on']} knows its "
            f"namespace and its volume. {NOT_TOUCHED} `pulumi stack rename {known['stack']}` brings the name back. A "
            "club under another name is another stack, with a backup restored onto it "
            "(docs/guide/hosts.md#permanent-properties)."
        )
    if known.get("place", wanted["place"]) != wanted["place"]:
        return _place_fault(known["place"], wanted["place"], stack, file)
    if _differ(known, wanted, "region"):
        return (
            f"pds:host.region: the volume and the address of this stack are in {known['region']}, and {file} has "
            f"{wanted['region']}. Neither can move. {NOT_TOUCHED} Write 'region: {known['region']}' back, and leave "
            "the protection of both as it is: without it an empty volume would replace the members' data. Another "
            "region needs another stack, with a backup restored onto it "
            "(docs/guide/hosts.md#permanent-properties)."
        )
    if blobs := _blobs_fault(known.get("blobs", wanted["blobs"]), wanted["blobs"], stack, file):
        return blobs
    if wanted["adopt"] and wanted["adopt"] != known["adopt"]:
        return None  # another volume, on purpose: the engine imports it unchanged
    return _volume_fault(known, wanted, file)


def _place_fault(known: str, wanted: str, stack: str, file: str) -> str:
    """Why the server must not start there: it would have the data of an earlier stay, or none.

    Neither file nor state tells a host of a cluster from a host of its own whose datacenter has a name.
    """
    (was, _, host), (now, _, there) = known.partition("/"), wanted.partition("/")
    both_shared = not {known, wanted} & {OWN_DROPLET, EXISTING_NOMAD}
    renamed = "that stack was renamed"
    if both_shared and was == now:
        renamed = f"{now} is not a cluster and only its datacenter got another name"
        key = "nomad.datacenter"
        back = f"Write 'datacenter: {host}' back" if host else "Remove 'datacenter'"
    else:
        key, back = "on", f"Write 'on: {was}' back" if both_shared else "Restore the options that it had"
    restored = "a backup and a restore (docs/guide/clubs.md#moving-a-club-to-another-host)"
    if both_shared and was == now:
        command = f"`./pds move {stack} --to {now} --host {there or 'HOST'}` if {now} is a cluster"
    elif both_shared:
        command = f"`./pds move {stack} --to {now}`"
    elif known == OWN_DROPLET and there:
        command = f"`./pds adopt {now} {there} --from {stack}` if {now} is a cluster, else by {restored}"
    elif wanted == OWN_DROPLET and host:
        command = f"`./pds release {was} {host} --to {stack}` if {was} is a cluster, else by {restored}"
    else:
        command = restored
    return (
        f"pds:{key}: the PDS of {stack} is on {described(known)}, and {file} places it on {described(wanted)}. A "
        f"server there would publish old data, or none, under the same name. {NOT_TOUCHED} If the file is of an older "
        f"checkout, run `git pull`. {back} if it was edited, and move the PDS with its data by {command}. Only if "
        f"no server runs at the old place and its data are at the new one, or if {renamed}: "
        f"`{MOVED_TO}='{wanted}' pulumi up --stack {stack}`."
    )


def _volume_fault(known: Mapping[str, Any], wanted: Mapping[str, Any], file: str) -> str | None:
    if _differ(known, wanted, "volume"):
        renamed = (
            f"This stack was called {known['stack']}: to keep its new name, write 'name: "
            f"{known['volume']}' into 'pds:volume' of {file}; to go back, `pulumi stack rename {known['stack']}`."
            if known["stack"] != wanted["stack"]
            else f"Write 'name: {known['volume']}' into 'pds:volume' of {file}."
        )
        return (
            f"pds:volume.name: the volume with the members' data is called {known['volume']}, and the program would "
            f"make another one, {wanted['volume']}. {NOT_TOUCHED} {renamed} Leave its protection as it is."
        )
    if wanted["volume_gib"] and known["volume_gib"] > wanted["volume_gib"]:
        has = int(known["volume_gib"])
        return (
            f"pds:volume.size_gib: the volume has {has} GiB, and {file} has {int(wanted['volume_gib'])}. A volume can "
            f"grow, never shrink. {NOT_TOUCHED} Write 'size_gib: {has}'."
        )
    return None


def _blobs_fault(known: str, wanted: str, stack: str, file: str) -> str | None:
    """Why the server must not look for blobs elsewhere yet. Those in a bucket of one's own ('s3') are not moved."""
    if known == wanted:
        return None
    if "s3" in {known.partition(" ")[0], wanted.partition(" ")[0]}:
        return (
            f"pds:blobs: the location of the blobs is '{known}', and {file} has '{wanted}', where the server would not "
            f"find them. The program moves blobs only between the volume and the bucket that it makes. {NOT_TOUCHED} "
            f"Write 's3' or 'blobs' back as it was. Only if every blob is there already, and for the `up` that starts "
            f"the server: `{BLOBS_MOVED}='{wanted}' pulumi up --stack {stack}`."
        )
    if known == "disk":
        return (
            f"pds:blobs: the blobs of this PDS are on its volume, and {file} names the {wanted}, which lacks them. "
            f"{NOT_TOUCHED} `./pds blobs {stack} --to bucket` copies them, then starts the server there."
        )
    name, _, region = known.removeprefix("bucket ").partition(" in ")
    if wanted == "disk":
        return (
            f"pds:blobs: the blobs of this PDS are in the {known}, and {file} puts them on the volume. "
            f"{NOT_TOUCHED} Keep 'bucket: {name}', and run `./pds blobs {stack} --to disk`. It copies them "
            "back, then starts the server there."
        )
    return (
        f"pds:blobs: the blobs of this PDS are in the {known}, and {file} names the {wanted}. A bucket keeps its name "
        f"and its region. {NOT_TOUCHED} Write 'bucket: {name}' and 'region: {region}' back. For another bucket see "
        "docs/guide/blobs.md#another-bucket."
    )


def _differ(known: Mapping[str, Any], wanted: Mapping[str, Any], name: str) -> bool:
    """Whether both have the value and they differ: a stack may give up its own host."""
    return bool(known[name] and wanted[name] and known[name] != wanted[name])
