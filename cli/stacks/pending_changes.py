"""Whether a stack has changes that its next `up` would make, which a command must not make unseen."""

from cli.lib.stack import Stack, StackError
from cli.stacks.automation import Engine, Workspace
from policy.digest import read_digest

CHANGES_BY_ITSELF = frozenset({"pds-people-unlisted-accounts"})
"""Resources that change without an operator's action: people sign up. The workflow `drift` excludes them, too."""


def refuse_changes(stack: Stack, error: type[StackError] = StackError) -> None:
    """Raises `error` if `up` would change something."""
    digest = read_digest(Workspace(Engine(), stack.root).preview(stack.name), stack.name)
    left = [*digest.errors, *sorted({change.name for change in digest.changes} - CHANGES_BY_ITSELF)]
    if left:
        raise error(
            f"Stack {stack.name} has pending changes: {', '.join(left)}. Run `pulumi up --stack {stack.name}` to its "
            "end first. Nothing was changed."
        )
