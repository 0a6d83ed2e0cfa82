"""Commands that measure this machine.

`forward_rate`, the texts per second of the forward without HTTP, is the base of most others: `tuning` chooses settings by it at
start, and `cpu_layers`, `long_texts` and `profile_forward` look at one side of the forward each. `request_path`, with
`line_tracer`, follows a request.
"""
