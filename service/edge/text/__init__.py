"""Texts to token ids.

Read `encoder` first; `ascii` shortens the pipeline of most texts, and `windows` cuts long ones.
"""
