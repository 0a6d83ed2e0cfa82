"""A picture of Grafana's dashboard without Grafana: `picture` makes the load, `panels` draws what Prometheus then knows."""
