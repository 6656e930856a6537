"""Generates secrets, and marks values as secret. No other module does."""

from typing import TypeVar, cast

import pulumi
import pulumi_random as random

T = TypeVar("T")


def as_secret(output: pulumi.Output[T]) -> pulumi.Output[T]:
    """`output`, encrypted in the state and hidden from every preview."""
    return cast("pulumi.Output[T]", pulumi.Output.secret(cast(T, output)))


def random_hex(name: str, digits: int, parent: pulumi.Resource, *, protect: bool = True) -> pulumi.Output[str]:
    """`digits` random lower-case hex digits, secret. Protected, unless their loss is harmless.

    A RandomPassword, because its resource ID is always `none`. The IDs of RandomBytes, RandomUuid, RandomId and
    RandomString are the secret itself, and IDs are never encrypted. Not retained on delete: the state has the only
    copy, so retaining the resource would lose the value.
    """
    password = random.RandomPassword(
        name,
        length=digits,
        lower=False,
        upper=False,
        numeric=True,
        special=True,
        override_special="abcdef",
        opts=pulumi.ResourceOptions(parent=parent, protect=protect),
    )
    return password.result
