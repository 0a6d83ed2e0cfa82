"""The load test by Locust: does the service keep its bounds under mixed traffic?

`__main__` starts the service and then Locust, which loads `locustfile`. `scenarios` says who asks and when, `users` send the
requests, `responses` judges each answer, `bounds` judges the whole run.
"""
