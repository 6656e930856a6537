"""One stack, one PDS: read the stack file, build it, export what its operator needs."""

import gc
import os
from pathlib import Path

import pulumi

gc.disable()  # the SDKs have thousands of modules without garbage; to search them takes a tenth of a preview
from components.program import create  # noqa: E402
from components.settings.from_pulumi import load  # noqa: E402

gc.enable()

stack, project = pulumi.get_stack(), f"{pulumi.get_organization()}/{pulumi.get_project()}"
settings = load(pulumi.Config(), stack, Path(f"Pulumi.{stack}.yaml"))

for key, value in create(settings, stack, project, os.environ).items():
    pulumi.export(key, value)
