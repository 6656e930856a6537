"""Rules about the source, the graph and the documents."""
