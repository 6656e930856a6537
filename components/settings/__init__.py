"""A stack file as typed, immutable values. Only `from_pulumi.py` reads `pulumi.Config`.

`fields` has the types of options, `sections` the options themselves, `checks` what compares them.
"""
