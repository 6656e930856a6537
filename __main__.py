"""One stack, one PDS: read the stack file, build it, export what its owner needs."""

import gc

import pulumi

gc.disable()  # the SDKs have thousands of modules without garbage; to search them takes a tenth of a preview
from components.program import create  # noqa: E402
from components.settings.from_pulumi import load  # noqa: E402

gc.enable()

stack, project = pulumi.get_stack(), f"{pulumi.get_organization()}/{pulumi.get_project()}"
settings = load(pulumi.Config(), stack)

for key, value in create(settings, stack, project).items():
    pulumi.export(key, value)
