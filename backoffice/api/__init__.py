"""The REST API, one resource a file: each parses with its models, calls one role of the bridge, answers."""
