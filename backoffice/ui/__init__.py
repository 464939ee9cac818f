"""The admin UI: server-rendered pages, one a file, that show what the API's own functions tell."""
