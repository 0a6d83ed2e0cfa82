"""Locust's users: each sends one text after another at a pace of its own, and checks what comes back."""

import itertools
import random
import time

from locust import FastHttpUser, task
from locust.exception import StopUser

from load_tests.locust_load.responses import answer_fault, is_refusal
from load_tests.texts import long_text, user_texts

CLIENT_BATCH = 32
# A batch or a long text costs as much as many short ones, so its users send fewer of them.
HEAVY_PACE_SHARE = 1 / 8
LONG_TEXT_WORDS = 350
TEXTS = user_texts(4096)
LONG_TEXTS = [long_text(LONG_TEXT_WORDS, seed=seed) for seed in range(64)]
# The row of Locust's tables that holds the 429s.
REFUSED = "refused (429)"


class ServiceUser(FastHttpUser):
    """Asks `--pace` times a second while answers come faster than that. With a pace of 0 it asks as soon as it is answered."""

    abstract = True
    pace_share = 1.0
    corpus = TEXTS

    def on_start(self) -> None:
        """Users start in different places."""
        first = random.randrange(len(self.corpus))
        self.texts = itertools.cycle([*self.corpus[first:], *self.corpus[:first]])
        self.due_at = time.monotonic()
        key = self.environment.parsed_options.api_key
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}

    def wait_time(self) -> float:
        """Seconds until the next request falls due. The gaps between requests are exponential, as between those of independent
        users. A gap includes the time that the answer took. A user that is late asks at once; missed requests are not made up."""
        rate = self.environment.parsed_options.pace * self.pace_share
        if not rate:
            return 0.0
        now = time.monotonic()
        self.due_at = max(now, self.due_at + random.expovariate(rate))
        return self.due_at - now

    def predict(self, inputs: str | list[str], *, path: str = "/predict", name: str) -> None:
        """One checked request, listed as `name`."""
        with self.client.post(path, json={"inputs": inputs}, headers=self.headers, name=name, catch_response=True) as response:
            if is_refusal(response.status_code, response.headers or {}):
                response.request_meta["name"] = REFUSED
                response.success()
            elif response.status_code != 200:
                response.failure(f"status {response.status_code}: {(response.text or str(response.error))[:120]}")
            elif fault := answer_fault(response.json(), response.headers, inputs):
                response.failure(fault)
            else:
                response.success()


class SingleTextUser(ServiceUser):
    """Asks with one short text a request."""

    weight = 6

    @task
    def single(self) -> None:
        self.predict(next(self.texts), name="one text")


class BatchUser(ServiceUser):
    """A client that collects texts before it asks."""

    weight = 1
    pace_share = HEAVY_PACE_SHARE

    @task
    def batch(self) -> None:
        self.predict([next(self.texts) for _ in range(CLIENT_BATCH)], name=f"{CLIENT_BATCH} texts")


class LongTextUser(ServiceUser):
    """Asks with texts near the models' limit."""

    weight = 1
    pace_share = HEAVY_PACE_SHARE
    corpus = LONG_TEXTS

    @task
    def long(self) -> None:
        self.predict(next(self.texts), name="a long text")


class MixedModelUser(ServiceUser):
    """Asks each served model in turn, by path."""

    weight = 1

    def on_start(self) -> None:
        super().on_start()
        response = self.client.get("/info", headers=self.headers, name="/info")
        if response.status_code != 200:  # counted as a failure already
            raise StopUser
        self.models = itertools.cycle([model["name"] for model in response.json()["models"]])

    @task
    def next_model(self) -> None:
        name = next(self.models)
        self.predict(next(self.texts), path=f"/models/{name}/predict", name=f"one text to {name}")
