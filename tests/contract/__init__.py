"""The real servers with this program's configuration: a PDS of each line and a PLC directory, on loopback."""
