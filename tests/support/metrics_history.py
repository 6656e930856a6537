"""Samples of the past hours for each series that a metrics store has at present, for tests, figures and the guide."""

import json
import math
import random
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

STEP = 30
"""Seconds between two samples, the store's own interval."""

MOMENTARY = ("nomad_client_allocs_oom_killed", "nomad_client_allocs_restart")
"""Series that Nomad shows for a moment only."""

_NOISY = (
    "memory_usage",
    "memory_rss",
    "memory_used",
    "memory_available",
    "cpu_",
    "heap_used",
    "eventloop",
    "disk_used",
)
_COUNTER = ("_count", "_bucket", "_sum", "_total")
_SHARE = {"0.005": 0.4, "0.1": 0.95}
"""Share of the requests that each bucket counts; further buckets count all."""
_PERIOD = {"backup": 900, "drill": 7 * 86_400}
"""Seconds between two runs that ended well."""


def history(present: Iterable[Mapping[str, Any]], end: float, seconds: int) -> Iterator[str]:
    """Lines of VictoriaMetrics' JSON import: each series of the query result `present`, for the `seconds` before the
    Unix time `end`, one sample each STEP, with values that change as on a host in use."""
    chance = random.Random(1)
    times = [end - seconds + STEP * step for step in range(seconds // STEP)]
    for item in present:
        labels, value = item["metric"], float(item["value"][1])
        values = list(_values(labels, value, times, chance))
        if labels["__name__"] in MOMENTARY:
            third = len(times) // 3
            yield _line(labels, values[third : third + 2], times[third : third + 2])
        else:
            yield _line(labels, values, times)


def _line(labels: Mapping[str, str], values: list[float], times: list[float]) -> str:
    return json.dumps({"metric": labels, "values": values, "timestamps": [int(time * 1000) for time in times]})


def _values(labels: Mapping[str, str], value: float, times: list[float], chance: random.Random) -> Iterator[float]:
    name = labels["__name__"]
    if name.endswith("_timestamp_seconds"):
        period = _PERIOD[labels["run"]]
        yield from (value - max(0, math.ceil((value - time) / period)) * period for time in times)
    elif name.endswith(_COUNTER):
        share = _SHARE.get(labels.get("le", ""), 1) * (0.02 if name.endswith("_sum") else 1)
        for _ in times:
            value += share * chance.randint(5, 25)
            yield round(value, 3)
    elif any(word in name for word in _NOISY):
        drift = 0.0
        for _ in times:
            drift = 0.97 * drift + chance.uniform(-0.03, 0.03)
            changed = value * (1 + drift)
            yield round(changed) if value > 1000 else round(changed, 4)
    else:
        yield from (value for _ in times)
