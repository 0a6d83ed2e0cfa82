"""What everyone who scores texts shares: texts to token ids, logits to labelled scores.

Read `encoder` first; `ascii` shortens the pipeline of most texts, and `windows` cuts long ones. `labelling` is the way back.
"""
