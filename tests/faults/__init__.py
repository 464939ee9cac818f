"""Faults at process and socket: what must hold whatever is killed, paused, cut off or full."""
