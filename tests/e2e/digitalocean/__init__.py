"""DigitalOcean's API as far as this project uses it, with an account of its own, on loopback.

For tests that run the real engine and the real provider: the state is kept, actions take their time, limits and errors
are the documented ones, and what this API does not know is an error. Shapes and limits are from DigitalOcean's public
specification (github.com/digitalocean/openapi) and from what its own provider and Go client read and send.

    with Api(World(), folder) as api: ...             in tests
    python -m tests.e2e.digitalocean --state DIR      by itself

Rooms: `world` holds the account, `calls` a request and its fields, `server` the HTTP side; `account`, `addresses`,
`alerts`, `droplets`, `names`, `networks`, `projects`, `spaces` and `volumes` answer for their things; `faults` makes
calls fail. What is checked and what is not is listed in docs/test-doubles.md.
"""

from .server import Api
from .world import Limits, Machines, NoMachines, World

__all__ = ["Api", "Limits", "Machines", "NoMachines", "World"]
