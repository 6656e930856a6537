"""`./pds check STACK`, after `up`: is the PDS what its owner thinks it is? One line for each question.

Rooms: `subject` holds what is looked at and what is found, `site` reaches the server as the public does; `server`,
`identity`, `names`, `account`, `host` and `project` ask; `run` puts the questions in order. Nothing is changed
anywhere, and no secret is sent or shown.
"""
