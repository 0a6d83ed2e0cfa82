"""What an HTTP process tells those who watch it."""
