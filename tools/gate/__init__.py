"""The gate: what a change has to pass before `pulumi up`, as plain functions.

`view.py` is what they look at, whether the program was evaluated without an engine or the engine made a preview;
`checks.py` are the checks, `secrets.py` those that know the secrets, `changes.py` what a change does to what is there,
`digest.py` reads the engine's JSON, `gate.py` asks everything and tells. Used by the tests, by `make preview` and by
`./pds gate`.
"""
