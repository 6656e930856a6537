"""The map of the house. Imports go one way, downwards:

    __main__
    pds                                                  composes; the order in it is the design
    host  nomad  dns  secrets  workload  ingress  watch
    members  confirmation  backup                        one noun, one file: the resources; none knows another
    dynamic  target  entropy  probes  accounts           what several of them use: waits, options, secrets, questions
    render/                                              what text it becomes; pure functions
    settings/                                            what was asked; every option once

`dynamic` is loaded by the engine for each of its resources, so nothing is imported here.
"""
