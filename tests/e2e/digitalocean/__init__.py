"""DigitalOcean's API as far as this project uses it, with an account of its own, on loopback.

For tests that run the real engine and the real provider: the state is kept, actions take time, limits and errors are
the documented ones, and an unknown request is an error. Forms and limits are from DigitalOcean's public specification
(github.com/digitalocean/openapi) and from its own provider and Go client.

    with Api(World(), folder) as api: ...             in tests
    python -m tests.e2e.digitalocean --state DIR      by itself

Modules: `world` holds the account, `calls` a request and its fields, `server` the HTTP side; `account`, `addresses`,
`alerts`, `droplets`, `names`, `networks`, `projects`, `spaces` and `volumes` answer for their resources; `faults` makes
calls fail. docs/test-doubles.md lists what is checked and what is not.
"""

from tests.e2e.digitalocean.server import Api
from tests.e2e.digitalocean.world import Limits, Machines, NoMachines, World

__all__ = ["Api", "Limits", "Machines", "NoMachines", "World"]
