#!/bin/sh
# What /etc/hosts and a certificate would do for @NAME@, where the e2e environment's S3 server is.
RESTIC_REPOSITORY=$(echo "$RESTIC_REPOSITORY" | sed 's#https://@NAME@#http://@ADDRESS@#')
export RESTIC_REPOSITORY
exec /usr/lib/restic "$@"
