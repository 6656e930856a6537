"""One stack, one PDS: read the stack file, build it, export what its owner needs."""

import pulumi

from components.pds import Pds, PdsArgs
from components.settings.from_pulumi import load

stack, project = pulumi.get_stack(), f"{pulumi.get_organization()}/{pulumi.get_project()}"
settings = load(pulumi.Config(), stack)
pds = Pds("pds", PdsArgs(settings=settings, stack=stack, project=project))

for key, value in pds.outputs.items():
    pulumi.export(key, value)
