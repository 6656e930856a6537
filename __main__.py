"""One stack, one PDS: read the stack file, build it, export what its owner needs."""

import pulumi

from components.pds import Pds, PdsArgs
from components.settings.load import load

stack = pulumi.get_stack()
settings = load(pulumi.Config(), stack)
pds = Pds("pds", PdsArgs(settings=settings, stack=stack))

for key, value in pds.outputs.items():
    pulumi.export(key, value)
