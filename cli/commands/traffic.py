"""`./pds traffic`."""

import click

from cli.lib.stack import Stack
from cli.registry import Topic, command, stack_argument


@command("traffic", Topic.OBSERVE)
@stack_argument()
@click.option("--method", "methods", multiple=True, metavar="NAME", help="Show only this method; can be repeated.")
@click.option("--path", default="", metavar="TEXT", help="Show only paths that begin with it, or contain what follows "
              "a leading '*'.")  # fmt: skip
@click.option("--status", "statuses", multiple=True, metavar="CODE", help="Show only this status, such as 404 or 5xx; "
              "can be repeated.")  # fmt: skip
@click.option("--client", default="", metavar="IP", help="Show only this address or range.")
@click.option("--host", default="", metavar="HOSTNAME", help="Show only this hostname; with a leading dot, those "
              "below it.")  # fmt: skip
@click.option("-n", "--lines", type=click.IntRange(0), default=20, metavar="N", help="Earlier entries to read "
              "(default: 20).")  # fmt: skip
@click.option("--no-follow", is_flag=True, help="End after the earlier entries.")
@click.option("--user", default="", metavar="NAME", help="User of IO's console.")
@click.option("--allow-ip", is_flag=True, help="Open IO's console to this machine while it is used.")
def traffic(
    stack: str,
    methods: tuple[str, ...],
    path: str,
    statuses: tuple[str, ...],
    client: str,
    host: str,
    lines: int,
    no_follow: bool,
    user: str,
    allow_ip: bool,
) -> int:
    """Show the requests to the stack's ingress as they come.

    With Caddy a line has time, method, status, duration, bytes, client, hostname and path of a request, from its access
    log. `ingress.access_log` decides what that log holds. With IO this opens IO's console by ssh; it has its own
    filters.
    """
    from cli.observe import ssh
    from cli.observe import traffic as requests
    from cli.observe.access_log import RequestFilter

    settings = requests.ingress_settings(Stack(stack))
    if settings.ingress.kind == "io":
        return ssh.connect(ssh.console_endpoint(Stack(stack), user), (), allow_ip=allow_ip)
    try:
        wanted = RequestFilter(tuple(name.upper() for name in methods), path, statuses, client, host.lower())
    except ValueError as error:
        raise click.BadParameter(f"{error}.", param_hint="--client") from None
    requests.show(Stack(stack), wanted, lines, keep_following=not no_follow)
    return 0
