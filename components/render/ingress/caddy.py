"""Caddy in front of the PDS: this stack's Caddyfile, and the Nomad job that runs Caddy with every stack's file.

The hostname gets an ordinary certificate. A handle's certificate is ordered at its first request, and only if the PDS
knows the handle. A handle host serves only the proof of identity: any other page of the PDS, including sign-in, would
be a page under a member's name. Supports Caddy 2.6.2, which Debian packages and the tests run, and 2.11, which the job
runs. Directives: caddyserver.com/docs/caddyfile.
"""

import re
from textwrap import indent

from components.render.ingress.job import ingress_job
from components.render.jobspec import ChangeScript, DockerConfig, Logs, Port, Resources, Task, Template, VolumeMount
from components.render.nomad_job import NomadJob
from components.render.scripts import scripts
from components.settings.fields.job_demand import INGRESS_MHZ
from components.settings.sections import CADDY_ASK_PORT
from components.settings.sections.settings import Settings

JOB = "caddy"

USER = "1001:1001"
"""The account `caddy` of `files/setup.sh`. Not root: in the host's network root reaches other programs' sockets."""

_UPSTREAMS_IMAGE = re.compile(r"(^|/)bluesky-social/pds[:@]")
"""An image whose entry point serves `/tls-check`: service/index.js of bluesky-social/pds to 0.4.219, then index.ts."""

_IMPORT = "/xrpc/com.atproto.repo.importRepo"
_SCRIPT = "/local/caddy.sh"
_PARTS = f"""\
{{{{ range $file := nomadVarList "{JOB}/files" }}}}{{{{ with nomadVar $file.Path }}}}{{{{ range .Tuples }}}}\
{{{{ $file.Path }}}} {{{{ .K }}}} {{{{ .V | base64Encode }}}}
{{{{ end }}}}{{{{ end }}}}{{{{ end }}}}"""
"""A line for each item of each stack's file, in base64, so that no text can pass for a line of another stack."""

ACCESS_LOG_STREAM = "stdout"
"""The task's output with one JSON object a request; Caddy's own messages go to the other one."""

_TAB = "\t"
_ON_DEMAND = "tls {\n\ton_demand\n}\n"
_RESULTS = """\
# What became of a text of this stack, for a client that knows its SHA-256: `up` does.
handle_path /.well-known/pds-ingress/* {
	root * /local/results
	file_server
}
"""

_ERRORS = """\
# Apps are pages of other origins. A browser lets them read Caddy's errors too, such as 413, not only the server's.
handle_errors {
	header Access-Control-Allow-Origin *
}
"""


def caddyfile(settings: Settings, *, plain: bool = False) -> str:
    """This stack's part of the Caddyfile. `plain` omits the operator's own texts."""
    backend = f"127.0.0.1:{settings.pds.port}"
    domains = settings.service_handle_domains or (f".{settings.hostname}",)
    access_log = _access_log(settings)
    served = f"{access_log}{_RESULTS}{_limits(settings)}{_to_the_server(backend)}{_ERRORS}"
    among_handles = f".{settings.hostname.partition('.')[2]}" in domains
    if among_handles:
        served = f"{_ON_DEMAND}{served}"
    # First among directives of one kind; Caddy sorts the kinds, and the server's is the last. Not indented: that would
    # change a quoted multi-line text.
    inside = "" if plain else settings.ingress.site_caddyfile.rstrip().strip("\n")
    text = f"""\
{settings.hostname} {{
{f"{inside}{chr(10)}" if inside else ""}{indent(served, _TAB)}\
}}

{", ".join(f"*{domain}" for domain in domains)} {{
{indent(_ON_DEMAND + access_log, _TAB)}\
	handle /.well-known/atproto-did {{
		reverse_proxy {backend}
	}}
	handle {{
		respond 404
	}}
}}

# 200 if a member has this handle.
{", ".join(f"http://*{domain}:{CADDY_ASK_PORT}" for domain in domains)} {{
	bind 127.0.0.1
	rewrite * {_question(settings)}
	reverse_proxy {backend}
}}
"""
    if among_handles:
        text += f"""
# The handles' wildcard covers this name, so Caddy orders nothing for it by itself.
http://{settings.hostname}:{CADDY_ASK_PORT} {{
	bind 127.0.0.1
	respond 200
}}
"""
    extra = settings.ingress.extra_caddyfile.strip()
    return f"{text}\n{extra}\n" if extra and not plain else text


def _access_log(settings: Settings) -> str:
    """The access log of a site. Nomad rotates it by size (`Logs` of the task)."""
    if settings.ingress.access_log == "off":
        return ""
    return f"log {{\n\toutput {ACCESS_LOG_STREAM}\n{indent(_log_format(settings), _TAB)}}}\n"


def _log_format(settings: Settings) -> str:
    """The form of a log entry: JSON without headers, which hold credentials, and query strings, which hold codes.

    Fields: caddyserver.com/docs/caddyfile/directives/log. `client_ip` exists from Caddy 2.7 on; a filter of a missing
    field does nothing.
    """
    mask = "ip_mask {\n\t\t\tipv4 24\n\t\t\tipv6 48\n\t\t}"
    fields = () if settings.ingress.access_log == "full" else ("remote_ip", "client_ip")
    masks = "".join(f"\t\trequest>{field} {mask}\n" for field in fields)
    return f"""\
format filter {{
	wrap json
	fields {{
		request>headers delete
		request>tls delete
		resp_headers delete
		request>uri regexp \\?.* ""
{masks}\
	}}
}}
"""


def _limits(settings: Settings) -> str:
    """Limits of request bodies, in bytes. Without `handle`, which would shadow the operator's own directives.

    Exactly the server's limit: version 0.4.217 crashes on a longer body of unknown length.
    """
    limit, import_limit = settings.pds.blob_upload_limit, settings.pds.max_import_size
    if import_limit is None:
        return f"@pds_large {_longer_than(limit)}\n{_limit('pds_large', '', limit)}"
    return f"""\
@pds_large_import {{
	path {_IMPORT}
	{_longer_than(import_limit)}
}}
{_limit("pds_large_import", f"{_IMPORT} ", import_limit)}\
@pds_other not path {_IMPORT}
@pds_large {{
	not path {_IMPORT}
	{_longer_than(limit)}
}}
{_limit("pds_large", "@pds_other ", limit)}"""


def _longer_than(limit: int) -> str:
    return f'expression `{{header.Content-Length}} != "" && int({{header.Content-Length}}) > {limit}`'


def _limit(longer: str, matcher: str, limit: int) -> str:
    return f"error @{longer} 413\nrequest_body {matcher}{{\n\tmax_size {limit}\n}}\n"


def _to_the_server(backend: str) -> str:
    """Handles a request for the hostname."""
    return f"""\
reverse_proxy {backend} {{
	# Waits for a server that is restarting.
	lb_try_duration 20s
}}
"""


def _question(settings: Settings) -> str:
    if _UPSTREAMS_IMAGE.search(settings.pds.image):
        return "/tls-check?domain={host}"
    return "/.well-known/atproto-did"  # of the handle in Host; every PDS serves it


def caddy_job(settings: Settings, stack: str) -> str:
    """Caddy's job file, HCL."""
    # Loopback: Caddy queries itself whether a name is allowed. Listed as a port, so that no other job gets it.
    ask = Port(name="ask", static=CADDY_ASK_PORT, host_network="loopback")
    return ingress_job(settings, stack, _task(settings), ports=(ask,))


def _task(settings: Settings) -> Task:
    reload = ChangeScript(
        command="/bin/sh",
        args=(_SCRIPT, "reload"),
        timeout="120s",
        # If Caddy refuses a text, it keeps running with the previous one; `up` of that stack reports it.
        fail_on_error=False,
    )
    return Task(
        name=JOB,
        user=USER,
        # On a reload Caddy waits for active requests; at its end, this long at most.
        kill_timeout="10s",
        config=DockerConfig(
            image=settings.ingress.container_image,
            entrypoint=("/bin/sh", _SCRIPT),
            args=("start",),
            network_mode="host",
            force_pull=False,
            readonly_rootfs=True,
            cap_drop=("all",),
            cap_add=("net_bind_service",),
            # The image's binary has that capability as a file capability. A non-root process gets it no other way.
            security_opt=("no-new-privileges=false",),
            pids_limit=512,
        ),
        volume_mounts=(VolumeMount(volume=JOB, destination="/data"),),
        # Certificates and the CA's account go to the volume; Caddy's copy of its configuration does not.
        env={"XDG_DATA_HOME": "/data", "XDG_CONFIG_HOME": "/local"},
        templates=(
            *scripts("caddy.sh"),
            Template(destination="local/options", change_mode="noop", data=_global_options(settings)),
            Template(
                destination="local/parts",
                change_mode="script",
                splay="0s",
                data=_PARTS,
                change_script=reload,
            ),
        ),
        resources=Resources(cpu=INGRESS_MHZ, memory=settings.ingress.memory_mib),
        logs=Logs(max_files=5, max_file_size=10),
    )


def _global_options(settings: Settings) -> str:
    """The global options, which appear once in Caddy's file, before every stack's part."""
    email = f'\temail "{settings.ingress.acme_email}"\n' if settings.ingress.acme_email else ""
    return f"""\
{{
	# A socket in the task's own directory: by TCP every program on the host could control Caddy.
	admin unix//local/admin.sock
	# Set, because Caddy would use another CA if this one fails, and a CAA record may forbid that.
	acme_ca "{settings.ingress.acme_ca}"
{email}\
	on_demand_tls {{
		ask http://127.0.0.1:{CADDY_ASK_PORT}/ask
	}}
	# Of Caddy's own messages: an error has the request, too.
	log {{
{indent(_log_format(settings), 2 * _TAB)}\
	}}
	servers {{
		# No HTTP/3: its port, 443 of UDP, is closed.
		protocols h1 h2
	}}
}}

# Whether this name may have a certificate; the site's stack answers.
http://:{CADDY_ASK_PORT} {{
	bind 127.0.0.1
	handle /ask {{
		rewrite * /
		reverse_proxy 127.0.0.1:{CADDY_ASK_PORT} {{
			header_up Host {{query.domain}}
		}}
	}}
	handle {{
		respond 404
	}}
}}

"""


ENTRY = NomadJob(
    job_id=JOB,
    role="ingress",
    file="caddy.nomad.hcl",
    section="ingress",
    render=caddy_job,
    is_requested=lambda settings: settings.ingress_is_ours and settings.ingress.kind == JOB,
)
