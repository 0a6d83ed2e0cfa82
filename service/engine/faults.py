"""Tells faults of a forward apart: a text's, too little memory, and those after which the process must be replaced."""

import torch

# What a model may raise on a text that it can't take or that needs more memory than there is. Any other error ends the worker.
FAULTS_OF_TEXTS = (RuntimeError, ValueError, IndexError, TypeError, ArithmeticError, MemoryError)
# torch's allocator for the CPU raises a plain RuntimeError with these words when memory runs out.
CPU_OUT_OF_MEMORY = "can't allocate memory"


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, so that a smaller batch may help."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or CPU_OUT_OF_MEMORY in str(error)


def cuda_answers() -> bool:
    """Whether CUDA still works. After an error that sticks it does not, and the process must be replaced."""
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True
