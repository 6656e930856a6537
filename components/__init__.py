"""The map of the house. Imports go one way, downwards:

    __main__
    pds                                                  composes; the order in it is the design
    host  nomad  clubs | shared | existing               where it runs: a host of its own, another's, any Nomad
    dns  secrets  workload  ingress  watch
    members  confirmation  backup                        one noun, one file: the resources; none knows another
    facts  place  target  entropy  telling               what several of them use: waits, ways, options, secrets, words
    dynamic                                              how the facts come about, when the engine says so
    probes  accounts  needs  rooms                       what asks the outside, for `dynamic` alone
    render/                                              what text it becomes; pure functions
    settings/                                            what was asked; every option once

`dynamic` is loaded by the engine for each of its resources, so nothing is imported here.
"""
