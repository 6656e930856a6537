"""Nomad ACL policies, as HCL: who may do what."""

ANONYMOUS = """\
# IO resolves `nomad:SERVICE` on the host's loopback and has no setting for a token. Reading jobs is all there is to
# see: the API is on loopback, and job specs hold no secret.
namespace "default" {
  capabilities = ["read-job"]
}
"""

PROGRAM = """\
namespace "default" {
  policy = "write"

  variables {
    path "nomad/jobs/*" {
      capabilities = ["write", "read", "list", "destroy"]
    }
    path "io/*" {
      capabilities = ["write", "read", "list", "destroy"]
    }
  }
}

host_volume "*" {
  policy = "write"
}

node {
  policy = "read"
}

agent {
  policy = "read"
}
"""

IO_FILES = """\
namespace "default" {
  variables {
    path "io/*" {
      capabilities = ["read", "list"]
    }
  }
}
"""
