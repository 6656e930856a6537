"""The real servers against what this program gives them: a PDS of each line and a PLC directory, on loopback."""
