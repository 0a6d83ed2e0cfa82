"""Commands that measure this machine, without HTTP."""
