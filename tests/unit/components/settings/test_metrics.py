"""`metrics`: what it accepts and refuses, its memory, and the server's telemetry by version of the image."""

from typing import Any

import pytest

from components.settings.checks.capacity import job_demands
from components.settings.checks.host import longest_retention
from components.settings.checks.pds_env import configured_secrets, telemetry_environment
from components.settings.checks.warnings import warnings
from components.settings.fields.errors import SettingsError
from tests.support.programs import ALERTS, BACKUP, CLUBS, ON_A_HOST, settings_of

STORE = {"store": True}
OTLP: dict[str, Any] = {
    "endpoint": "https://otlp.my-club.org/v1/metrics",
    "headers": {"Authorization": "Bearer a, b=c"},
}
OLD = {"image": "ghcr.io/bluesky-social/pds:0.4.5025", "package_version": "0.5.25"}
ON_NOMAD = {"nomad_address": "https://n.test:4646", "nomad_token": "f" * 36, "ipv4": "203.0.113.9"}


def refused(**changes: Any) -> dict[str, tuple[str, str]]:
    """Key to problem and remedy of each fault."""
    with pytest.raises(SettingsError) as error:
        settings_of(**changes)
    return {fault.key: (fault.problem, fault.remedy) for fault in error.value.faults}


def test_metrics_are_off_by_default() -> None:
    assert settings_of().metrics is None
    assert not settings_of().metrics_store
    assert telemetry_environment(settings_of()) == {}


def test_the_store_s_memory_is_counted_and_an_endpoint_needs_none() -> None:
    assert job_demands(settings_of(metrics=STORE))["metrics"].memory_mib == 128
    assert "metrics" not in job_demands(settings_of(metrics={"otlp": OTLP}))


def test_the_default_droplet_has_memory_for_a_store_beside_backups_and_alerts() -> None:
    settings_of(metrics=STORE, backup=BACKUP, alerts=ALERTS)
    (key,) = refused(metrics=STORE | {"memory_mib": 192}, backup=BACKUP, alerts=ALERTS)
    assert key == "host.size"


@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        ({"metrics": {"memory_mib": 64}}, "metrics.memory_mib", "too small"),
        ({"metrics": {"retention_days": 14}}, "metrics", "no store and no receiver"),
        ({"metrics": {"otlp": OTLP, "retention_days": 14}}, "metrics.retention_days", "option of the store"),
        ({"metrics": STORE | {"retention_days": 300}}, "metrics.retention_days", "do not fit into the 1 GiB"),
        ({"metrics": STORE | {"image": "victoriametrics/victoria-metrics:latest"}}, "metrics.image", "its tag moves"),
        ({"metrics": STORE, "volume": {"size_gib": 4}}, "metrics.store", "the volume has only 4 GiB"),
        (
            {"metrics": STORE, **CLUBS, "volume": {"size_gib": 16}},
            "metrics.store",
            "in addition to the 14 GiB of 'clubs'",
        ),
        ({"metrics": {"otlp": {"endpoint": "http://10.0.0.1/v1"}}}, "metrics.otlp.endpoint", "without TLS"),
        ({"metrics": {"otlp": OTLP, "server": False}}, "metrics.server", "nothing to send"),
        ({"metrics": {"otlp": OTLP}, "pds": OLD}, "metrics.otlp", "package 0.5.25 has no metrics"),
        ({"metrics": {"otlp": {"endpoint": OTLP["endpoint"], "headers": {"a b": "c"}}}}, "metrics.otlp.headers", "a b"),
        ({"metrics": STORE, "pds": {"port": 8428}}, "pds.port", "8428 belongs to 'metrics'"),
        ({"metrics": STORE, "clubs": {"chess": {"port": 9464}}}, "clubs.chess.port", "9464 belongs to 'metrics'"),
    ],
)
def test_refuses_what_cannot_work(changes: dict[str, Any], key: str, words: str) -> None:
    faults = refused(**changes)
    assert key in faults or any(found.startswith(key) for found in faults), faults
    assert any(words in problem for problem, _remedy in faults.values()) or words in str(faults)
    assert all(remedy for _problem, remedy in faults.values())


def test_the_retention_that_a_refusal_proposes_is_accepted() -> None:
    days = longest_retention(settings_of(metrics=STORE, **CLUBS))
    settings_of(metrics=STORE | {"retention_days": days}, **CLUBS)
    _problem, remedy = refused(metrics=STORE | {"retention_days": days + 1}, **CLUBS)["metrics.retention_days"]
    assert remedy == f"Write {days} or fewer."


@pytest.mark.parametrize("place", [{**ON_A_HOST, "operators": None}, {"on": ON_NOMAD, "operators": None}])
def test_a_stack_without_a_host_of_its_own_has_no_store_but_may_send_its_metrics(place: dict[str, Any]) -> None:
    _problem, remedy = refused(metrics=STORE, **place)["metrics.store"]
    assert "'otlp'" in remedy
    assert settings_of(metrics={"otlp": OTLP}, **place).metrics


def test_an_image_without_telemetry_is_never_told_to_load_it() -> None:
    old = settings_of(metrics=STORE, pds=OLD)
    assert telemetry_environment(old) == {}
    assert any("package 0.5.25 has no metrics of its own" in text for text in warnings(old))
    assert not any("no metrics of its own" in text for text in warnings(settings_of(metrics=STORE)))
    first = {"image": "ghcr.io/bluesky-social/pds:0.4.5026", "package_version": "0.5.26"}
    assert telemetry_environment(settings_of(metrics=STORE, pds=first))


def test_the_server_s_part_can_be_left_out() -> None:
    assert telemetry_environment(settings_of(metrics=STORE | {"server": False})) == {}


def test_the_server_sends_to_the_endpoint_and_shows_to_the_store() -> None:
    both = telemetry_environment(settings_of(metrics=STORE | {"otlp": OTLP}))
    assert both["OTEL_METRICS_EXPORTER"] == "prometheus,otlp"
    assert both["OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"] == OTLP["endpoint"]
    assert "OTEL_EXPORTER_PROMETHEUS_PORT" not in telemetry_environment(settings_of(metrics={"otlp": OTLP}))


def test_headers_are_secret_and_encoded() -> None:
    settings = settings_of(metrics={"otlp": OTLP})
    assert configured_secrets(settings)["OTEL_EXPORTER_OTLP_METRICS_HEADERS"] == "Authorization=Bearer%20a%2C%20b%3Dc"
    assert not any("Bearer" in value for value in telemetry_environment(settings).values())


def test_variables_of_the_program_are_refused_among_the_operator_s_own() -> None:
    own = {"pds": {"extra_env": {"OTEL_SERVICE_NAME": "x"}}}
    assert settings_of(**own)
    _problem, remedy = refused(metrics=STORE, **own)["pds.extra_env.OTEL_SERVICE_NAME"]
    assert remedy == "Use the option 'metrics'."


def test_warns_that_rules_send_nothing_without_a_dead_man_s_switch() -> None:
    assert any("no alert rule of 'metrics'" in text for text in warnings(settings_of(metrics=STORE)))
    assert not any("alert rule" in text for text in warnings(settings_of(metrics=STORE, alerts=ALERTS)))
