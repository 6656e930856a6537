"""`./pds check STACK`, after `up`: checks the PDS, one line for each check.

Modules: `subject` holds the stack and the verdicts, `site` reaches the server as the public does; `server`, `identity`,
`names`, `mail`, `account`, `host` and `project` have the checks; `run` runs them in order. Nothing is changed, and no
secret is sent or shown. A message is sent only with `--mail`.
"""
