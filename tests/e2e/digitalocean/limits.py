"""The API's rate limits: 5,000 requests in an hour and 250 in a minute (digitalocean/openapi, shared/headers.yml).

The specification says that `ratelimit-reset` is the time when the oldest request expires, so the windows slide.
A refusal of the burst limit has `Retry-After` (release note of 2023-08-24); here both refusals have it.
"""

import math
import time
from collections import deque

from tests.e2e.digitalocean.errors import too_many

HOURLY, BURST = 5000, 250
_HOUR, _MINUTE = 3600.0, 60.0


class RateLimit:
    """The requests of the last hour, with the time of each on the monotonic clock, in seconds."""

    def __init__(self) -> None:
        self._times: deque[float] = deque()

    def count(self, now: float) -> None:
        """Count a request. Raises ApiError (429) if it is one too many; that request counts as well.

        Whether the service counts refused requests is not published; that it does is the stricter reading.
        """
        while self._times and self._times[0] <= now - _HOUR:
            self._times.popleft()
        self._times.append(now)
        for limit, window in ((HOURLY, _HOUR), (BURST, _MINUTE)):
            if len(self._times) > limit and (oldest := self._times[-limit - 1]) > now - window:
                raise too_many(math.ceil(oldest + window - now))

    def headers(self, now: float) -> dict[str, str]:
        """The headers of each answer."""
        oldest = self._times[0] if self._times else now
        return {
            "ratelimit-limit": str(HOURLY),
            "ratelimit-remaining": str(max(0, HOURLY - len(self._times))),
            "ratelimit-reset": str(math.ceil(time.time() + oldest + _HOUR - now)),
        }
