"""Options of a bucket for blobs that the program makes."""

from typing import Literal

from pydantic import SecretStr

from components.settings.fields.job_demand import SMALL_MHZ, JobDemand
from components.settings.fields.option import Section, option

BLOBS_MIB = 256
"""Memory limit of each task that copies blobs, in MiB."""


class BlobsOptions(Section):
    """A Spaces bucket for blobs, with a key for it alone. Add it to a PDS that has blobs with `./pds blobs`."""

    bucket: str = option(
        pattern=r"^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$",
        doc="Name of the bucket, unique world-wide: 3 to 63 of a-z, 0-9 and '-'.",
        example="my-club-blobs",
    )
    region: str | None = option(
        None,
        pattern=r"^[a-z]{3}[0-9]$",
        doc="Spaces region of the bucket. Default: the droplet's. Required with `on`.",
        example="fra1",
    )
    serve: Literal["bucket", "disk"] = option(
        "bucket",
        doc="Where the server reads and writes blobs. `./pds blobs STACK --to …` writes it after it has copied them.",
    )
    adopt: bool = option(False, doc="Use the existing bucket of that name instead of a new one.")
    access_key_id: SecretStr | None = option(
        None, min_length=1, doc="Access key that may create Spaces buckets. Default: that of `backup`."
    )
    secret_access_key: SecretStr | None = option(None, min_length=1, doc="Secret key of that access key.")

    @property
    def job_demand(self) -> JobDemand:
        """Of the task beside the backup's, and the job that moves blobs: one at a time."""
        return JobDemand(memory_mib=BLOBS_MIB, mhz=SMALL_MHZ)
