"""Options of metrics: a store with a dashboard on the stack's own host, or another service's OTLP endpoint."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, SecretStr

from components.settings.fields.images import IMAGE
from components.settings.fields.job_demand import SMALL_MHZ, JobDemand
from components.settings.fields.option import READ_ONLY_MAP, Section, option
from components.settings.fields.types import HttpsUrl

STORE_PORT = 8428
"""Loopback port of the store, VictoriaMetrics' own."""

SERVER_PORT = 9464
"""Loopback port on which the server shows its metrics, OpenTelemetry's own for this."""

HOST_PORT = 9101
"""Loopback port on which the host shows the volume, the clubs' disks and the backups' ages."""

STORE_GIB = 1
"""Quota of the store's directory on the volume, in GiB (`files/volume.sh`)."""

HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")]


class OtlpOptions(Section):
    """Another service that receives the server's metrics."""

    endpoint: HttpsUrl = option(
        doc="Whole URL that receives metrics by OTLP over HTTP, as the service states it.",
        example="https://otlp.my-club.org/v1/metrics",
    )
    headers: Annotated[Mapping[HeaderName, SecretStr], *READ_ONLY_MAP] = option(
        default_factory=dict, doc="Headers of each request, such as `Authorization`. Secret."
    )


class MetricsOptions(Section):
    """Metrics of server, Nomad, host and clubs. Without this section, metrics are off.

    `store` runs a store with a dashboard on the host, which `./pds dashboard` opens. With `otlp` the server sends its
    own metrics to another service.
    """

    store: bool = option(
        False, doc="Run a store with a dashboard on the stack's own host, for its operators.", example=True
    )
    server: bool = option(
        True, doc="Include the server's own metrics, which take some 60 MiB more of `pds.memory_mib`."
    )
    retention_days: int = option(30, ge=1, le=400, doc="Days that the store keeps metrics.")
    memory_mib: int = option(
        128, ge=96, le=262144, doc="Memory limit of the store, in MiB, which includes the dashboard."
    )
    # Source of the tag: git tag v1.150.0 of VictoriaMetrics/VictoriaMetrics; Docker Hub's image is built from it.
    image: str = option(
        "victoriametrics/victoria-metrics:v1.150.0",
        pattern=IMAGE,
        doc="Image of VictoriaMetrics, single node: one exact tag, or a digest.",
    )
    otlp: OtlpOptions | None = option(
        None,
        doc="Another service that receives the server's metrics. It gets none of Nomad and host.",
        example={"endpoint": "https://otlp.my-club.org/v1/metrics"},
    )

    @property
    def job_demand(self) -> JobDemand:
        return JobDemand(memory_mib=self.memory_mib, mhz=SMALL_MHZ) if self.store else JobDemand()
