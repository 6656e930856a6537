"""`./pds VERB STACK`: an operator's commands beside `pulumi`. One verb, one function."""

import argparse
import ipaddress
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console

from components import accounts
from components.probes import ProbeError
from components.render.backup_job import JOB as BACKUP
from components.render.drill_job import JOB as DRILL
from tools import adopt, escrow, let_in, mailed, move_in, orphans, people, rescue, restore, upgrade
from tools.account import Account, AccountError
from tools.check.run import check, subject_of
from tools.clubs import verbs as clubs
from tools.clubs.new import ClubError
from tools.firewall import tag_of
from tools.gate import gate
from tools.gate.changes import names
from tools.gate.digest import DigestError
from tools.let_in import LetInError
from tools.stack import Stack, StackError, digitalocean_token
from tools.stackfile import StackFileError, read_settings
from tools.verify import LOSSES, NOT, WHOLE, from_plc, verify


class _Verb(argparse.ArgumentParser):
    """Its description is a module's own docstring, with lines and paragraphs unchanged."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, formatter_class=argparse.RawDescriptionHelpFormatter)


def main(arguments: list[str] | None = None) -> int:
    """Run a verb; return the exit code."""
    parser = argparse.ArgumentParser(prog="./pds", description="What an owner does beside `pulumi`.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=_Verb)

    verb = verbs.add_parser("escrow", help="write one encrypted file with all that rebuilds the PDS elsewhere")
    verb.add_argument("stack")
    verb.add_argument("--to", type=Path, default=Path.cwd(), metavar="FOLDER", help="where to write it (here)")
    verb.set_defaults(run=_escrow)

    verb = verbs.add_parser("escrow-check", help="open an escrow file and say whether it suffices")
    verb.add_argument("file", type=Path)
    verb.set_defaults(run=_escrow_check)

    verb = verbs.add_parser(
        "check",
        help="after `up`: is everything as it should be? One line each, or what to do",
        epilog="Exit code: 0 nothing to do, 1 something is, 2 it could not look.",
    )
    verb.add_argument("stack")
    verb.add_argument("--mail", metavar="ADDRESS", help="send a message to the account here that has this address")
    verb.add_argument("--relay", action="store_true", help="ask the relays, too, what they know of this server")
    verb.add_argument("--source", metavar="ADDRESS", help="another address of this machine, to be told apart from")
    verb.add_argument("--at", metavar="URL", help="where to ask, if not at the stack's address: https://IP:PORT")
    verb.add_argument("--ca", metavar="FILE", help="certificate of the CA to trust, if not the system's")
    verb.set_defaults(run=_check)

    verb = verbs.add_parser(
        "orphans",
        help="list what the account holds of the stack beyond its state, with what adopts or deletes it",
        description=orphans.__doc__,
        epilog="Exit code: 0 nothing is left over or missing, 1 something is, 2 it could not look.",
    )
    verb.add_argument("stack")
    verb.add_argument("--json", action="store_true", help="the same for programs")
    verb.set_defaults(run=_orphans)

    verb = verbs.add_parser(
        "rescue",
        help="the way back from a lost droplet, an emptied Nomad, or an engine that was killed",
        description=rescue.__doc__,
        epilog="Exit code: 0 all is well, 1 something is left to do, 2 it could not look.",
    )
    verb.add_argument("stack")
    verb.add_argument("--yes", action="store_true", help="handed on to `pulumi up`, which asks otherwise")
    verb.set_defaults(run=_rescue)

    verb = verbs.add_parser("members", help="every account on the PDS: how its handle resolves, and more")
    verb.add_argument("stack")
    verb.add_argument("--relay", action="store_true", help="ask the relays, too, whether they see each account")
    verb.add_argument("--adopt", action="store_true", help="write those that the stack file lacks into it")
    verb.set_defaults(run=_members)

    verb = verbs.add_parser("password", help="set a new password for an account, and print it")
    verb.add_argument("stack")
    verb.add_argument("handle")
    verb.set_defaults(run=_password)

    verb = verbs.add_parser("token", help="show what the PDS would have mailed to a member, where there is no mail")
    verb.add_argument("stack")
    verb.add_argument("handle")
    verb.set_defaults(run=_token)

    verb = verbs.add_parser(
        "gate",
        help="before `up`: does the change keep what must be kept? Findings, one line each",
        description=gate.__doc__,
        epilog="Exit code: 0 the gate is open, 1 it is shut, 2 it could not look.",
    )
    verb.add_argument("stack")
    verb.add_argument("--preview", type=Path, metavar="FILE", help="a preview made before; '-' for standard input")
    verb.add_argument("--allow", action="append", default=[], metavar="NAMES", help="resources that may go")
    verb.set_defaults(run=_gate)

    verb = verbs.add_parser(
        "let-in",
        help="open the way to the stack's Nomad for this machine, while a command runs",
        usage="./pds let-in STACK [--address IP] [--label NAME] [--close | -- COMMAND…]",
        description=let_in.__doc__,
        epilog="Exit code: the command's; 2 where the door could not be opened, or may still be open.",
    )
    verb.add_argument("stack")
    verb.add_argument("--close", action="store_true", help="close what was opened without a command")
    verb.add_argument("--address", type=ipaddress.IPv4Address, metavar="IP", help=f"not what {let_in.WHO_AM_I} says")
    verb.add_argument("--label", metavar="NAME", help="what tells this run from others (this machine's name)")
    verb.set_defaults(run=_let_in)

    verb = verbs.add_parser("verify", help="check every file of a snapshot that was fetched to a folder")
    verb.add_argument("folder", type=Path)
    verb.add_argument("--plc", default="https://plc.directory", metavar="URL", help="directory of identities to ask")
    verb.set_defaults(run=_verify)

    _restore_verb(verbs.add_parser("restore", help="put a backup back", description=restore.__doc__))

    verb = verbs.add_parser("backup", help="make a backup now, and send it")
    verb.add_argument("stack")
    verb.set_defaults(run=lambda options: restore.now(Stack(options.stack), BACKUP))

    verb = verbs.add_parser("drill", help="fetch the newest backup on the host, look at it, and start a server on it")
    verb.add_argument("stack")
    verb.set_defaults(run=lambda options: restore.now(Stack(options.stack), DRILL))

    verb = verbs.add_parser(
        "upgrade",
        help="another version of the server, tried on the host first; of one stack, or of all behind a canary",
        description=upgrade.__doc__,
        epilog="Exit code: 0 upgraded, 1 not, 2 it could not begin.",
    )
    verb.add_argument("stacks", nargs="*", metavar="STACK", help="these alone; every one where none is named")
    verb.add_argument("--to", required=True, metavar="TAG", help="tag of the same image, or another image")
    verb.add_argument("--package", metavar="VERSION", help="version of @atproto/pds in it, where the tag does not say")
    verb.add_argument("--yes", action="store_true", help="handed on to `pulumi up`, which asks otherwise")
    verb.add_argument("--canary", metavar="STACK", help="which of several goes first; else one of the smallest host")
    verb.add_argument("--without", nargs="+", default=(), metavar="DID", help="go on although these accounts could not "
                      "be restored")  # fmt: skip
    verb.set_defaults(run=_upgrade)

    verb = verbs.add_parser(
        "move-in",
        help="take a PDS of upstream's installer over into a stack",
        description=move_in.__doc__,
    )
    verb.add_argument("stack")
    verb.add_argument("--env", type=Path, required=True, metavar="FILE", help="a copy of its /pds/pds.env")
    verb.set_defaults(run=lambda options: move_in.move_in(Stack(options.stack), options.env))

    clubs.add(verbs)

    wanted = sys.argv[1:] if arguments is None else arguments
    # argparse hands what follows "--" to any positional argument that has room.
    at = wanted.index("--") if "--" in wanted else len(wanted)
    options = parser.parse_args(wanted[:at])
    options.command = wanted[at + 1 :]
    if options.command and (options.run is not _let_in or options.close):
        parser.error("nothing is run but by `let-in`, and that not with `--close`")
    try:
        return int(options.run(options) or 0)
    except (escrow.EscrowError, ProbeError, people.UnknownMemberError) as error:
        print(error, file=sys.stderr)
        return 1
    except (StackError, StackFileError, AccountError, ClubError, DigestError, LetInError) as error:
        print(error, file=sys.stderr)
        return 2


def _upgrade(options: argparse.Namespace) -> int:
    if len(options.stacks) == 1:
        without = tuple(map(_did, options.without))
        return upgrade.upgrade(Stack(options.stacks[0]), options.to, options.package, yes=options.yes, without=without)
    return clubs.upgrade(options)


def _restore_verb(verb: argparse.ArgumentParser) -> None:
    verb.epilog = "Exit code: 0 restored, 1 not, 2 it could not begin. Whatever it was, it can be run again."
    verb.add_argument("stack", help="whose backups")
    verb.add_argument("--snapshot", default="", metavar="ID", help="which one: see --list; 'volume' for the last one "
                      "on the volume itself; the newest in the bucket where left out")  # fmt: skip
    verb.add_argument("--only", default="", metavar="DID", help="bring back this account alone, from the newest backup "
                      "in which it is whole, or from --snapshot; all others stay as they are")  # fmt: skip
    verb.add_argument("--without", nargs="+", default=(), metavar="DID", help="leave these accounts out")
    verb.add_argument("--to", metavar="STACK", help="another stack with the same hostname, to restore onto")
    verb.add_argument("--sequence", type=int, default=0, metavar="N", help="a number above every event of this PDS, "
                      "where no relay can be asked")  # fmt: skip
    verb.add_argument("--bring-back", nargs="+", default=(), metavar="DID", help="accounts that were deleted or taken "
                      "down since, and shall not be")  # fmt: skip
    verb.add_argument("--yes", action="store_true", help="handed on to `pulumi up`, which asks otherwise")
    verb.add_argument("--list", action="store_true", help="list the snapshots in the bucket, and no more")
    verb.add_argument("--forget-old", action="store_true", help="remove the data from before restores, and no more; "
                      "refused while they hold the last copy of a signing key")  # fmt: skip
    verb.set_defaults(run=_restore)


def _restore(options: argparse.Namespace) -> int:
    source = Stack(options.stack)
    if options.list:
        return restore.show(source)
    if options.forget_old:
        return restore.forget_old(source)
    wish = restore.Wish(
        snapshot=options.snapshot,
        only=_did(options.only),
        without=tuple(map(_did, options.without)),
        sequence=options.sequence,
        bring_back=tuple(map(_did, options.bring_back)),
        source=source,
        yes=options.yes,
    )
    return restore.restore(Stack(options.to or options.stack), wish)


def _did(text: str) -> str:
    if text and not text.startswith("did:"):
        raise StackError(f"{text} is no DID. `./pds members STACK` shows the DID of every handle.")
    return text


def _escrow(options: argparse.Namespace) -> None:
    path = escrow.write(options.stack, options.to)
    print(
        f"Wrote {path}.\nPut it, and its passphrase, where neither this machine nor DigitalOcean is. Check it with\n"
        f"  ./pds escrow-check {path.name}\nthen set 'pds: {{escrow: made}}' in Pulumi.{options.stack}.yaml."
    )


def _escrow_check(options: argparse.Namespace) -> None:
    content = escrow.read(options.file)
    print(
        f"{options.file} opens and is complete.\n"
        f"  PDS      {content['hostname']} (stack {content['stack']}, server {content['package_version']})\n"
        f"  written  {content['written']}\n"
        f"  holds    rotation key, {len(content['secrets'])} secrets in all, the stack file, {_host_of(content)}\n"
        "It does not hold the members' data: that is on the volume and in its backups, "
        + ("whose address and password are in it." if content.get("backup") else "of which this stack makes none.")
    )


def _host_of(content: Mapping[str, Any]) -> str:
    if on := content.get("on"):
        return f"and not its host, which is that of\n           {on}; address {content['ipv4']}"
    return f"the Nomad CA and\n           management token; address {content['ipv4']}, volume {content['volume_id']}"


def _check(options: argparse.Namespace) -> int:
    subject = subject_of(
        Stack(options.stack), options.at, options.ca, options.source, mail=options.mail, relay=options.relay
    )
    found = []
    for result in check(subject):
        print(result, flush=True)
        found.append(result.ok)
    print(f"\n{found.count(True)} ok, {found.count(False)} to do, {found.count(None)} not looked at.")
    return 1 if False in found else 0


def _orphans(options: argparse.Namespace) -> int:
    stack = Stack(options.stack)
    with Account(digitalocean_token(stack)) as account:
        report = orphans.look(stack, account)
    print(report.json() if options.json else orphans.text(stack.name, report))
    return 1 if report.orphans or report.missing or report.holes else 0


def _rescue(options: argparse.Namespace) -> int:
    stack = Stack(options.stack)
    with Account(digitalocean_token(stack)) as account:
        return rescue.rescue(stack, account, yes=options.yes)


def _members(options: argparse.Namespace) -> None:
    server = people.server_of(options.stack)
    listed = Stack(options.stack).outputs().get("members", {})
    if options.adopt:
        _adopt(options.stack, server, listed)
        return
    relays = people.relays_of(options.stack) if options.relay else None
    print(people.table(people.rows(server, listed, relays, read_settings(options.stack))))


def _adopt(stack: str, server: accounts.Server, listed: Mapping[str, Any]) -> None:
    adoption = adopt.adopt(stack, accounts.hosted(server), listed)
    for line in adoption.left:
        print(f"Not adopted: {line}")
    if not adoption.added:
        print(f"Nothing to write: {adoption.path.name} names every other account.")
        return
    print(adoption.diff("adopted"))
    adoption.write()
    print(f"Wrote {adoption.path.name}. The next `pulumi up` makes the DNS records; nothing about an account changes.")


def _password(options: argparse.Namespace) -> None:
    password = people.new_password(people.server_of(options.stack), options.handle)
    print(f"The password of {options.handle} is now\n  {password}\nShe has to log in again, and can change it then.")


def _token(options: argparse.Namespace) -> None:
    found = mailed.tokens(options.stack, people.server_of(options.stack), options.handle)
    if not found:
        print(f"{options.handle} has asked for none. A token is made when she asks for a message in the app.")
    for one in found:
        print(f"{one.token}  {mailed.PURPOSES.get(one.purpose, one.purpose)}; asked for at {one.requested_at}")
    if found:
        print("Each is good for 15 minutes after it was asked for.")


def _gate(options: argparse.Namespace) -> int:
    console = Console(soft_wrap=True, highlight=False, emoji=False)
    return gate.judge(Stack(options.stack), options.preview, names(options.allow), console)


def _let_in(options: argparse.Namespace) -> int:
    on = read_settings(options.stack).on
    if on and not on.stack:
        raise LetInError(f"The Nomad at {on.nomad_address} is not this program's: its owner opens the way to it.")
    with Account(digitalocean_token(Stack(options.stack))) as account:
        # A club reaches Nomad through its host.
        host = on.stack if on and on.stack else options.stack
        doors = let_in.Doors(account, host, options.label, tag=_tag_of(host), alone=bool(options.command))
        if options.close:
            let_in.close(doors)
            return 0
        return let_in.let_in(doors, str(options.address or let_in.own_address()), options.command)


def _tag_of(stack: str) -> str:
    """Return the tag of the stack's droplet; before the first `up` its future tag."""
    with suppress(StackError):
        return tag_of(stack, Stack(stack).state())
    return ""


def _verify(options: argparse.Namespace) -> int:
    with httpx.Client(timeout=30.0) as client:
        report = verify(options.folder, from_plc(options.plc, client))
    for note in report.notes:
        print(f"note: {note}")
    for problem in report.problems:
        print(problem, file=sys.stderr)
    if report.refusals:
        print(f"{options.folder}: nothing of it can be restored.", file=sys.stderr)
        return 1
    states = [verdict.state for verdict in report.accounts.values()]
    counts, manifest = report.manifest["counts"], report.manifest
    print(
        f"{options.folder} can be restored"
        + ("" if set(states) <= {WHOLE} else f", but for what is said above: {', '.join(_counted(states))}")
        + f".\n  PDS      {manifest['hostname']}, server {manifest['package_version']}\n"
        f"  as of    {manifest['started']}: whatever was acknowledged before is in it\n"
        f"  holds    {counts['accounts']} accounts, {counts['blobs']} blobs"
    )
    return 0 if set(states) <= {WHOLE} else 1


def _counted(states: list[str]) -> list[str]:
    return [f"{count} {state}" for state in (WHOLE, LOSSES, NOT) if (count := states.count(state))]


if __name__ == "__main__":
    sys.exit(main())
