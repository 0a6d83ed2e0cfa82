"""How many tokens a batch may hold, while memory may hold fewer than the settings say."""

from service.worker.queue import TextQueue

# The budget is not lowered below this.
LEAST_BATCH_TOKENS = 64
# It is raised after so many batches that filled at least half of it. Each time memory runs out again after a raise, twice as
# many are waited for: where the limit is lasting, few batches meet it.
PATIENCE, MOST_PATIENCE = 32, 4096
# By this share of what it is.
RAISE = 0.25


class TokenBudget:
    """The token budget of a worker's batches, `queue.max_batch_tokens`. It begins at the settings' and never exceeds it."""

    def __init__(self, queue: TextQueue) -> None:
        self._queue = queue
        self._most = queue.max_batch_tokens
        self._patience = PATIENCE
        self._held = 0
        self._was_raised = False

    def ran_out(self, tokens: int) -> None:
        """Lowers the budget, after a batch of so many tokens took more memory than there is."""
        if self._was_raised:
            self._patience = min(2 * self._patience, MOST_PATIENCE)
        self._held, self._was_raised = 0, False
        self._queue.max_batch_tokens = min(self._queue.max_batch_tokens, max(LEAST_BATCH_TOKENS, tokens // 2))

    def held(self, tokens: int) -> bool:
        """Notes a batch of so many tokens that memory held. Whether the budget is higher now."""
        limit = self._queue.max_batch_tokens
        if limit >= self._most or 2 * tokens < limit:
            return False
        self._held += 1
        if self._held < self._patience:
            return False
        self._queue.max_batch_tokens = min(self._most, limit + max(1, round(RAISE * limit)))
        self._held, self._was_raised = 0, True
        return True
