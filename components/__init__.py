"""The map of this package. A module imports from its own folder and from the lines below its own:

    __main__
    program                                   what a stack is: a PDS, or a cluster
    pds cluster                               compose it, in the order of the design
    outputs                                   all stack outputs
    host/ server/ edge/ operations/ people/   the components
    notices                                   warnings at the end of `up`
    connection nomad_target secret_values     values that components share
    dynamic/                                  providers and resources of what no provider supports
    clients/                                  Nomad, name servers and the PDS, without Pulumi
    render/                                   rendered texts; pure functions
    settings/                                 the stack file; every option once
    takeover/                                 who carries which host of a cluster; also runs on the servers

The engine loads `dynamic` for each of its resources, so this file imports nothing.
"""
