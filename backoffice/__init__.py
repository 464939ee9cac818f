"""The back office: what operators use, a REST API over the bridge."""
