"""Many stacks at once: `./pds club`, `clubs`, `preview-all` and `up-all`.

`known.py` says which stacks there are and which share a host; `engine.py` runs the engine, by Pulumi's Automation API.
`new.py` writes a stack file and makes its stack. `look.py` asks one PDS what it has, `prices.py` what that costs,
`table.py` shows it. `every.py` previews and brings up, `screen.py` shows how far it is. `move.py` brings a club
to another host, when `destination.py` finds nothing against it. Nothing here knows more than `pulumi` with the same
files would.
"""
