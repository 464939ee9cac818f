"""The chat server: websocket nodes that show rooms and carry out operators' commands."""
