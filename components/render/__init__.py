"""What text it becomes: cloud-init, the Nomad agent, job specs, IO's file. Pure functions of the settings, str out."""
