"""Files of texts to files of scores: one scorer, driven on this machine or on a Ray cluster."""
