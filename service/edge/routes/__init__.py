"""One module a route, and the table of them all."""
