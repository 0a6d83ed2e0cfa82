"""HTTP as a client speaks it: a connection, a request's body, an answer, what a refusal says."""
