"""Errors of the clients. Each message is a sentence for the operator that ends with the next step."""


class ServiceError(Exception):
    """A failed check, in a sentence for the operator, with the next step."""


class DeadlineError(ServiceError):
    """`until` reached its deadline."""


class PendingError(ServiceError):
    """No answer, or a temporary refusal; a later attempt may succeed."""
