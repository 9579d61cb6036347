"""What to do when a device has too little memory: recognise it, and hand back what is held."""

import gc

import torch

from worker.engine.allocator import give_back_memory


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch means that memory ran out; MPS and the CPU say so only in the message."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def free_memory(device: torch.device) -> None:
    """Gives cached blocks back to the device; call it when the failed step's tensors are gone."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
    else:
        give_back_memory()
