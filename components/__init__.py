"""The map of this package. Modules import only from lines below their own:

    __main__
    pds                                                  composes all components, in the order of the design
    host  nomad  clubs | shared | existing               where it runs: its own host, another stack's, any Nomad
    dns  secrets  workload  ingress  watch
    members  confirmation  backup                        one topic a file: the resources; none imports another
    facts  place  target  entropy  telling               shared: dynamic resources, connections, secrets, messages
    dynamic                                              the providers of the dynamic resources
    probes  accounts  needs  rooms                       blocking I/O, for `dynamic` only
    render/                                              the rendered texts; pure functions
    settings/                                            the stack file; every option once

The engine loads `dynamic` for each of its resources, so this file imports nothing.
"""
