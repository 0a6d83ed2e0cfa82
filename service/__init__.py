"""Serves text classifiers over HTTP.

The rooms in reading order:

- `supervisor`: the main process, which starts, replaces and stops all others;
- `edge`: an HTTP process, from the bytes of a connection to the answer;
- `worker`: a worker process, from queued texts to logits;
- `engine`: one model on one device;
- `served`: which models are served, and where their files come from;
- `measure`: commands that measure this machine;
- `client`: the service from Python, which imports none of the others.

The modules beside them are what all processes share. docs/architecture.md follows a request through the rooms.
"""

__version__ = "0.1.0"
