"""Load tests and the benchmark. They speak HTTP to a server in another process; see README.md."""
