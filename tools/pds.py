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


def parsers() -> tuple[argparse.ArgumentParser, "argparse._SubParsersAction[Any]"]:
    """Return the parser of `./pds`, and those of its verbs."""
    parser = argparse.ArgumentParser(prog="./pds", description="An operator's commands beside `pulumi`.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=_Verb)

    verb = verbs.add_parser(
        "escrow", help="write one encrypted file with everything needed to rebuild the PDS elsewhere"
    )
    verb.add_argument("stack")
    verb.add_argument("--to", type=Path, default=Path.cwd(), metavar="FOLDER", help="target folder (default: this one)")
    verb.set_defaults(run=_escrow)

    verb = verbs.add_parser("escrow-check", help="decrypt an escrow file and check that it suffices")
    verb.add_argument("file", type=Path)
    verb.set_defaults(run=_escrow_check)

    verb = verbs.add_parser(
        "check",
        help="check the PDS after `up`: one line for each check, with the remedy",
        epilog="Exit code: 0 nothing to do, 1 something to do, 2 the check could not run.",
    )
    verb.add_argument("stack")
    verb.add_argument(
        "--mail", metavar="ADDRESS", help="let the server send a message to the account with this address"
    )
    verb.add_argument("--relay", action="store_true", help="also query the relays about this server")
    verb.add_argument("--source", metavar="ADDRESS", help="second address of this machine, to test the rate limit")
    verb.add_argument("--at", metavar="URL", help="address to check instead of the stack's: https://IP:PORT")
    verb.add_argument("--ca", metavar="FILE", help="certificate of the CA to trust, if not the system's")
    verb.set_defaults(run=_check)

    verb = verbs.add_parser(
        "orphans",
        help="list resources of the stack that are not in its state, with the command that adopts or deletes each",
        description=orphans.__doc__,
        epilog="Exit code: 0 nothing is left over or missing, 1 something is, 2 the check could not run.",
    )
    verb.add_argument("stack")
    verb.add_argument("--json", action="store_true", help="print JSON")
    verb.set_defaults(run=_orphans)

    verb = verbs.add_parser(
        "rescue",
        help="repair the stack after a lost droplet, an emptied Nomad, or a killed engine",
        description=rescue.__doc__,
        epilog="Exit code: 0 all is well, 1 something is left to do, 2 the check could not run.",
    )
    verb.add_argument("stack")
    verb.add_argument("--yes", action="store_true", help="passed on to `pulumi up`, which prompts otherwise")
    verb.set_defaults(run=_rescue)

    verb = verbs.add_parser("members", help="list every account on the PDS, with the way its handle resolves")
    verb.add_argument("stack")
    verb.add_argument("--relay", action="store_true", help="also query the relays about each account")
    verb.add_argument("--adopt", action="store_true", help="write accounts that are missing in the stack file into it")
    verb.set_defaults(run=_members)

    verb = verbs.add_parser("password", help="set a new password for an account, and print it")
    verb.add_argument("stack")
    verb.add_argument("handle")
    verb.set_defaults(run=_password)

    verb = verbs.add_parser("token", help="show the tokens that a PDS without mail would have mailed to a member")
    verb.add_argument("stack")
    verb.add_argument("handle")
    verb.set_defaults(run=_token)

    verb = verbs.add_parser(
        "gate",
        help="check a change before `up`: one line for each finding",
        description=gate.__doc__,
        epilog="Exit code: 0 the gate is open, 1 it is shut, 2 the check could not run.",
    )
    verb.add_argument("stack")
    verb.add_argument(
        "--preview", type=Path, metavar="FILE", help="file with an earlier preview; '-' for standard input"
    )
    verb.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="NAMES",
        help="names of resources that may be replaced or deleted",
    )
    verb.set_defaults(run=_gate)

    verb = verbs.add_parser(
        "let-in",
        help="open the stack's Nomad to this machine while a command runs",
        usage="./pds let-in STACK [--address IP] [--label NAME] [--close | -- COMMAND…]",
        description=let_in.__doc__,
        epilog="Exit code: the command's; 2 if the firewall could not be opened, or may still be open.",
    )
    verb.add_argument("stack")
    verb.add_argument("--close", action="store_true", help="close a firewall that was opened without a command")
    verb.add_argument(
        "--address",
        type=ipaddress.IPv4Address,
        metavar="IP",
        help=f"address to open; default: the one that {let_in.WHO_AM_I} returns",
    )
    verb.add_argument("--label", metavar="NAME", help="label of this run (default: this machine's name)")
    verb.set_defaults(run=_let_in)

    verb = verbs.add_parser("verify", help="check every file of a snapshot in a folder")
    verb.add_argument("folder", type=Path)
    verb.add_argument("--plc", default="https://plc.directory", metavar="URL", help="URL of the PLC directory")
    verb.set_defaults(run=_verify)

    _restore_verb(verbs.add_parser("restore", help="restore a backup", description=restore.__doc__))

    verb = verbs.add_parser("backup", help="make a backup now, and send it")
    verb.add_argument("stack")
    verb.set_defaults(run=lambda options: restore.now(Stack(options.stack), BACKUP))

    verb = verbs.add_parser("drill", help="fetch the newest backup on the host, check it, and start a server on it")
    verb.add_argument("stack")
    verb.set_defaults(run=lambda options: restore.now(Stack(options.stack), DRILL))

    verb = verbs.add_parser(
        "upgrade",
        help="upgrade the server after a trial on the host: one stack, or all after a canary",
        description=upgrade.__doc__,
        epilog="Exit code: 0 upgraded, 1 not upgraded, 2 it could not start.",
    )
    verb.add_argument("stacks", nargs="*", metavar="STACK", help="only these stacks (default: all)")
    verb.add_argument("--to", required=True, metavar="TAG", help="tag of the same image, or another image")
    verb.add_argument("--package", metavar="VERSION", help="version of @atproto/pds in it, if the tag does not name it")
    verb.add_argument("--yes", action="store_true", help="passed on to `pulumi up`, which prompts otherwise")
    verb.add_argument("--canary", metavar="STACK", help="stack to upgrade first (default: one on the smallest host)")
    verb.add_argument("--without", nargs="+", default=(), metavar="DID", help="accounts that need not be restorable "
                      "from the backup")  # fmt: skip
    verb.set_defaults(run=_upgrade)

    verb = verbs.add_parser(
        "move-in",
        help="move a PDS of upstream's installer into a stack",
        description=move_in.__doc__,
    )
    verb.add_argument("stack")
    verb.add_argument("--env", type=Path, required=True, metavar="FILE", help="a copy of its /pds/pds.env")
    verb.set_defaults(run=lambda options: move_in.move_in(Stack(options.stack), options.env))

    clubs.add(verbs)
    return parser, verbs


def main(arguments: list[str] | None = None) -> int:
    """Run a verb; return the exit code."""
    parser, _ = parsers()
    wanted = sys.argv[1:] if arguments is None else arguments
    # argparse would add the arguments after "--" to any open positional argument.
    at = wanted.index("--") if "--" in wanted else len(wanted)
    options = parser.parse_args(wanted[:at])
    options.command = wanted[at + 1 :]
    if options.command and (options.run is not _let_in or options.close):
        parser.error("only `let-in` runs a command, and not with `--close`")
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
    verb.epilog = "Exit code: 0 restored, 1 not restored, 2 it could not start. It can always be run again."
    verb.add_argument("stack", help="stack of the backups")
    verb.add_argument("--snapshot", default="", metavar="ID", help="id from --list, 'volume' for the last one "
                      "on the volume itself (default: the newest in the bucket)")  # fmt: skip
    verb.add_argument("--only", default="", metavar="DID", help="restore only this account, from the newest backup "
                      "in which it is whole, or from --snapshot")  # fmt: skip
    verb.add_argument("--without", nargs="+", default=(), metavar="DID", help="accounts to leave out")
    verb.add_argument("--to", metavar="STACK", help="target stack, with the same hostname")
    verb.add_argument("--sequence", type=int, default=0, metavar="N", help="a number above every event of this PDS, "
                      "if no relay answers")  # fmt: skip
    verb.add_argument("--bring-back", nargs="+", default=(), metavar="DID", help="accounts to restore although they "
                      "were deleted or taken down since")  # fmt: skip
    verb.add_argument("--yes", action="store_true", help="passed on to `pulumi up`, which prompts otherwise")
    verb.add_argument("--list", action="store_true", help="only list the snapshots in the bucket")
    verb.add_argument("--forget-old", action="store_true", help="only remove the data from before restores; "
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
    print(f"The password of {options.handle} is now\n  {password}\nThe member has to log in again and can change it.")


def _token(options: argparse.Namespace) -> None:
    found = mailed.tokens(options.stack, people.server_of(options.stack), options.handle)
    if not found:
        print(f"{options.handle} has requested none. A token is created when the member requests a message in the app.")
    for one in found:
        print(f"{one.token}  {mailed.PURPOSES.get(one.purpose, one.purpose)}; requested at {one.requested_at}")
    if found:
        print("Each is valid for 15 minutes after the request.")


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
