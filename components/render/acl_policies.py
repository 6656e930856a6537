"""Nomad ACL policies, as HCL."""

ANONYMOUS = """\
# IO resolves `nomad:SERVICE` on the host's loopback and has no setting for a token. This exposes jobs
# only: the API is on loopback, and job specs hold no secret.
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

CLUSTER = """
# To ask whether the servers are healthy: `./pds nomad STACK -- operator autopilot health`.
operator {
  policy = "read"
}

# The ingress of each host.
namespace "host-*" {
  policy = "write"

  variables {
    path "io/*" {
      capabilities = ["write", "read", "list", "destroy"]
    }
    path "caddy/*" {
      capabilities = ["write", "read", "list", "destroy"]
    }
  }
}
"""
"""What the program may do on a cluster beside `PROGRAM`."""

TAKEOVER = """\
# The nodes, and the one variable that it writes. Its token is in the variable of its job.
node {
  policy = "read"
}

namespace "default" {
  variables {
    path "takeover/*" {
      capabilities = ["write", "read"]
    }
  }
}
"""
"""Rights of the takeover's job."""

SNAPSHOTS = """\
# To take a snapshot of Nomad's state. To restore one, a token needs the right of management.
operator {
  capabilities = ["snapshot-save"]
}

# The repository of its last snapshot.
namespace "default" {
  variables {
    path "nomad/jobs/pds-nomad-snapshots/repository" {
      capabilities = ["write", "read"]
    }
  }
}
"""
"""Rights of the job that saves Nomad's state (CHANGELOG of Nomad, 1.11.3: GH-27525)."""


def ingress_files(job: str, namespace: str) -> str:
    """Read access of the ingress's job: every stack's file, and its own items."""
    return f"""\
namespace "{namespace}" {{
  variables {{
    path "{job}/*" {{
      capabilities = ["read", "list"]
    }}
  }}
}}
"""


def club(name: str, volume: str, *files: str) -> str:
    """Rights of the token of the club `name`: everything in its own namespace, and nothing elsewhere.

    `files` are the namespaces of the ingress of its host, and of the host that it leaves. Not `policy = "write"`: with
    it the club could create a volume without a quota.
    """
    return f"""\
namespace "{name}" {{
  capabilities = [
    "list-jobs", "parse-job", "read-job", "submit-job", "dispatch-job", "scale-job",
    "read-logs", "read-fs", "alloc-exec", "alloc-lifecycle", "host-volume-read",
  ]

  variables {{
    path "nomad/jobs/*" {{
      capabilities = ["write", "read", "list", "destroy"]
    }}
  }}
}}

{"".join(_files(name, namespace) for namespace in files)}
host_volume "{volume}" {{
  policy = "write"
}}
"""


def _files(club: str, namespace: str) -> str:
    return f"""\
# The club's file among those of the host's ingress.
namespace "{namespace}" {{
  variables {{
    path "io/files/{club}" {{
      capabilities = ["write", "read", "destroy"]
    }}
    path "caddy/files/{club}" {{
      capabilities = ["write", "read", "destroy"]
    }}
  }}
}}
"""
