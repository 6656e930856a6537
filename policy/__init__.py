"""Preflight: checks that a change has to pass before `pulumi up`, as plain functions.

`view.py` is their input, from an offline evaluation or from the engine's preview. `checks.py` has the checks,
`secrets.py` those that know the secrets, `changes.py` the effects of a change on existing resources. `digest.py` parses
the engine's JSON. `preflight.py` runs everything. `pack.py` and `__main__.py` are a policy pack of the same checks.
Used by the tests, by `make preview` and by `./pds preflight`.
"""
