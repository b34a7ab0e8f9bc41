"""A workload: conversations by number."""

from benchmarks.workload.dataset import Dataset
from benchmarks.workload.drawn_conversations import DrawnConversations
from benchmarks.workload.options import WorkloadOptions
from benchmarks.workload.turn import Conversation


class Workload:
    """Made-up conversations, or those of a dataset. May be pickled and used by several threads.

    Raises: WorkloadError if the folder or the dataset cannot be used.
    """

    def __init__(self, options: WorkloadOptions) -> None:
        self._conversations: Dataset | DrawnConversations
        if options.dataset is not None:
            self._conversations = Dataset(options.dataset, options.seed, options.output_tokens)
        else:
            self._conversations = DrawnConversations(options)

    @property
    def num_distinct(self) -> int | None:
        """Conversations until one comes again, or a file that was to be new; None for never."""
        return self._conversations.num_distinct

    def conversation(self, index: int) -> Conversation:
        """The same bytes for the same options and index, in every process."""
        return self._conversations.conversation(index)
