"""HTTP as a client speaks it: a connection, a request's body, an answer, what a refusal says.

Read `connection` first, then `call`, `body`, `compression`, `errors`.
"""
