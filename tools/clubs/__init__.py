"""Commands for many stacks: `./pds club`, `clubs`, `preview-all` and `up-all`.

`known.py` lists the stacks and those that share a host. `engine.py` runs the engine, by Pulumi's Automation API.
`new.py` writes a stack file and creates its stack. `look.py` inspects one PDS, `prices.py` has its cost, `table.py`
shows both. `every.py` previews and updates, `screen.py` shows the progress. `move.py` moves a club to another host, if
`destination.py` finds no obstacle. All of it is possible with `pulumi` and the same files.
"""
