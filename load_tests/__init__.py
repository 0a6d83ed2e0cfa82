"""Load tests and the benchmark. They speak HTTP to servers in other processes; README.md has the commands.

- `generator` sends one load to one server.
- `bench` measures servers with it, Valence among them, and writes records to `results`.
- `peers` holds the servers that Valence is compared with.
- `locust_load` is the load test by Locust.
- `dashboard` draws Grafana's dashboard after a minute of load.

All of them use `texts` (what is sent) and `servers` (processes: start, wait, watch, stop). `growth` and `known_answers` are
commands that stand alone.
"""
