"""From the texts of a request to its labelled scores: which model, which worker, how many at a time."""
