"""One stack, one PDS: read the stack file, build it, export what its owner needs."""

import gc

import pulumi

gc.disable()  # the SDKs have thousands of modules without garbage; to search them takes a tenth of a preview
from components.pds import Pds, PdsArgs  # noqa: E402
from components.settings.from_pulumi import load  # noqa: E402

gc.enable()

stack, project = pulumi.get_stack(), f"{pulumi.get_organization()}/{pulumi.get_project()}"
settings = load(pulumi.Config(), stack)
pds = Pds("pds", PdsArgs(settings=settings, stack=stack, project=project))

for key, value in pds.outputs.items():
    pulumi.export(key, value)
