"""What an HTTP process tells those who watch it: metrics (`meter`), log (`request_log`, `workers_log`), traces (`tracing`)."""
