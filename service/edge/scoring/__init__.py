"""From the texts of a request to its labelled scores: which model, which worker, how many at a time.

Read `admission` first, then `models`, `scoring`, `dispatch`, `link`, `labelling`. `changes` is how models change while all runs.
"""
