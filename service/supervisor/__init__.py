"""The main process: it starts the HTTP processes and workers through LitServe, replaces those that die, and stops all.

Read `server` first, then `litserve_server` and `signals`.
"""
