"""What goes wrong in a model: by a text, for want of memory, or so that the process must be replaced."""

import torch

# What a model may raise on a text that it can't take, or that takes more memory than there is. Anything else ends the worker.
FAULTS_OF_TEXTS = (RuntimeError, ValueError, IndexError, TypeError, ArithmeticError, MemoryError)
# How torch's allocator for the CPU says it, with nothing but a RuntimeError.
CPU_OUT_OF_MEMORY = "can't allocate memory"


def is_out_of_memory(error: Exception) -> bool:
    """Whether a smaller batch may help."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or CPU_OUT_OF_MEMORY in str(error)


def cuda_answers() -> bool:
    """False after a CUDA error that sticks; then the process must be replaced."""
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True
