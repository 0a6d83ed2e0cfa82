"""Starts an architecture from the template `template_name`: `python -m models.new NAME`."""
