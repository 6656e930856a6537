"""Settings of a part of a cluster, for what is rendered for it as for a stack with a PDS: a host, the snapshots."""

from components.settings.host_contract import ingress_namespace
from components.settings.sections import BackupOptions, OnOptions
from components.settings.sections.settings import Settings


def host_settings(settings: Settings, host: str) -> Settings:
    """The settings with the datacenter of `host`, and the namespace of its ingress."""
    nomad = settings.nomad.model_copy(update={"datacenter": host})
    on = OnOptions(nomad_address="http://127.0.0.1:4646", namespace=ingress_namespace(host))
    return settings.model_copy(update={"nomad": nomad, "on": on})


def snapshot_settings(settings: Settings, stack: str) -> Settings:
    """The settings with the bucket of the snapshots of Nomad's state as that of backups."""
    assert settings.cluster
    assert settings.cluster.snapshots
    own = settings.cluster.snapshots
    backup = BackupOptions(
        region=own.region,
        bucket=own.bucket or f"{stack}-nomad-backup",
        adopt=own.adopt,
        endpoint=own.endpoint,
        access_key_id=own.access_key_id,
        secret_access_key=own.secret_access_key,
        password=own.password,
        keep_days=own.keep_days,
    )
    # The folder in the bucket.
    return settings.model_copy(update={"backup": backup, "hostname": f"nomad-{stack}"})
