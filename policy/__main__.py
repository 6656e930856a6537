"""The policy pack, which the engine starts: `pulumi preview --policy-pack policy`. The policies are in `pack.py`."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
# The engine puts this folder first. Then `secrets.py` of this folder would hide that of the standard library.
sys.path[:] = [path for path in sys.path if Path(path).resolve() != HERE]
# In the repository the program's packages lie beside this folder; in what is published they lie in it.
sys.path.insert(0, str(HERE if (HERE / "components").is_dir() else HERE.parent))

from pulumi_policy import (  # noqa: E402 (the path comes first)
    EnforcementLevel,
    Policy,
    PolicyConfigSchema,
    PolicyPack,
    ReportViolation,
    ResourceValidationArgs,
    ResourceValidationPolicy,
    StackValidationArgs,
    StackValidationPolicy,
)
from pulumi_policy.proxy import UnknownValueError  # noqa: E402

from policy import pack  # noqa: E402


def of_a_resource(rule: pack.PackPolicy) -> Policy:
    """Return the SDK's form of a policy."""

    def validate(args: ResourceValidationArgs, report: ReportViolation) -> None:
        for finding in rule.findings(args, args.get_config(), UnknownValueError):
            report(finding, None)

    schema = {name: {"type": "boolean", "default": False, "description": text} for name, text in rule.choices}
    return ResourceValidationPolicy(
        name=rule.name,
        description=rule.description,
        validate=validate,
        enforcement_level=EnforcementLevel.MANDATORY,
        config_schema=PolicyConfigSchema(properties=schema) if schema else None,
    )


def of_a_stack() -> Policy:
    """Return the policy over all resources together."""

    def validate(args: StackValidationArgs, report: ReportViolation) -> None:
        findings = pack.missing_resources(args.resources)
        if findings is None:
            args.not_applicable("This stack is not one of the program's.")
        for finding in findings or []:
            report(finding, None)

    return StackValidationPolicy(
        name=pack.COMPLETE_NAME,
        description=pack.COMPLETE_DESCRIPTION,
        validate=validate,
        enforcement_level=EnforcementLevel.MANDATORY,
    )


if __name__ == "__main__":
    PolicyPack(
        name=pack.PACK,
        description="Checks of the Bluesky PDS on DigitalOcean: protection, open ports, images, secrets.",
        enforcement_level=EnforcementLevel.MANDATORY,
        policies=[*map(of_a_resource, pack.POLICIES), of_a_stack()],
    )
