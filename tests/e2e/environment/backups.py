"""The target of an e2e environment's backups: an S3 server that containers reach, and restic's image that finds it."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.e2e.environment.docker import gateway
from tests.e2e.environment.environment import E2eEnvironment, Stack
from tests.e2e.images.build import restic_image
from tests.support.s3 import BUCKET, s3_server

_NAME = "s3.bench.test"


def backup_section(made: E2eEnvironment, cache: Path, stack: ExitStack) -> dict[str, Any]:
    """Start the server and build the image; `backup` of a stack file, but for the keys. Every run is a scenario's
    own."""
    (made.folder / "s3").mkdir()
    server = s3_server(made.folder / "s3", BUCKET, address=gateway(made.docker_host))
    address = stack.enter_context(server).removeprefix("http://")
    image = restic_image(made.folder / "restic", cache, made.docker_host, _NAME, address)
    return {"endpoint": f"https://{_NAME}", "bucket": BUCKET, "image": image, "interval_minutes": 1440}


def give_keys(stack: Stack) -> None:
    """Write the keys of backups into a stack's file, encrypted."""
    for key, value in (("access_key_id", "DO00TEST"), ("secret_access_key", "only a test")):
        stack.pulumi("config", "set", "--secret", "--path", f"pds:backup.{key}", value)
