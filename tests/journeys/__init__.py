"""Journeys through the whole: both services as processes, real websockets, an operator at the API."""
