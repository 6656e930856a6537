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
    path "caddy/*" {
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


def ingress_files(job: str) -> str:
    """What the ingress's job may read: every stack's file, and what else is its own."""
    return f"""\
namespace "default" {{
  variables {{
    path "{job}/*" {{
      capabilities = ["read", "list"]
    }}
  }}
}}
"""
