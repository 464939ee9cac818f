"""The chat vocabulary that back office and chat nodes share: commands, events and the shapes of chat state."""
